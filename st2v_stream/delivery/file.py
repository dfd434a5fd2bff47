"""A film as one file: a snapshot of what exists, as a seekable MP4 in a small cache on disk, answered with ETag and ranges."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from st2v_stream.delivery.film import Film
from st2v_stream.errors import StoreError, StoreFull
from st2v_stream.media.remux import progressive_mp4
from st2v_stream.types import Director

logger = logging.getLogger(__name__)

IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATE = "private, no-cache"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class MovieCache:
    """Films as MP4 files `<video id>.<etag>.mp4` in `folder`: the newest of each video, the `max_files` last used.

    A film is assembled once however many ask for it; its segments pass through memory one at a time. A file that is lent
    stays until it is given back. Files are removed on the event loop only, so none goes between being lent and being read.
    """

    def __init__(self, director: Director, folder: Path, *, max_files: int = 8) -> None:
        self._director = director
        self._folder = folder
        self._max_files = max_files
        self._assembling: dict[Path, asyncio.Task[None]] = {}
        self._lent: Counter[Path] = Counter()
        self._doomed: set[Path] = set()

    @asynccontextmanager
    async def lend(self, film: Film) -> AsyncIterator[Path]:
        """The film as an MP4 that is there as long as it is lent. Raises `StoreError` when it cannot be written."""
        path = self._folder / f"{film.view.id}.{film_etag(film)}.mp4"
        with self._kept(path):
            task = self._assembling.get(path)
            if task is None:
                task = asyncio.create_task(self._find_or_assemble(film, path))
                self._assembling[path] = task
                task.add_done_callback(lambda _: self._assembling.pop(path, None))
            await asyncio.shield(task)
            yield path

    def forget(self, video_id: str) -> None:
        """The video is gone: remove its files, those that are lent as soon as they are given back."""
        for path in {*self._folder.glob(f"{video_id}.*.mp4"), *self._lent}:
            if path.name.startswith(f"{video_id}."):
                self._remove(path)

    async def _find_or_assemble(self, film: Film, path: Path) -> None:
        with self._kept(path):
            if await self._assemble_if_missing(film, path):
                self._forget_older(film.view.id, path)

    async def _assemble_if_missing(self, film: Film, path: Path) -> bool:
        """Whether it was missing."""
        loop = asyncio.get_running_loop()

        def read(sha256: str) -> bytes:
            return asyncio.run_coroutine_threadsafe(self._director.read_blob(sha256), loop).result()

        def assemble_if_missing() -> bool:
            if path.is_file():
                os.utime(path)
                return False
            self._folder.mkdir(parents=True, exist_ok=True)
            payloads: Iterator[bytes] = (read(segment.hash) for segment in film.segments)
            manifest = asyncio.run_coroutine_threadsafe(self._director.manifest(film.view.id), loop).result()
            metadata = {"title": film.view.title, "comment": film_record(film, manifest)}
            progressive_mp4(read(film.segments[0].init), payloads, path, metadata)
            return True

        try:
            return await asyncio.to_thread(assemble_if_missing)
        except OSError as error:
            kind = StoreFull if error.errno in _NO_SPACE else StoreError
            raise kind("the file cannot be written", expected="space and permission", received=error.strerror) from error

    @contextmanager
    def _kept(self, path: Path) -> Iterator[None]:
        self._lent[path] += 1
        try:
            yield
        finally:
            self._lent[path] -= 1
            if not self._lent[path]:
                del self._lent[path]
                if path in self._doomed:
                    self._doomed.remove(path)
                    self._remove(path)

    def _forget_older(self, video_id: str, newest: Path) -> None:
        files = sorted(self._folder.glob("*.mp4"), key=lambda file: file.stat().st_mtime, reverse=True)
        for place, file in enumerate(files):
            if place >= self._max_files or (file != newest and file.name.startswith(f"{video_id}.")):
                self._remove(file)

    def _remove(self, path: Path) -> None:
        if path in self._lent:
            self._doomed.add(path)
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s stays on the disk: %s", path, error)


def film_record(film: Film, manifest: Mapping[str, Any]) -> str:
    """What the file says about itself, as JSON: its prompt, and which manifest vouches for it (docs/provenance.md).

    manifest_head: hash of the manifest's entry of the file's last chunk, null where that was made anew meanwhile.
    """
    view, chunks = film.view, len(film.segments)
    entries = [entry for entry in manifest["chunks"][chunks - 1 : chunks] if entry["frames"] == film.segments[-1].frames]
    shown = {entry["segment_sha256"] for entry in entries}
    is_current = film.segments[-1].rendition != "preview" or film.segments[-1].hash in shown
    record = {
        "prompt": view.prompt,
        "video": view.id,
        "model": view.model,
        "preset": view.preset,
        "seed": view.seed,
        "chunks": chunks,
        "rendition": film.segments[-1].rendition,
        "manifest_head": entries[0]["hash"] if entries and is_current else None,
    }
    return json.dumps(record, ensure_ascii=False)


def film_etag(film: Film) -> str:
    """Names what the file holds: the same segments under the same title give the same file."""
    said = "\n".join([film.view.title, film.view.prompt, *(segment.hash for segment in film.segments)])
    return hashlib.sha256(said.encode()).hexdigest()[:32]


class _LentFile(FileResponse):
    """A file of the cache, given back when it is sent or the asker has left."""

    def __init__(self, path: Path, lent: AsyncExitStack, headers: dict[str, str]) -> None:
        super().__init__(path, media_type="video/mp4", headers=headers)
        self._lent = lent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._lent:
            await super().__call__(scope, receive, send)


async def movie_response(request: Request, film: Film, movies: MovieCache) -> Response:
    """The file, a range of it, or 304 without making the file. Raises `StoreError` when it cannot be written."""
    etag = f'"{film_etag(film)}"'
    headers = {"ETag": etag, "Cache-Control": REVALIDATE, "Content-Disposition": content_disposition(film.view.title, "mp4")}
    if is_current(request, etag):
        return Response(status_code=304, headers=headers)
    lent = AsyncExitStack()
    return _LentFile(await lent.enter_async_context(movies.lend(film)), lent, headers)


def is_current(request: Request, etag: str) -> bool:
    """Whether the asker already has this version (If-None-Match)."""
    known = request.headers.get("if-none-match", "")
    return known == "*" or etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]


def content_disposition(title: str, suffix: str) -> str:
    """Download under a name made from the title: plain ASCII for old programs, the whole title in UTF-8 beside it."""
    readable = re.sub(r"[^\w -]+", " ", unicodedata.normalize("NFC", title))
    readable = re.sub(r"\s+", " ", readable).strip()[:80] or "video"
    ascii_name = unicodedata.normalize("NFKD", readable).encode("ascii", "ignore").decode().strip() or "video"
    return f"attachment; filename=\"{ascii_name}.{suffix}\"; filename*=UTF-8''{quote(readable)}.{suffix}"
