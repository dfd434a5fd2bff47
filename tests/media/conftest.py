"""Small films to encode: moving colour patches, so that every frame differs and flat areas can be compared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from st2v_stream.chunk import Chunk, Frames, Memory, StreamSpec
from st2v_stream.direction import Direction
from st2v_stream.media.encode import encode_segment
from st2v_stream.media.segment import EncodeSpec, Segment

STREAM = StreamSpec(width=64, height=64, fps=10, first_chunk_frames=16, chunk_frames=8)


def patches(start: int, count: int, size: int = 64) -> Frames:
    """(count, size, size, 3): 4x4 patches of one colour each, other colours in every frame."""
    colours = [np.random.default_rng(start + t).integers(0, 256, (4, 4, 3), dtype=np.uint8) for t in range(count)]
    return np.stack(colours).repeat(size // 4, axis=1).repeat(size // 4, axis=2)


def make_chunk(index: int, frames: Frames | None = None, *, stream: StreamSpec = STREAM) -> Chunk:
    start, count = stream.start_of(index), stream.frames_of(index)
    pictures = patches(start, count) if frames is None else frames
    return Chunk(index, start, pictures, Direction((("patches", 1.0),)), Memory("test", 1, index + 1, start + count, {}))


@pytest.fixture(scope="session")
def film() -> list[Segment]:
    """15 preview segments: 16 + 14 * 8 frames."""
    spec = EncodeSpec.for_stream(STREAM, "preview")
    return [encode_segment(make_chunk(index), spec) for index in range(15)]


@pytest.fixture
def chunk_at() -> Callable[..., Chunk]:
    return make_chunk
