"""A film as one file, to carry it to another machine: a zip, stored, that any tool opens (docs/provenance.md).

    manifest.json    how every chunk was made; names the film by its `head`
    film.jsonl       the rows: the same lines as DATA/videos/<id>.jsonl
    blobs/<sha256>   init segments, segments, the memories that are kept, what the film starts from

An import believes nothing: names, sizes and counts are limited, every blob is hashed, and the manifest is worked out from the
rows and compared before anything is kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from st2v_stream.config import POLICIES
from st2v_stream.direction import Direction, Timeline
from st2v_stream.errors import InvalidRequest, NotFound, StoreDamaged
from st2v_stream.store.blobs import Blob, BlobKind
from st2v_stream.store.memories import parts_of
from st2v_stream.store.segments import ChunkRow
from st2v_stream.store.store import FilmRows, Store
from st2v_stream.store.trouble import store_errors
from st2v_stream.store.videos import now_s
from st2v_stream.types import VideoView
from st2v_stream.videos.ids import new_video_id
from st2v_stream.videos.provenance import check_chain, manifest_of
from st2v_stream.videos.video import ACTIVE

MANIFEST, FILM = "manifest.json", "film.jsonl"
MAX_FILES = 1_000_000
MAX_TEXT_BYTES = 512 * 2**20
MAX_BLOB_BYTES = 256 * 2**20
MAX_BUNDLE_BYTES = 64 * 2**30
"""Of one that is sent to a server."""
MAX_TITLE_CHARS = 1000

_NAME = re.compile(r"manifest\.json|film\.jsonl|blobs/[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CODEC = re.compile(r"[A-Za-z0-9.]{1,32}")


async def export_film(store: Store, video_id: str, path: Path, *, overwrite: bool = False) -> int:
    """Write the film to `path`: whole, or not at all; returns the bytes written. What is being made goes up to now.

    Raises `NotFound`, `InvalidRequest` where there is a file already, `StoreDamaged` where a segment is lost, OSError.
    """
    if path.exists() and not overwrite:  # noqa: ASYNC240 - one look at a local file
        raise InvalidRequest(f"{path} exists", expected="a new file name, or --overwrite", param="file")
    part = path.with_name(f".{uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            async with aclosing(bundle_pieces(store, video_id)) as pieces:
                async for piece in pieces:
                    file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return path.stat().st_size  # noqa: ASYNC240


async def bundle_pieces(store: Store, video_id: str) -> AsyncGenerator[bytes, None]:
    """The film's bundle from its first byte to its last, a file in it at a time: a film may be larger than the memory.

    What is being made goes up to now. Raises `NotFound`, `StoreDamaged` where a segment is lost.
    """
    film, outlet, written = await store.film_rows(video_id), _Outlet(), set[str]()
    with zipfile.ZipFile(outlet, "w", zipfile.ZIP_STORED) as bundle:
        for line in film.lines:
            await _leave_out_lost_memory(store, line)
            for sha256 in _blobs_named([line]):
                if sha256 not in written:
                    written.add(sha256)
                    _put(bundle, f"blobs/{sha256}", await store.read_blob(sha256))
                    yield outlet.take()
        for name, text in ((MANIFEST, _manifest_text), (FILM, _film_text)):
            _put(bundle, name, await asyncio.to_thread(text, film))
            yield outlet.take()
    yield outlet.take()


async def import_pieces(store: Store, pieces: AsyncIterator[bytes]) -> VideoView:
    """Take in the film of a bundle that arrives piece by piece: all of it, or nothing. Raises as `import_film`."""
    path = store.tmp / f"{uuid4().hex}.bundle"
    try:
        with store_errors(store.tmp), path.open("xb") as file:
            async for piece in pieces:
                if file.tell() + len(piece) > MAX_BUNDLE_BYTES:
                    expected = f"at most {MAX_BUNDLE_BYTES} bytes"
                    raise InvalidRequest("the bundle is too large", expected=expected, received="more")
                await asyncio.to_thread(file.write, piece)
        return await import_film(store, path, "what was sent")
    finally:
        path.unlink(missing_ok=True)


async def import_film(store: Store, path: Path, name: str | None = None) -> VideoView:
    """Take the film of a bundle in: all of it, or nothing. One that was being made is stopped; `continue` makes more of it.

    It keeps its id, or has a new one where that is taken. name: of the file in errors. Raises `InvalidRequest` for what is no
    whole bundle, `StoreError`.
    """
    name = name or str(path)
    try:
        with zipfile.ZipFile(path) as bundle:
            return await _import(store, bundle, path.stat().st_size)  # noqa: ASYNC240
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise InvalidRequest(f"{name} is no bundle", expected="what st2v export wrote", received=str(error)) from error
    except OSError as error:
        raise InvalidRequest(f"{name} cannot be read", expected="a file", received=error.strerror, param="file") from error


async def _import(store: Store, bundle: zipfile.ZipFile, file_bytes: int) -> VideoView:
    manifest, lines, blobs = await asyncio.to_thread(_read_rows, bundle, file_bytes)
    video_id = await _free_id(store, manifest["id"])

    def check(view: VideoView, rows: Sequence[ChunkRow], version: str | None, reference: str | None) -> None:
        first = view.direction
        assert first is not None, "a row of a video has a direction"
        found = manifest_of(view, rows, Timeline(first), model_version=version, reference_sha256=reference)
        if found["head"] != manifest["head"]:
            raise InvalidRequest("the film is not the manifest's", expected=manifest["head"], received=found["head"])

    try:
        return await store.take_in(video_id, lines, _read_blobs(bundle, blobs), check)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, sqlite3.Error) as error:
        raise InvalidRequest(
            "the bundle's rows cannot be read", expected="what st2v export wrote", received=repr(error)
        ) from error


def _read_rows(bundle: zipfile.ZipFile, file_bytes: int) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, BlobKind]]:
    """The manifest, the rows and the blobs that they name, if they are those of the bundle. Raises `InvalidRequest`."""
    _check_files(bundle.infolist(), file_bytes)
    manifest, lines = json.loads(_text(bundle, MANIFEST)), _lines(_text(bundle, FILM))
    check_chain(manifest)
    blobs = _blobs_named(lines)
    there = {name.removeprefix("blobs/") for name in bundle.namelist() if name.startswith("blobs/")}
    if there != set(blobs):
        wrong = sorted(there ^ set(blobs))
        raise InvalidRequest("the bundle's blobs are not those of its film", expected=f"{len(blobs)} blobs", received=wrong[0])
    _stop(lines)
    return manifest, lines, blobs


# ---------------------------------------------------------------- writing


class _Outlet:
    """What a zip writes into: it may go back within the file it writes now, which is all that is held."""

    def __init__(self) -> None:
        self._begins, self._at, self._held = 0, 0, bytearray()

    def tell(self) -> int:
        return self._begins + self._at

    def seek(self, offset: int) -> int:
        self._at = offset - self._begins
        return offset

    def write(self, data: bytes, /) -> int:
        self._held[self._at : self._at + len(data)] = data
        self._at += len(data)
        return len(data)

    def flush(self) -> None:
        """There is nothing behind it."""

    def close(self) -> None:
        """What was written can still be taken."""

    def take(self) -> bytes:
        """What was written since the last time."""
        taken, self._held = bytes(self._held), bytearray()
        self._begins, self._at = self._begins + len(taken), 0
        return taken


def _manifest_text(film: FilmRows) -> bytes:
    version, reference = film.model_version, film.reference_sha256
    manifest = manifest_of(film.view, film.chunks, film.timeline, model_version=version, reference_sha256=reference)
    return json.dumps(manifest, indent=1).encode()


def _film_text(film: FilmRows) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in film.lines)


async def _leave_out_lost_memory(store: Store, line: dict[str, Any]) -> None:
    """It can be made again from an older one; so can an enhancer's carry."""
    memory = line.get("chunk", {}).get("memory")
    if memory is not None and not await _are_there(store, parts_of(memory)):
        line["chunk"]["memory"] = None
    if not await _are_there(store, _carry_parts(line)):
        line["enhancement"]["after"] = None


async def _are_there(store: Store, hashes: Sequence[str]) -> bool:
    with suppress(NotFound, StoreDamaged):
        for sha256 in hashes:
            await store.read_blob(sha256)
        return True
    return False


def _put(bundle: zipfile.ZipFile, name: str, content: bytes) -> None:
    bundle.writestr(zipfile.ZipInfo(name), content)  # without a time: the same film gives the same bytes


# ---------------------------------------------------------------- reading


def _check_files(files: Sequence[zipfile.ZipInfo], file_bytes: int) -> None:
    """Raise `InvalidRequest` for names, sizes, counts or packing that no export writes."""
    if len(files) > MAX_FILES:
        raise InvalidRequest("the bundle has too many files", expected=f"at most {MAX_FILES}", received=len(files))
    names = [file.filename for file in files]
    for file in files:
        if _NAME.fullmatch(file.filename) is None:
            raise InvalidRequest("no bundle has a file of that name", expected="blobs/<sha256>", received=file.filename)
        if file.compress_type != zipfile.ZIP_STORED or file.flag_bits & 1:
            raise InvalidRequest("the bundle is packed", expected="files that are only stored", received=file.filename)
        limit = MAX_BLOB_BYTES if file.filename.startswith("blobs/") else MAX_TEXT_BYTES
        if file.file_size > limit:
            raise InvalidRequest(f"{file.filename} is too large", expected=f"at most {limit} bytes", received=file.file_size)
    if len(set(names)) != len(names) or sum(file.file_size for file in files) > file_bytes:
        raise InvalidRequest("files of the bundle lie over one another", expected="each once", received=f"{len(names)} names")
    for name in (MANIFEST, FILM):
        if name not in names:
            raise InvalidRequest("this is no bundle", expected=f"a file {name}", received=f"{len(names)} others")


def _text(bundle: zipfile.ZipFile, name: str) -> str:
    try:
        return bundle.read(name).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{name} cannot be read", expected="UTF-8", received=str(error)) from error


def _lines(text: str) -> list[dict[str, Any]]:
    try:
        lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        for line in lines:
            _check_line(line)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidRequest(f"{FILM} cannot be read", expected="rows of a film", received=repr(error)) from error
    if not lines:
        raise InvalidRequest(f"{FILM} is empty", expected="rows of a film", received="none")
    return lines


def _check_line(line: Mapping[str, Any]) -> None:
    """Raise for what would reach a page, a player or a file name and is not of its kind."""
    _require(isinstance(line["seq"], int) and line["kind"] in ("state", "segment", "reset", "cue"), line["kind"])
    _require(isinstance(line["index"], int) and line["index"] >= 0, line["index"])
    segment, view, chunk = line.get("segment"), line.get("view"), line.get("chunk")
    if segment is not None:
        numbers = (segment[name] for name in ("start", "frames", "width", "height", "size_bytes", "index", "revision"))
        _require(all(isinstance(number, int) and number >= 0 for number in numbers), segment)
        _require(bool(_SHA256.fullmatch(segment["hash"]) and _SHA256.fullmatch(segment["init"])), segment)
        _require(bool(_CODEC.fullmatch(segment["codec"])) and segment["rendition"] in ("preview", "enhanced"), segment)
    if view is not None:
        _require(isinstance(view["title"], str) and len(view["title"]) <= MAX_TITLE_CHARS, view["title"])
        _require(isinstance(view["model"], str) and all(isinstance(text, str) for text in view["warnings"]), view)
        _require(view.get("enhance", "none") in POLICIES, view)
        Direction.from_json(view["direction"])
    if "enhancement" in line:
        _require(line["enhancement"]["seen"] >= line["index"] and _are_hashes(_carry_parts(line)), line["index"])
    if chunk is not None:
        Direction.from_json(json.loads(chunk["direction"]))
        _require(chunk["memory"] is None or _are_hashes(parts_of(chunk["memory"])), line["index"])


def _are_hashes(names: Sequence[str]) -> bool:
    return all(_SHA256.fullmatch(name) for name in names)


def _require(holds: bool, received: object) -> None:
    if not holds:
        raise ValueError(str(received)[:200])


def _blobs_named(lines: Sequence[Mapping[str, Any]]) -> dict[str, BlobKind]:
    """Every blob that the rows name, by its hash, in their order."""
    named = dict[str, BlobKind]()
    for line in lines:
        if line.get("reference") is not None:
            named[line["reference"]] = "input"
        if line["kind"] == "segment":
            named |= {line["segment"]["init"]: "init", line["segment"]["hash"]: "segment"}
        memory = line.get("chunk", {}).get("memory")
        if memory is not None:
            named |= dict.fromkeys(parts_of(memory), "memory")
        named |= dict.fromkeys(_carry_parts(line), "memory")
    return named


def _carry_parts(line: Mapping[str, Any]) -> list[str]:
    """sha256 of the blobs that an enhancer's carry in this line is made of."""
    after = line.get("enhancement", {}).get("after")
    return [] if after is None else parts_of(after["carry"])


def _read_blobs(bundle: zipfile.ZipFile, blobs: Mapping[str, BlobKind]) -> Iterator[Blob]:
    """One at a time. Raises `InvalidRequest` for one that is not what its name says."""
    for sha256, kind in blobs.items():
        blob = Blob.of(kind, bundle.read(f"blobs/{sha256}"))
        if blob.sha256 != sha256:
            raise InvalidRequest("a blob of the bundle is damaged", expected=sha256, received=blob.sha256)
        yield blob


def _stop(lines: list[dict[str, Any]]) -> None:
    """A film that was being made is stopped here: nothing begins to work by being carried in, no enhancer either."""
    last = next((line for line in reversed(lines) if line["kind"] == "state"), None)
    if last is not None and last["view"].get("enhance") in ("all", "idle"):
        last["view"]["enhance"] = "none"
    if last is None or last["view"]["state"] not in ACTIVE:
        return
    seq = lines[-1]["seq"] + 1
    ended = {"state": "stopped", "ended_by": "stopped", "completed_at_s": now_s(), "paused_reason": None, "seq": seq}
    chunks = [line["segment"] for line in lines if "chunk" in line]
    made = {"chunks": len(chunks), "frames": sum(segment["frames"] for segment in chunks)}
    lines.append({"seq": seq, "kind": "state", "index": last["index"], "view": {**last["view"], **made, **ended}})


async def _free_id(store: Store, wanted: object) -> str:
    """The film's own id, or a new one where a film of that id is or was here."""
    if not isinstance(wanted, str) or _VIDEO_ID.fullmatch(wanted) is None:
        raise InvalidRequest("the manifest names no film", expected="an id", received=wanted, param="id")
    return new_video_id() if await store.is_known(wanted) else wanted
