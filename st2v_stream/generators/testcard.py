"""A generator without weights: numbered frames at any speed, numpy only.

It drives the whole server in tests. Every frame shows its number as sixteen black or white cells (readable after H.264,
see `read_frame_number`), a colour that names seed and prompt, a bar that moves, and a fingerprint of *everything made so
far*: its memory carries a running digest, so a chunk made with a wrong memory looks wrong.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from st2v_stream.chunk import Frames, Memory, StreamSpec
from st2v_stream.direction import Direction
from st2v_stream.types import ModelCard, OnStep, Reference

KIND = "testcard"
VERSION = 1
CELLS = 16
"""Cells of the number, the highest bit at the left; numbers repeat after 65536 frames."""

_PRESETS = {
    "published": {"num_inference_steps": 8, "guidance_scale": 1.0},
    "default": {"num_inference_steps": 6, "guidance_scale": 1.0},
    "live": {"num_inference_steps": 4, "guidance_scale": 1.0},
}


class TestCard:
    """Implements `Generator`. 256x192: cells of one macroblock, no enlargement, and width differs from height.

    steps: denoising steps per chunk, None = as the Direction says. seconds_per_step: how long each one pretends to work.
    """

    __test__ = False

    def __init__(
        self,
        width: int = 256,
        height: int = 192,
        *,
        fps: int = 8,
        first_chunk_frames: int = 16,
        chunk_frames: int = 8,
        max_frames: int | None = None,
        steps: int | None = None,
        seconds_per_step: float = 0.0,
        name: str = "testcard",
        vocabulary: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._spec = StreamSpec(width, height, fps, first_chunk_frames, chunk_frames, max_frames)
        self._steps = steps
        self._seconds_per_step = seconds_per_step
        self._card = ModelCard(
            name=name,
            title="Test card",
            version=str(VERSION),
            licence="Apache-2.0",
            spec=self._spec,
            example_prompts=("a numbered film",),
            vocabulary=vocabulary,
            presets=_PRESETS,
            description="Numbered frames without a model, for tests and for trying the server out.",
        )

    @property
    def card(self) -> ModelCard:
        """What is known of it."""
        return self._card

    @property
    def spec(self) -> StreamSpec:
        """Sizes and lengths of its films."""
        return self._spec

    def begin(self, direction: Direction, reference: Reference | None, on_step: OnStep) -> tuple[Frames, Memory]:
        """Chunk 0. The reference, if any, enters the digest. Raises `Stopped`."""
        start = b"" if reference is None else np.ascontiguousarray(reference.frames).tobytes()
        self._pretend_to_denoise(direction, on_step)
        return self._chunk(0, direction, hashlib.sha256(start).digest(), anchor=_colour_of(direction))

    def generate(self, direction: Direction, memory: Memory, on_step: OnStep) -> tuple[Frames, Memory]:
        """Chunk `memory.next_index`. Raises `Stopped`."""
        self._pretend_to_denoise(direction, on_step)
        return self._chunk(memory.next_index, direction, memory.parts["digest"].tobytes(), anchor=memory.parts["anchor"])

    def frames_of(self, direction: Direction, memory: Memory) -> Frames:
        """Implements `Remembers`."""
        index = memory.next_index - 1
        numbers = range(self._spec.start_of(index), memory.next_start)
        return draw_frames(self._spec, numbers, _colour_of(direction), memory.parts["digest"].tobytes())

    def _pretend_to_denoise(self, direction: Direction, on_step: OnStep) -> None:
        steps = direction.num_inference_steps if self._steps is None else self._steps
        for k in range(steps):
            on_step(k, steps)
            if self._seconds_per_step:
                time.sleep(self._seconds_per_step)  # stands for the device's work, on the worker thread
        on_step(steps, steps)

    def _chunk(self, index: int, direction: Direction, past: bytes, *, anchor: NDArray[np.generic]) -> tuple[Frames, Memory]:
        spec = self._spec
        start, count = spec.start_of(index), spec.frames_of(index)
        digest = hashlib.sha256(past + json.dumps([index, direction.to_json()]).encode()).digest()
        frames = draw_frames(spec, range(start, start + count), _colour_of(direction), digest)
        parts = {"digest": np.frombuffer(digest, np.uint8), "anchor": anchor}
        return frames, Memory(KIND, VERSION, index + 1, start + count, parts)


def draw_frames(spec: StreamSpec, numbers: Sequence[int], colour: NDArray[np.uint8], digest: bytes) -> Frames:
    """Frames (T, H, W, 3) uint8: the number on top, a moving bar on the colour, the digest as 32 grey cells below."""
    height, width = spec.height, spec.width
    strip, bar = max(1, height // 6), max(1, width // 16)
    background = np.empty((height, width, 3), np.uint8)
    background[:] = colour
    background[height - strip :] = _across(np.frombuffer(digest, np.uint8), width)
    frames = np.repeat(background[None], len(numbers), axis=0)
    for frame, number in zip(frames, numbers, strict=True):
        left = number * width // 32 % width
        frame[strip : height - strip, left : left + bar] = 255 - colour
        bits = [255 * (number >> (CELLS - 1 - cell) & 1) for cell in range(CELLS)]
        frame[:strip] = _across(np.array(bits, np.uint8), width)
    return frames


def read_frame_number(frame: NDArray[np.uint8]) -> int:
    """The number a frame (H, W, 3) shows, at any size and after lossy coding (0 to 65535)."""
    height, width = frame.shape[:2]
    row = frame[height // 24 : max(height // 24 + 1, height // 8)].mean(axis=(0, 2))  # the middle of the top strip
    number = 0
    for cell in range(CELLS):
        left, right = cell * width / CELLS, (cell + 1) * width / CELLS
        margin = (right - left) / 4
        middle = row[int(left + margin) : max(int(left + margin) + 1, int(right - margin))]
        number = number << 1 | int(middle.mean() > 127)
    return number


def _across(cells: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """(cells,) -> (1, W, 1): the cells side by side."""
    return cells[np.arange(width) * len(cells) // width][None, :, None]


def _colour_of(direction: Direction) -> NDArray[np.uint8]:
    """(3,) a medium colour that names seed and prompt."""
    named = hashlib.sha256(json.dumps([direction.seed, direction.prompts]).encode()).digest()
    return np.frombuffer(named[:3], np.uint8) // 2 + 64
