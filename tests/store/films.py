"""A small film, chunk by chunk, without an encoder: what the store's tests write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from st2v_stream.chunk import Chunk, Memory
from st2v_stream.direction import Direction
from st2v_stream.generators.testcard import TestCard
from st2v_stream.store.segments import ChunkRecord, record_of
from st2v_stream.types import VideoView

CARD = TestCard(64, 48, steps=1)
DIRECTION = Direction((("a film", 1.0),))


@dataclass(frozen=True)
class StandIn:
    """Looks like a segment to the store."""

    data: bytes
    start: int
    frames: int
    init: bytes = b"the init segment of all of them"
    codec: str = "avc1.42C00D"
    width: int = 64
    height: int = 48


def stand_in(chunk: Chunk) -> StandIn:
    return StandIn(b"segment" + chunk.frames.tobytes()[:2000], chunk.start, len(chunk.frames))


def chunks_after(memory: Memory | None = None) -> Iterator[Chunk]:
    while True:
        if memory is None:
            index, (frames, memory) = 0, CARD.begin(DIRECTION, None, lambda k, n: None)
        else:
            index, (frames, memory) = memory.next_index, CARD.generate(DIRECTION, memory, lambda k, n: None)
        yield Chunk(index, CARD.spec.start_of(index), frames, DIRECTION, memory)


def records_after(memory: Memory | None = None) -> Iterator[ChunkRecord]:
    return (record_of(chunk, stand_in(chunk)) for chunk in chunks_after(memory))


def new_view(video_id: str = "video_a", num_frames: int | None = None) -> VideoView:
    return VideoView(
        id=video_id,
        state="queued",
        title="a film",
        model="testcard",
        preset="default",
        seed=DIRECTION.seed,
        prompt=DIRECTION.prompt,
        spec=CARD.spec,
        created_at_s=1_700_000_000,
        num_frames=num_frames,
        direction=DIRECTION,
        warnings=("a warning",),
    )
