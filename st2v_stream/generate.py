"""`st2v generate`: one film into one file, without a server. The MP4 plays while it grows and is seekable at the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import re
import time
import unicodedata
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO
from uuid import uuid4

from st2v_stream.chunk import Chunk, StreamSpec
from st2v_stream.direction import Timeline
from st2v_stream.errors import InvalidRequest, StoreError, StoreFull
from st2v_stream.media.encode import encode_segment
from st2v_stream.media.remux import progressive_mp4
from st2v_stream.media.segment import EncodeSpec
from st2v_stream.streaming.autoregressive import StopSignal, stream_chunks
from st2v_stream.streaming.enhance import enhance_chunks
from st2v_stream.streaming.prefetch import prefetch
from st2v_stream.streaming.worker import ThreadWorker
from st2v_stream.types import Enhancer, Generator, Reference, Rendition

_RECENT_CHUNKS = 8
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_STEM_BYTES = 100
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789¹²³")}


class FilmFile:
    """An MP4 that grows: a fragmented file that any player opens at any moment, remuxed once it is whole.

    `with FilmFile(...) as film` finishes it at the end of the block. title: None = what the first chunk was prompted with.
    rendition: preview, or enhanced: chunks of the enhancer's size. num_frames: where the film ends (None: with its last
    chunk). metadata: comment and the like, written when it is whole. numbered: where the name is taken, `name_2.mp4` and
    so on; the folder is made if it is not there. Memory does not grow with the film.

    Refuses early, before anything is computed, what would fail at the end: an existing file, a missing or read-only folder.
    """

    def __init__(
        self,
        path: Path | str,
        spec: StreamSpec,
        *,
        title: str | None = None,
        overwrite: bool = False,
        num_frames: int | None = None,
        metadata: Mapping[str, str] | None = None,
        numbered: bool = False,
        rendition: Rendition = "preview",
    ) -> None:
        path = Path(path)
        if path.is_dir() and not numbered:
            raise InvalidRequest(f"{path} is a folder", expected="the name of a file", param="output")
        if path.exists() and not (overwrite or numbered):
            raise InvalidRequest(f"{path} exists", expected="a new file name, or --overwrite", param="output")
        _check_folder(path.parent, may_be_made=numbered)
        self.path = path
        self._overwrite, self._numbered = overwrite, numbered
        self._num_frames, self._frames = num_frames, 0
        self._metadata = ({} if title is None else {"title": title}) | dict(metadata or {})
        EncodeSpec.for_stream(spec)  # says at once what it cannot encode
        self._spec, self._rendition = spec, rendition
        self._file: IO[bytes] | None = None
        self._segment_bytes: list[int] = []
        self._init_bytes = 0

    def __enter__(self) -> FilmFile:
        """Nothing is written before the first chunk."""
        return self

    def __exit__(self, *_: object) -> None:
        """What was appended is kept, whatever happened."""
        self.finish()

    def append(self, chunk: Chunk) -> int:
        """Encode the chunk and write it through to the disk; returns how many of its frames belong to the film.

        On a full disk the file ends with the last whole chunk.
        """
        kept = self._cut(chunk)
        if not len(kept.frames):
            return 0
        self._metadata.setdefault("title", chunk.direction.prompt)
        height, width = kept.frames.shape[1:3]
        stream = replace(self._spec, width=width, height=height)
        segment = encode_segment(kept, EncodeSpec.for_stream(stream, self._rendition))
        whole_bytes = self._init_bytes + sum(self._segment_bytes)
        try:
            if self._file is None:
                self._file = self._open()
                self._write(segment.init)
                self._init_bytes = len(segment.init)
            self._write(segment.data)
            os.fsync(self._file.fileno())
        except OSError as error:
            if self._file is not None:
                self._file.truncate(whole_bytes)
            kind = StoreFull if error.errno in _NO_SPACE else StoreError
            raise kind(f"cannot write {self.path}", expected="space and permission", received=error.strerror) from error
        self._segment_bytes.append(len(segment.data))
        self._frames += segment.frames
        return segment.frames

    def _cut(self, chunk: Chunk) -> Chunk:
        """The chunk as far as the film goes: models make whole chunks, people ask for any number of frames."""
        left = len(chunk.frames) if self._num_frames is None else self._num_frames - self._frames
        return chunk if left >= len(chunk.frames) else replace(chunk, frames=chunk.frames[: max(0, left)])

    def _open(self) -> IO[bytes]:
        """Claims the name, or the next free one: another process may have taken it while the model was loading."""
        if self._overwrite:
            return self.path.open("wb", buffering=0)
        if not self._numbered:
            return self.path.open("xb", buffering=0)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        names = itertools.chain([self.path], (self.path.with_stem(f"{self.path.stem}_{n}") for n in itertools.count(2)))
        for path in names:
            with contextlib.suppress(FileExistsError):
                file = path.open("xb", buffering=0)
                self.path = path
                return file
        raise AssertionError("unreachable: numbers do not end")

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
        if not self._segment_bytes:
            self.path.unlink()
            return
        part = self.path.with_name(f".{self._short_stem}.{uuid4().hex}.part")
        try:
            with self.path.open("rb") as file:
                init = file.read(self._init_bytes)
                segments = (file.read(size) for size in self._segment_bytes)
                progressive_mp4(init, segments, part, metadata=self._metadata)
            part.replace(self.path)
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
        finally:
            part.unlink(missing_ok=True)

    @property
    def _short_stem(self) -> str:
        """Temporary names are longer than the film's: file systems end at 255 bytes."""
        return self.path.stem[:20]


def _check_folder(folder: Path, *, may_be_made: bool) -> None:
    """Raise `InvalidRequest` unless files can be written there (after making it, if it may be made)."""
    nearest = folder
    while may_be_made and not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        expected = "a folder" if may_be_made else "an existing folder"
        raise InvalidRequest("the output folder does not exist", expected=expected, received=str(nearest), param="output")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InvalidRequest(
            "the output folder is read-only", expected="a writable folder", received=str(nearest), param="output"
        )


def file_stem(prompt: str) -> str:
    """A file name without its ending that says what the prompt says, whatever the prompt.

    Letters and digits of every script are kept, everything else becomes `_`; at most 100 bytes, so that a number and an
    ending fit; no name that Windows keeps for devices; `film` if nothing is left.
    """
    text = unicodedata.normalize("NFC", prompt)
    kept = "".join(c if unicodedata.category(c)[0] in "LNM" else "_" for c in text)
    short = kept.encode(errors="ignore")[:_STEM_BYTES].decode(errors="ignore")
    stem = re.sub("_+", "_", short).strip("_")
    if stem.upper() in _DEVICES:
        return f"{stem}_film"
    return stem or "film"


@dataclass(frozen=True)
class Sharpening:
    """How a film is made sharp: what loads the enhancer, and what it should not show (None: the chunk's negative prompt)."""

    load: Callable[[], Enhancer]
    negative_prompt: str | None = None


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
    sharpening: Sharpening | None = None,
) -> int:
    """Load the generator, make the film into `film`; returns the number of frames in the file.

    reference: the image or clip it starts from (`media.reference.read_reference_file`). sharpening: the file gets the
    enhanced film, some frames behind the one that is made; stopped, it ends with what is sharp.
    `report` gets one line per denoising step, or one per chunk. The next chunk is made while the last one is encoded.
    """
    worker = ThreadWorker("generate")
    frames = 0
    try:
        report("loading the model")
        generator = await worker.run(load)
        enhancer = None if sharpening is None else await worker.run(sharpening.load)
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
        if enhancer is not None and sharpening is not None:
            made = _sharp_chunks(made, enhancer, sharpening.negative_prompt, worker, stop, meter)
        async with aclosing(prefetch(made, depth=1)) as chunks:
            async for chunk in chunks:
                frames += await asyncio.to_thread(film.append, chunk)
                meter.chunk_done(chunk)
    finally:
        await worker.aclose()
        film.finish()
    return frames


async def _sharp_chunks(
    made: AsyncGenerator[Chunk, None],
    enhancer: Enhancer,
    negative_prompt: str | None,
    worker: ThreadWorker,
    stop: StopSignal,
    meter: _Meter,
) -> AsyncGenerator[Chunk, None]:
    """Each chunk once: those at the end, which the stage calls provisional, are the last of this film. Closes `made`."""

    async def directed() -> AsyncGenerator[Chunk, None]:
        async for chunk in made:
            said = chunk.direction.negative_prompt if negative_prompt is None else negative_prompt
            yield replace(chunk, direction=replace(chunk.direction, negative_prompt=said))

    preview = directed()
    sharp = enhance_chunks(enhancer, preview, worker=worker, stop=stop, on_step=meter.sharp_step)
    async with aclosing(made), aclosing(preview), aclosing(sharp):
        async for each in sharp:
            yield each.chunk


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

    def sharp_step(self, index: int, step: int, steps: int) -> None:
        if step == steps or self._every_step:
            self._report(f"up to chunk {index + 1} of {self._chunks}: sharpening, step {step} of {steps}")

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
