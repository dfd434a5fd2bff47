"""`st2v generate`: one film into one file, without a server. The MP4 plays while it grows and is seekable at the end."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import IO

from st2v_stream.chunk import Chunk, StreamSpec
from st2v_stream.direction import Timeline
from st2v_stream.errors import InvalidRequest, StoreError, StoreFull
from st2v_stream.media.encode import encode_segment
from st2v_stream.media.remux import progressive_mp4
from st2v_stream.media.segment import EncodeSpec, Segment
from st2v_stream.streaming.autoregressive import StopSignal, stream_chunks
from st2v_stream.streaming.prefetch import prefetch
from st2v_stream.streaming.worker import ThreadWorker
from st2v_stream.types import Generator, Reference

_RECENT_CHUNKS = 8
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class FilmFile:
    """An MP4 that grows: a fragmented file that any player opens at any moment, remuxed once it is whole.

    Refuses early, before anything is computed, what would fail at the end: an existing file, a missing or read-only folder.
    """

    def __init__(self, path: Path, spec: StreamSpec, *, title: str, overwrite: bool = False) -> None:
        if path.exists() and not overwrite:
            raise InvalidRequest(f"{path} exists", expected="a new file name, or --overwrite", param="output")
        if path.is_dir():
            raise InvalidRequest(f"{path} is a folder", expected="the name of a file", param="output")
        if not path.parent.is_dir():
            raise InvalidRequest("the output folder does not exist", expected="an existing folder", received=str(path.parent))
        if not os.access(path.parent, os.W_OK):
            raise InvalidRequest("the output folder is read-only", expected="a writable folder", received=str(path.parent))
        self._path = path
        self._title = title
        self._encode_spec = EncodeSpec.for_stream(spec, "preview")
        self._file: IO[bytes] | None = None
        self._segments: list[Segment] = []
        self._whole_bytes = 0

    def append(self, chunk: Chunk) -> None:
        """Encode the chunk and write it through to the disk. On a full disk the file ends with the last whole chunk."""
        segment = encode_segment(chunk, self._encode_spec)
        try:
            if self._file is None:
                self._file = self._path.open("wb", buffering=0)
                self._write(segment.init)
            self._write(segment.data)
            os.fsync(self._file.fileno())
        except OSError as error:
            if self._file is not None:
                self._file.truncate(self._whole_bytes)
            kind = StoreFull if error.errno in _NO_SPACE else StoreError
            raise kind(f"cannot write {self._path}", expected="space and permission", received=error.strerror) from error
        self._whole_bytes = self._file.tell()
        self._segments.append(segment)

    def _write(self, content: bytes) -> None:
        assert self._file is not None
        if self._file.write(content) != len(content):  # an unbuffered file takes what fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def finish(self) -> None:
        """Replace the fragmented file by one seekable MP4 (temp file beside it, then rename).

        Where that does not fit on the disk, the fragmented file stays: it plays, only seeking is slower.
        """
        if self._file is None:
            return
        self._file.close()
        if not self._segments:
            self._path.unlink()
            return
        part = self._path.with_name(self._path.name + ".part")
        try:
            progressive_mp4(self._segments[0].init, [s.data for s in self._segments], part, metadata={"title": self._title})
            part.replace(self._path)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
        finally:
            part.unlink(missing_ok=True)


async def save_film(
    load: Callable[[], Generator],
    timeline: Timeline,
    num_frames: int,
    film: FilmFile,
    *,
    stop: StopSignal,
    report: Callable[[str], None],
    every_step: bool = True,
    reference: Reference | None = None,
) -> int:
    """Load the generator, make the film into `film`; returns the number of frames made.

    reference: the image or clip it starts from (`media.reference.read_reference_file`).
    `report` gets one line per denoising step, or one per chunk. The next chunk is made while the last one is encoded.
    """
    worker = ThreadWorker("generate")
    frames = 0
    try:
        report("loading the model")
        generator = await worker.run(load)
        meter = _Meter(generator.spec, num_frames, report, every_step=every_step)
        made = stream_chunks(
            generator,
            timeline,
            num_frames=num_frames,
            worker=worker,
            reference=reference,
            on_step=meter.step,
            stop=stop,
        )
        async with aclosing(prefetch(made, depth=1)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(film.append, chunk)
                frames += len(chunk.frames)
                meter.chunk_done(chunk)
    finally:
        await worker.aclose()
        film.finish()
    return frames


class _Meter:
    """One line of progress: chunk, step, frames per second over the last chunks, time left."""

    def __init__(self, spec: StreamSpec, num_frames: int, report: Callable[[str], None], *, every_step: bool) -> None:
        self._spec = spec
        self._every_step = every_step
        self._chunks = spec.chunks_for(num_frames)
        self._report = report
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT_CHUNKS)
        self._since = time.perf_counter()

    def chunk_done(self, chunk: Chunk) -> None:
        now = time.perf_counter()
        self._recent.append((len(chunk.frames), now - self._since))
        self._since = now

    def step(self, index: int, step: int, steps: int) -> None:
        if step < steps and not self._every_step:
            return
        line = f"chunk {index + 1} of {self._chunks}, step {step} of {steps}"
        recent = tuple(self._recent)  # chunks are counted on the event loop, steps on the worker's thread
        if recent:
            frames_per_second = sum(f for f, _ in recent) / sum(s for _, s in recent)
            left = (self._chunks - index) * self._spec.chunk_frames / frames_per_second
            line += (
                f", {frames_per_second:.1f} frames/s ({frames_per_second / self._spec.fps:.1f}x real time), {left:.0f} s left"
            )
        self._report(line)
