"""An enhancer for tests that costs nothing and forgives nothing: what it draws names everything it has seen and will see.

Chunk n comes out once `ahead` further ones were taken. Twice the size; the last row of every frame is a digest of all chunks
up to n and of those `ahead`, so a lost, a doubled or a foreign chunk, or the carry of another moment, changes every segment.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from st2v_stream.chunk import Chunk, Memory, StreamSpec
from st2v_stream.direction import Direction
from st2v_stream.enhancers.position import require_next
from st2v_stream.types import EnhancedChunk, OnStep

KIND = "lagging"


@dataclass(frozen=True)
class Lagging:
    """Implements `Enhancer`. fails: raise at these chunks, as often as the list says so. seconds_per_step: on the worker."""

    ahead: int = 2
    steps: int = 3
    seconds_per_step: float = 0.0
    name: str = KIND

    @property
    def lag_frames(self) -> int:
        return 8 * (self.ahead + 1) if self.ahead else 0

    def sharp_spec(self, preview: StreamSpec) -> StreamSpec:
        return replace(preview, width=2 * preview.width, height=2 * preview.height)

    def enhance(self, chunk: Chunk, carry: Memory | None, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        require_next(chunk, carry, self.name, 1)
        self._pretend(on_step)
        past, waiting = (bytes(32), []) if carry is None else _read(carry)
        waiting.append(chunk)
        sharp = []
        while len(waiting) > self.ahead:
            frames, past = _drawn(past, waiting), _past(past, waiting[0])
            sharp.append((waiting.pop(0), frames))
        after = _write(self.name, chunk.index + 1, chunk.start + len(chunk.frames), past, waiting)
        return [EnhancedChunk(replace(each, frames=frames, memory=after)) for each, frames in sharp], after

    def finish(self, carry: Memory, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        past, waiting = _read(carry)
        self._pretend(on_step)
        sharp = []
        while waiting:
            frames, past = _drawn(past, waiting), _past(past, waiting[0])
            sharp.append(EnhancedChunk(replace(waiting.pop(0), frames=frames, memory=carry), is_provisional=True))
        return sharp, carry

    def _pretend(self, on_step: OnStep) -> None:
        for k in range(self.steps):
            on_step(k, self.steps)
            time.sleep(self.seconds_per_step)  # stands for the device's work, on the worker thread
        on_step(self.steps, self.steps)


def _past(past: bytes, chunk: Chunk) -> bytes:
    return hashlib.sha256(past + chunk.frames.tobytes()).digest()


def _drawn(past: bytes, waiting: Sequence[Chunk]) -> np.ndarray:
    """The first of them, larger, with the digest of all in its last row."""
    frames = waiting[0].frames.repeat(2, axis=1).repeat(2, axis=2)
    digest = hashlib.sha256(past + b"".join(chunk.frames.tobytes() for chunk in waiting)).digest()
    cells = np.frombuffer(digest, np.uint8)
    frames[:, -1] = cells[np.arange(frames.shape[2]) * len(cells) // frames.shape[2]][None, :, None]
    return frames


def _write(kind: str, next_index: int, next_start: int, past: bytes, waiting: Sequence[Chunk]) -> Memory:
    notes = [{"index": chunk.index, "start": chunk.start, "direction": chunk.direction.to_json()} for chunk in waiting]
    parts = {"past": np.frombuffer(past, np.uint8), "notes": np.frombuffer(json.dumps(notes).encode(), np.uint8)}
    return Memory(kind, 1, next_index, next_start, parts | {f"frames{i}": chunk.frames for i, chunk in enumerate(waiting)})


def _read(carry: Memory) -> tuple[bytes, list[Chunk]]:
    waiting, nothing = [], Memory("test", 1, 0, 0, {})
    for i, note in enumerate(json.loads(carry.parts["notes"].tobytes())):
        frames = np.array(carry.parts[f"frames{i}"], np.uint8)
        waiting.append(Chunk(note["index"], note["start"], frames, Direction.from_json(note["direction"]), nothing))
    return carry.parts["past"].tobytes(), waiting
