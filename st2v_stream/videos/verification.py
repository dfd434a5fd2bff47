"""Chunks made again, to see whether they come out as they were: the frames are compared, before the encoder.

Within one determinism class every bit has to be the same. Across classes nothing is promised, so what is different there is
said to be made elsewhere, not wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from st2v_stream.chunk import Chunk, Memory
from st2v_stream.direction import Timeline
from st2v_stream.errors import InvalidRequest, NotFound, StoreDamaged
from st2v_stream.store.determinism import determinism_class, differences
from st2v_stream.store.segments import ChunkRow
from st2v_stream.store.store import Store
from st2v_stream.streaming.autoregressive import stream_chunks
from st2v_stream.types import Generator, Worker

Verdict = Literal["same", "different", "another class", "unknown"]
"""same: every bit of the frames. different: not, although made in the same class. another class: not, and what it was made
with is not what is here. unknown: what it was made from is lost, and could not be made again."""

PRIORITY = 10
"""Films come first: between two denoising steps a verification makes room for them."""


class CheckedChunkJson(TypedDict):
    """A chunk that was made again. class_differences: by name [then, now] (docs/durability.md); empty in the same class."""

    index: int
    verdict: Verdict
    frames_sha256: str
    made_frames_sha256: str | None
    class_differences: dict[str, list[Any]]
    making_s: float


@dataclass(frozen=True, slots=True)
class CheckedChunk:
    """A chunk that was made again; made_sha256 is None where it could not be."""

    index: int
    verdict: Verdict
    frames_sha256: str
    made_sha256: str | None = None
    class_differences: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    making_s: float = 0.0

    def to_json(self) -> CheckedChunkJson:
        """Plain values."""
        return {
            "index": self.index,
            "verdict": self.verdict,
            "frames_sha256": self.frames_sha256,
            "made_frames_sha256": self.made_sha256,
            "class_differences": {name: list(pair) for name, pair in self.class_differences.items()},
            "making_s": self.making_s,
        }


def check_range(first: int, last: int | None, chunks: int) -> range:
    """The chunks `first` to `last`, both included (None = to the end). Raises `InvalidRequest`."""
    end = chunks - 1 if last is None else last
    if not 0 <= first <= end < chunks:
        expected = f"first <= last, from 0 to {chunks - 1}" if chunks else "a film with a chunk or more"
        raise InvalidRequest("there are no such chunks", expected=expected, received=f"{first}..{end}", param="chunks")
    return range(first, end + 1)


async def check_chunks(
    store: Store, generator: Generator, video_id: str, chunks: range, worker: Worker, *, priority: int = PRIORITY
) -> AsyncGenerator[CheckedChunk, None]:
    """Make these chunks again, with the Direction that each was made with, and compare each as soon as it is made.

    Each begins from the memory that is kept of the one before; where none is, from the one made again, so up to seven chunks
    before the first are made too. Raises `InvalidRequest` where the model is not the film's, `NotFound`.
    """
    spec = (await store.view(video_id)).spec
    if generator.spec != spec:
        raise InvalidRequest("this model makes other films", expected=spec, received=generator.spec, param="model")
    memory = await store.memory_before(video_id, chunks[0])
    begin = 0 if memory is None else memory.next_index
    now = determinism_class(generator)
    made: Chunk | None = None
    for row in await store.chunks(video_id, begin, chunks[-1]):
        try:
            before = await _memory_before(store, video_id, row.index, made)
        except NotFound:
            made = None
            checked = CheckedChunk(row.index, "unknown", row.frames_sha256)
        else:
            made = await _make(store, generator, video_id, row, before, worker, priority)
            checked = _compared(row, made, now)
            made = made if checked.verdict == "same" or made.memory.digest == row.memory_digest else None
        if row.index in chunks:
            yield checked


async def _memory_before(store: Store, video_id: str, index: int, made: Chunk | None) -> Memory | None:
    """What chunk `index` is made from; None for chunk 0. Raises `NotFound`."""
    if index == 0:
        return None
    try:
        return await store.memory(video_id, index - 1)
    except (NotFound, StoreDamaged):
        if made is None:
            raise NotFound("what this chunk was made from is lost", received=index) from None
        return made.memory


async def _make(
    store: Store, generator: Generator, video_id: str, row: ChunkRow, memory: Memory | None, worker: Worker, priority: int
) -> Chunk:
    reference = await store.reference(video_id) if row.index == 0 else None
    timeline = Timeline(row.direction)
    stream = stream_chunks(
        generator, timeline, num_frames=1, worker=worker, reference=reference, memory=memory, priority=priority
    )
    async with aclosing(stream):
        return await anext(stream)


def _compared(row: ChunkRow, made: Chunk, now: Mapping[str, Any]) -> CheckedChunk:
    sha256 = hashlib.sha256(made.frames.tobytes()).hexdigest()
    # of a chunk whose class was not written down nothing is known to be different
    differing = {} if row.made_with is None else differences(row.made_with, now)
    is_same = sha256 == row.frames_sha256 and row.memory_digest in (None, made.memory.digest)
    elsewhere = bool(differing) or row.made_with is None
    verdict: Verdict = "same" if is_same else "another class" if elsewhere else "different"
    return CheckedChunk(row.index, verdict, row.frames_sha256, sha256, differing, made.making_s)
