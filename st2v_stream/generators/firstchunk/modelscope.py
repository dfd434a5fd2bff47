"""ModelScope text-to-video (arXiv 2308.06571): 16 frames at the film's own size; StreamingT2V grew out of it.

Published stage 1: DPM-Solver++ 2M, 50 steps (999, 979, ..., 20), guidance 9, the empty negative prompt whatever the user
says, frames unrounded. Else the user's negative prompt counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from st2v_stream.chunk import Frames
from st2v_stream.direction import Direction
from st2v_stream.generators.firstchunk.text_to_video import TextToVideoParts, fitted, make_window, starting_with
from st2v_stream.types import ModelCard, OnStep


class ModelscopeFirstChunk:
    """Implements `WindowMaker`."""

    makes_a_picture: Literal[False] = False

    def __init__(self, card: ModelCard, parts: TextToVideoParts) -> None:
        self._spec, self._parts = card.spec, parts

    def __call__(self, direction: Direction, on_step: OnStep, picture: Frames | None = None) -> Tensor:
        """-> (16, 3, H, W) float32 in [0, 1]; with a picture, (H', W', 3) uint8, that is the first frame. Raises `Stopped`."""
        spec = self._spec
        said = replace(direction, negative_prompt="") if direction.preset == "published" else direction
        start = None if picture is None else fitted(picture, spec.width, spec.height)
        size = (spec.height, spec.width)
        with torch.inference_mode():
            frames = make_window(self._parts, said, spec.first_chunk_frames, size, on_step, start)
        return frames if start is None else starting_with(frames, start)
