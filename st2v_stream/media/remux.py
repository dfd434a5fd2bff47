"""Segments as files for downloads, without encoding again: a growing fragmented MP4, or a whole seekable one."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from uuid import uuid4

from st2v_stream.errors import InvalidRequest
from st2v_stream.media.boxes import DamagedMedia, Fragment, Track, box, full_box, movie, read_init, read_segment

_METADATA_ATOMS = {"title": "\xa9nam", "artist": "\xa9ART", "comment": "\xa9cmt", "date": "\xa9day", "encoder": "\xa9too"}
_32_BIT = 2**32


def fragmented_file(init: bytes, segments: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces of a file that can be played while it grows: the init segment, then every segment as it comes."""
    yield init
    yield from segments


def progressive_mp4(init: bytes, segments: Iterable[bytes], path: Path, metadata: Mapping[str, str] | None = None) -> int:
    """Write one seekable MP4, its index first (faststart), and return its number of frames.

    Segments must follow each other; the file begins at the first one. metadata: any of title, artist, comment, date,
    encoder. Memory does not grow with the pictures (they pass through a temporary file beside `path`); `path` appears
    whole or not at all. Raises `InvalidRequest` or `DamagedMedia`.
    """
    track, tags = read_init(init), _metadata(metadata or {})
    index = _SampleIndex()
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}.part")
    with tempfile.TemporaryFile(dir=path.parent) as pictures:
        for segment in segments:
            fragment = read_segment(segment)
            index.add(fragment)
            pictures.writelines(sample.data for sample in fragment.samples)
        try:
            with unfinished.open("wb") as file:
                _write_file(file, _head(track, index, tags), pictures)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    return len(index.sizes)


@dataclass
class _SampleIndex:
    """What the sample tables say: one entry per frame, and one per segment (a `chunk` in the words of the format)."""

    durations: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)  # sample numbers, from 1
    chunk_frames: list[int] = field(default_factory=list)
    chunk_offsets: list[int] = field(default_factory=list)  # from the first picture
    payload_bytes: int = 0
    end: int | None = None  # ticks

    def add(self, fragment: Fragment) -> None:
        """Append a segment. Raises `DamagedMedia` unless it begins where the one before ended."""
        if self.end is not None and fragment.start != self.end:
            raise DamagedMedia(
                "segments do not follow each other", expected=f"start {self.end}", received=f"start {fragment.start}"
            )
        first_number = len(self.sizes) + 1
        self.keys += [number for number, sample in enumerate(fragment.samples, first_number) if sample.is_key]
        self.durations += [sample.duration for sample in fragment.samples]
        self.sizes += [len(sample.data) for sample in fragment.samples]
        self.chunk_frames.append(len(fragment.samples))
        self.chunk_offsets.append(self.payload_bytes)
        self.payload_bytes += sum(len(sample.data) for sample in fragment.samples)
        self.end = fragment.end


def _head(track: Track, index: _SampleIndex, tags: bytes) -> bytes:
    """Everything before the first picture: ftyp, moov, and the header of mdat."""
    if not index.sizes:
        raise InvalidRequest("an empty film cannot be written", expected="at least one segment", received="none")
    ftyp = box("ftyp", b"isom", struct.pack(">I", 0x200), b"isomiso2avc1mp41")
    mdat = _mdat_header(index.payload_bytes)

    def moov(first_picture: int) -> bytes:
        tables = _tables(index, first_picture)
        return movie(track, duration=sum(index.durations), tables=tables, extra=tags)

    head_bytes = len(ftyp) + len(moov(0)) + len(mdat)
    return ftyp + moov(head_bytes) + mdat


def _tables(index: _SampleIndex, first_picture: int) -> bytes:
    """stts, stss, stsc, stsz and stco (co64 where 32 bits may not reach)."""
    durations = [(len(list(run)), duration) for duration, run in itertools.groupby(index.durations)]
    runs = [(number, frames, 1) for number, frames in _changes(index.chunk_frames)]
    offsets = [first_picture + offset for offset in index.chunk_offsets]
    is_large = index.payload_bytes + 32 * len(index.sizes) + 2**20 >= _32_BIT  # the head is smaller than the second part
    return b"".join(
        (
            _table("stts", ">II", durations),
            _table("stss", ">I", [(number,) for number in index.keys]),
            _table("stsc", ">III", runs),
            full_box("stsz", 0, 0, struct.pack(f">II{len(index.sizes)}I", 0, len(index.sizes), *index.sizes)),
            _table("co64" if is_large else "stco", ">Q" if is_large else ">I", [(offset,) for offset in offsets]),
        )
    )


def _table(kind: str, layout: str, rows: Sequence[tuple[int, ...]]) -> bytes:
    return full_box(kind, 0, 0, struct.pack(">I", len(rows)), *(struct.pack(layout, *row) for row in rows))


def _changes(values: list[int]) -> list[tuple[int, int]]:
    """(number from 1, value) wherever the value differs from the one before."""
    return [(number, value) for number, value in enumerate(values, 1) if number == 1 or value != values[number - 2]]


def _mdat_header(payload_bytes: int) -> bytes:
    if payload_bytes + 8 < _32_BIT:
        return struct.pack(">I4s", payload_bytes + 8, b"mdat")
    return struct.pack(">I4sQ", 1, b"mdat", payload_bytes + 16)


def _metadata(metadata: Mapping[str, str]) -> bytes:
    """The udta box that players show, empty bytes for no metadata."""
    unknown = set(metadata) - set(_METADATA_ATOMS)
    if unknown:
        raise InvalidRequest("unknown metadata", expected=", ".join(_METADATA_ATOMS), received=", ".join(sorted(unknown)))
    if not metadata:
        return b""
    utf8 = struct.pack(">II", 1, 0)
    tags = [box(_METADATA_ATOMS[name], box("data", utf8, value.encode())) for name, value in metadata.items()]
    hdlr = full_box("hdlr", 0, 0, bytes(4), b"mdirappl", bytes(9))
    return box("udta", full_box("meta", 0, 0, hdlr, box("ilst", *tags)))


def _write_file(file: IO[bytes], head: bytes, pictures: IO[bytes]) -> None:
    file.write(head)
    pictures.seek(0)
    shutil.copyfileobj(pictures, file, 2**20)
    file.flush()
    os.fsync(file.fileno())
