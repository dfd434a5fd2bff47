"""The frames of a chunk that was made, bit for bit: what an enhancer is given.

From where they are cheapest: the chunk itself while it is fresh, its memory, or made again from the memory before. Whatever
way, their hash is that of the chunk's row, or else they are not given. No segment is ever decoded for it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from contextlib import aclosing

from st2v_stream.chunk import Chunk, Frames, Memory, StreamSpec
from st2v_stream.direction import Timeline
from st2v_stream.errors import NotFound, St2vError, Stopped, StoreDamaged
from st2v_stream.store.determinism import determinism_class, differences
from st2v_stream.store.segments import ChunkRow
from st2v_stream.store.store import Store
from st2v_stream.streaming.autoregressive import OnChunkStep, stream_chunks
from st2v_stream.streaming.enhance import LESS_URGENT
from st2v_stream.types import Generator, Remembers, Worker

FRESH = 8
"""Chunks kept at hand: an enhancer that keeps up reads nothing from the disk. 1.6 MB each at the published size."""


class FramesLost(St2vError):
    """The frames of a chunk are neither kept nor can they be made again as they were."""

    code = "frames_lost"


class ExactFrames:
    """Gives chunks that are acknowledged. Used on the event loop."""

    def __init__(self, store: Store, worker: Worker) -> None:
        self._store, self._worker = store, worker
        self._fresh = OrderedDict[tuple[str, int], Chunk]()

    def keep(self, video_id: str, chunk: Chunk) -> None:
        """This one is at hand for a while."""
        self._fresh[video_id, chunk.index] = chunk
        self._fresh.move_to_end((video_id, chunk.index))
        while len(self._fresh) > FRESH:
            self._fresh.popitem(last=False)

    def at_hand(self, video_id: str, index: int, sha256: str) -> Chunk | None:
        """The chunk if it is fresh and its frames have this hash."""
        chunk = self._fresh.get((video_id, index))
        return chunk if chunk is not None and sha256_of(chunk.frames) == sha256 else None

    async def chunk(self, generator: Generator, video_id: str, index: int, on_step: OnChunkStep) -> Chunk:
        """Chunk `index`. on_step: called where it is made again, and may raise `Stopped`.

        Raises `FramesLost`, `NotFound` where the film has no such chunk.
        """
        row = await self._row(video_id, index)
        if (chunk := self.at_hand(video_id, index, row.frames_sha256)) is not None:
            return chunk
        if (remembered := await self._remembered(generator, video_id, row)) is not None:
            return remembered
        chunk = await self._made_again(generator, video_id, index, on_step)
        self.keep(video_id, chunk)  # its memory is what the next one is made again from
        return chunk

    async def _row(self, video_id: str, index: int) -> ChunkRow:
        rows = await self._store.chunks(video_id, index, index)
        if not rows:
            raise NotFound("no such chunk", expected=f"the index of a chunk of {video_id}", received=index, param="index")
        return rows[0]

    async def _remembered(self, generator: Generator, video_id: str, row: ChunkRow) -> Chunk | None:
        if not row.has_memory or not isinstance(generator, Remembers):
            return None
        try:
            memory = await self._store.memory(video_id, row.index)
        except (NotFound, StoreDamaged):
            return None
        frames = generator.frames_of(row.direction, memory)[-row.frames :]
        return Chunk(row.index, row.start, frames, row.direction, memory) if _are_those(frames, row, generator.spec) else None

    async def _made_again(self, generator: Generator, video_id: str, index: int, on_step: OnChunkStep) -> Chunk:
        """From the newest memory before it, through all chunks in between."""
        before = self._fresh.get((video_id, index - 1))
        if before is not None and sha256_of(before.frames) == (await self._row(video_id, index - 1)).frames_sha256:
            memory: Memory | None = before.memory
        else:
            memory = await self._store.memory_before(video_id, index)
        for row in await self._store.chunks(video_id, 0 if memory is None else memory.next_index, index):
            chunk = await self._made(generator, video_id, row, memory, on_step)
            if not _are_those(chunk.frames, row, generator.spec):
                raise _lost(row, generator)
            memory = chunk.memory
        return chunk

    async def _made(
        self, generator: Generator, video_id: str, row: ChunkRow, memory: Memory | None, on_step: OnChunkStep
    ) -> Chunk:
        stream = stream_chunks(
            generator,
            Timeline(row.direction),
            num_frames=1,
            worker=self._worker,
            reference=await self._store.reference(video_id) if row.index == 0 else None,
            memory=memory,
            on_step=on_step,
            priority=LESS_URGENT,
        )
        async with aclosing(stream):
            chunk = await anext(stream, None)
        if chunk is None:
            raise Stopped("asked to stop")
        return chunk


def sha256_of(frames: Frames) -> str:
    """Names frames as the rows of chunks do."""
    return hashlib.sha256(frames.tobytes()).hexdigest()


def _are_those(frames: Frames, row: ChunkRow, spec: StreamSpec) -> bool:
    return frames.shape == (row.frames, spec.height, spec.width, 3) and sha256_of(frames) == row.frames_sha256


def _lost(row: ChunkRow, generator: Generator) -> FramesLost:
    changed = ", ".join(differences(row.made_with or {}, determinism_class(generator)))
    message = f"the frames of chunk {row.index} are not kept and cannot be made again as they were"
    return FramesLost(message, expected="what it was made with", received=f"another {changed}" if changed else "the same")
