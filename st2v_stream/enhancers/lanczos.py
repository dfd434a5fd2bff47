"""The cheap baseline: every frame by itself made larger with Pillow's Lanczos filter. Whatever costs more must look better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from st2v_stream.chunk import Chunk, Frames, Memory, StreamSpec
from st2v_stream.enhancers.position import position_after, require_kind, require_next
from st2v_stream.errors import InvalidRequest
from st2v_stream.types import EnhancedChunk, OnStep

KIND, VERSION = "lanczos", 1
FACTORS = (2, 3, 4)


class Lanczos:
    """Implements `Enhancer`: every chunk at once, `factor` times as wide and as high. Raises `InvalidRequest`."""

    name = KIND
    lag_frames = 0

    def __init__(self, factor: int = 4) -> None:
        if factor not in FACTORS:
            raise InvalidRequest("this enlargement is not made", expected=f"one of {FACTORS}", received=factor, param="factor")
        self.factor = factor

    def sharp_spec(self, preview: StreamSpec) -> StreamSpec:
        """The same at `factor` times the size."""
        return replace(preview, width=preview.width * self.factor, height=preview.height * self.factor)

    def enhance(self, chunk: Chunk, carry: Memory | None, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        """The chunk, larger; a step is a frame. Raises `Stopped`, `InvalidRequest`."""
        require_next(chunk, carry, KIND, VERSION)
        count, frames = len(chunk.frames), []
        for number, frame in enumerate(chunk.frames):
            on_step(number, count)
            frames.append(self._enlarged(frame))
        on_step(count, count)
        after = position_after(chunk, KIND, VERSION)
        return [EnhancedChunk(replace(chunk, frames=np.stack(frames), memory=after))], after

    def finish(self, carry: Memory, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        """Nothing is left. Raises `InvalidRequest`."""
        require_kind(carry, KIND, VERSION)
        return [], carry

    def _enlarged(self, frame: Frames) -> Frames:
        size = frame.shape[1] * self.factor, frame.shape[0] * self.factor
        return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
