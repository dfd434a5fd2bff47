"""A film as one file: a snapshot of what exists, as a seekable MP4 in a small cache on disk, answered with ETag and ranges."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from st2v_stream.delivery.film import Film
from st2v_stream.errors import StoreError, StoreFull
from st2v_stream.media.remux import progressive_mp4
from st2v_stream.types import Director

IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATE = "private, no-cache"
_NO_SPACE = 28


class MovieCache:
    """Films as MP4 files in `folder`, named by what is in them; the `max_files` last used are kept.

    A film is assembled once however many ask for it; its segments pass through memory one at a time.
    """

    def __init__(self, director: Director, folder: Path, *, max_files: int = 8) -> None:
        self._director = director
        self._folder = folder
        self._max_files = max_files
        self._assembling: dict[str, asyncio.Task[Path]] = {}

    async def path(self, film: Film) -> Path:
        """The film as an MP4. Raises `StoreError` when it cannot be written."""
        etag = film_etag(film)
        task = self._assembling.get(etag)
        if task is None:
            task = asyncio.create_task(self._find_or_assemble(film, self._folder / f"{etag}.mp4"))
            self._assembling[etag] = task
            task.add_done_callback(lambda _: self._assembling.pop(etag, None))
        return await asyncio.shield(task)

    async def _find_or_assemble(self, film: Film, path: Path) -> Path:
        loop = asyncio.get_running_loop()

        def read(sha256: str) -> bytes:
            return asyncio.run_coroutine_threadsafe(self._director.read_blob(sha256), loop).result()

        def find_or_assemble() -> None:
            if path.is_file():
                os.utime(path)
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            payloads: Iterator[bytes] = (read(segment.hash) for segment in film.segments)
            metadata = {"title": film.view.title, "comment": film.view.prompt}
            progressive_mp4(read(film.segments[0].init), payloads, path, metadata)
            self._forget_oldest()

        try:
            await asyncio.to_thread(find_or_assemble)
        except OSError as error:
            kind = StoreFull if error.errno == _NO_SPACE else StoreError
            raise kind("the file cannot be written", expected="space and permission", received=error.strerror) from error
        return path

    def _forget_oldest(self) -> None:
        files = sorted(self._folder.glob("*.mp4"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[self._max_files :]:
            file.unlink(missing_ok=True)


def film_etag(film: Film) -> str:
    """Names what the file holds: the same segments under the same title give the same file."""
    said = "\n".join([film.view.title, film.view.prompt, *(segment.hash for segment in film.segments)])
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def movie_response(request: Request, film: Film, path: Path) -> Response:
    """The file, a range of it, or 304."""
    etag = f'"{film_etag(film)}"'
    headers = {"ETag": etag, "Cache-Control": REVALIDATE, "Content-Disposition": content_disposition(film.view.title, "mp4")}
    if is_current(request, etag):
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type="video/mp4", headers=headers)


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
