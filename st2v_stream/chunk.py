"""The values that flow: a `Chunk` of new frames, and the `Memory` that rides on it.

Both are frozen. Only chunks pass between stages; a chunk's memory is all that is needed to make the next one, so stopping,
resuming, branching and moving to another machine are the same act: keep the memory, go on later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from st2v_stream.direction import Direction

Frames: TypeAlias = NDArray[np.uint8]
"""Frames of a chunk: (T, H, W, 3) uint8, RGB."""


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What a generator's films look like: sizes in pixels, frames per second, frames per chunk.

    `max_frames` is the longest film the generator can make, None where there is no limit.
    """

    width: int
    height: int
    fps: int
    first_chunk_frames: int
    chunk_frames: int
    max_frames: int | None = None

    def start_of(self, index: int) -> int:
        """First frame of chunk `index`, counted from the film's beginning."""
        if index == 0:
            return 0
        return self.first_chunk_frames + (index - 1) * self.chunk_frames

    def frames_of(self, index: int) -> int:
        """Number of frames of chunk `index`."""
        return self.first_chunk_frames if index == 0 else self.chunk_frames

    def chunks_for(self, num_frames: int) -> int:
        """Number of whole chunks that hold at least `num_frames` frames (films end on a chunk border)."""
        beyond_first = max(0, num_frames - self.first_chunk_frames)
        return 1 + -(-beyond_first // self.chunk_frames)


@dataclass(frozen=True)
class Memory:
    """All that the generator keeps between two chunks; opaque to everybody but the family that made it.

    `kind` and `version` name the family and the layout of `parts` (named arrays, saved losslessly). The flow reads only
    `next_index`, `next_start` and `digest`.
    """

    kind: str
    version: int
    next_index: int
    next_start: int
    parts: Mapping[str, NDArray[np.generic]] = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over kind, version, position and every part's name, dtype, shape and bytes."""
        sha = hashlib.sha256()
        sha.update(json.dumps([self.kind, self.version, self.next_index, self.next_start]).encode())
        for name in sorted(self.parts):
            array = np.ascontiguousarray(self.parts[name])
            sha.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
            sha.update(array.tobytes())
        return sha.hexdigest()


@dataclass(frozen=True)
class Chunk:
    """A run of new frames from the model.

    index: position in the film, from 0. start: its first frame, counted from the film's beginning, so that the time of
    frame t is (start + t) / fps everywhere. frames: (T, H, W, 3) uint8. direction: what it was made with.
    memory: what the next chunk needs.
    """

    index: int
    start: int
    frames: Frames = field(repr=False)
    direction: Direction
    memory: Memory
    making_s: float = 0.0
    """Wall-clock seconds the generator took (a measurement; takes no part in any result)."""
