"""AnimateDiff (arXiv 2307.04725): a motion adapter in a Stable Diffusion 1.5 model, at that model's size, then made smaller.

Published stage 1: DDIM with linear betas, `linspace` timesteps, no clipping and offset 1; 25 steps, guidance 7.5, the negative
prompt below whatever the user says; rounded to 8 bits and reduced by nearest neighbour. Else the user's negative prompt
replaces the fixed one, and the frames are reduced with antialiasing.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from st2v_stream.chunk import Frames
from st2v_stream.direction import Direction
from st2v_stream.generators.firstchunk.text_to_video import (
    Size,
    TextToVideoParts,
    fitted,
    make_window,
    starting_with,
    to_film_size,
)
from st2v_stream.types import ModelCard, OnStep

NEGATIVE_PROMPT = "bad quality, worse quality"

_PUBLISHED_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "timestep_spacing": "linspace",
    "beta_schedule": "linear",
    "steps_offset": 1,
}


def animatediff_scheduler(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The published sampler over the image model's own scheduler_config.json (whatever its class: SD 1.5 comes with PNDM)."""
    known = inspect.signature(DDIMScheduler.__init__).parameters
    return {name: value for name, value in settings.items() if name in known} | _PUBLISHED_SCHEDULER


class AnimateDiffFirstChunk:
    """Implements `WindowMaker`."""

    makes_a_picture: Literal[False] = False

    def __init__(self, card: ModelCard, parts: TextToVideoParts) -> None:
        self._spec, self._parts = card.spec, parts

    def __call__(self, direction: Direction, on_step: OnStep, picture: Frames | None = None) -> Tensor:
        """-> (16, 3, H, W) float32 in [0, 1]; with a picture, (H', W', 3) uint8, that is the first frame. Raises `Stopped`."""
        spec, published = self._spec, direction.preset == "published"
        said = NEGATIVE_PROMPT if published or not direction.negative_prompt else direction.negative_prompt
        direction, (height, width) = replace(direction, negative_prompt=said), self.own_size
        start = None if picture is None else fitted(picture, width, height)
        with torch.inference_mode():
            frames = make_window(self._parts, direction, spec.first_chunk_frames, (height, width), on_step, start)
        frames = to_film_size(frames, spec, published=published)
        return frames if picture is None else starting_with(frames, fitted(picture, spec.width, spec.height))

    @property
    def own_size(self) -> Size:
        """(height, width) the model works at: its own size on the short side, the film's shape, whole at every level."""
        parts, spec = self._parts, self._spec
        short = parts.unet.config.sample_size * parts.downscale
        unit = parts.downscale * 2 ** (len(parts.unet.config.block_out_channels) - 1)
        scale = short / min(spec.height, spec.width)
        return round(spec.height * scale / unit) * unit, round(spec.width * scale / unit) * unit
