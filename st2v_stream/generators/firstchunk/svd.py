"""Stable Video Diffusion (arXiv 2311.15127): sets one picture in motion; SDXL (arXiv 2307.01952) draws it if none is given.

Published stage 1: the picture, cut to a square, stands between black bars on a canvas of 1024x576; 25 frames (fps 7, motion
bucket 127, noise 0.02 on the picture, image guidance 1 to 3 from the first frame to the last, 25 Euler steps), the first 16
kept, the bars cut off, rounded to 8 bits, reduced by nearest neighbour. SDXL runs with its defaults (50 steps, guidance 5)
and no negative prompt. Else: reduced with antialiasing, a narrow picture fills the square instead of leaving bars in it, the
film's first frame is the given picture itself, SDXL hears the user's negative prompt.

Its guidance pulls towards the picture, not towards the prompt: the film's `guidance_scale` does not reach it,
`first_chunk_guidance_scale` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image, ImageOps
from torch import Tensor

from st2v_stream.chunk import Frames, StreamSpec
from st2v_stream.direction import Direction
from st2v_stream.errors import InvalidRequest
from st2v_stream.generators.firstchunk.text_to_video import fitted, starting_with, to_film_size
from st2v_stream.generators.streamingt2v import OneReport
from st2v_stream.types import ModelCard, OnStep

IMAGE_GUIDANCE = 3.0
"""On the last frame; 1 on the first, linear between."""

PICTURE_STEPS, PICTURE_GUIDANCE = 50, 5.0
"""SDXL's own defaults."""

_FRAMES_DECODED_AT_ONCE = 8


@dataclass(frozen=True)
class Canvas:
    """What SVD paints on, and the part of it that becomes the film, all in pixels."""

    width: int
    height: int
    left: int
    top: int
    film_width: int
    film_height: int

    @staticmethod
    def of(area_side: int, spec: StreamSpec) -> Canvas:
        """16:9 of the model's area (SVD: `sample_size` 96, 768 x 768 = 1024 x 576 pixels), the film's shape in its middle."""
        width, height = area_side * 4 // 3, area_side * 3 // 4
        film_height = min(height, width * spec.height // spec.width)
        film_width = min(width, height * spec.width // spec.height)
        return Canvas(width, height, (width - film_width) // 2, (height - film_height) // 2, film_width, film_height)

    def with_picture(self, picture: Image.Image, *, published: bool) -> Image.Image:
        """The picture in its place on black. Published: scaled by its height alone; a narrow one leaves bars in the film."""
        size = (self.film_width, self.film_height)
        inside = _cut_by_height(picture, size) if published else ImageOps.fit(picture, size, Image.Resampling.BICUBIC)
        canvas = Image.new("RGB", (self.width, self.height), (0, 0, 0))
        canvas.paste(inside, (self.left, self.top))
        return canvas

    def film_of(self, frames: Tensor) -> Tensor:
        """(F, 3, canvas height, canvas width) -> the film's part of it."""
        return frames[:, :, self.top : self.top + self.film_height, self.left : self.left + self.film_width]


def _cut_by_height(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    width, height = size
    scaled = picture.resize((int(picture.width * (height / picture.height)), height))  # Pillow's default is bicubic
    left = (scaled.width - width) / 2
    return scaled.crop((left, 0, left + width, height))  # Pillow rounds, half to even


class SvdFirstChunk:
    """Implements `WindowMaker`. video: diffusers' `StableVideoDiffusionPipeline`; image: its SDXL pipeline, or None."""

    makes_a_picture: Literal[False] = False

    def __init__(self, card: ModelCard, video: Any, image: Any | None) -> None:
        self._spec, self._video, self._image = card.spec, video, image
        for pipeline in (video, image):
            if pipeline is not None:
                pipeline.set_progress_bar_config(disable=True)
        self.canvas = Canvas.of(video.unet.config.sample_size * video.vae_scale_factor, card.spec)

    def __call__(self, direction: Direction, on_step: OnStep, picture: Frames | None = None) -> Tensor:
        """-> (16, 3, H, W) float32 in [0, 1], from a picture (H', W', 3) uint8 or from the prompt.

        Raises `Stopped`, and `InvalidRequest` when there is no picture and nothing to draw one with.
        """
        with torch.inference_mode(False), torch.no_grad():  # the pipelines move their weights between types
            if picture is None:
                return self._from_prompt(direction, on_step)
            frames = self._animate(direction, Image.fromarray(picture), on_step)
        if direction.preset == "published":
            return frames
        return starting_with(frames, fitted(picture, self._spec.width, self._spec.height))

    def _from_prompt(self, direction: Direction, on_step: OnStep) -> Tensor:
        """SDXL draws, SVD moves."""
        asked = direction.first_chunk_num_inference_steps is None  # then the user's steps stand in num_inference_steps
        steps = direction.num_inference_steps if asked else PICTURE_STEPS
        report = OneReport(on_step, steps + direction.num_inference_steps)
        return self._animate(direction, self._draw(direction, steps, report), report)

    def _draw(self, direction: Direction, steps: int, on_step: OnStep) -> Image.Image:
        if self._image is None:
            raise InvalidRequest(
                "SVD starts from a picture, and the model that draws one from a prompt is not here",
                expected="an input image, or the SDXL folder",
                received="a prompt alone",
                param="input_reference",
            )
        on_step(0, steps)
        drawn: Image.Image = self._image(
            prompt=direction.prompt,
            negative_prompt=None if direction.preset == "published" else direction.negative_prompt or None,
            num_inference_steps=steps,
            guidance_scale=PICTURE_GUIDANCE,
            generator=_rng(direction, "picture", self._image.device),
            callback_on_step_end=_reporting(on_step, steps),
        ).images[0]
        return drawn

    def _animate(self, direction: Direction, picture: Image.Image, on_step: OnStep) -> Tensor:
        published, steps = direction.preset == "published", direction.num_inference_steps
        guidance = direction.first_chunk_guidance_scale
        on_step(0, steps)
        frames: Tensor = self._video(
            self.canvas.with_picture(picture, published=published),
            height=self.canvas.height,
            width=self.canvas.width,
            num_inference_steps=steps,
            max_guidance_scale=IMAGE_GUIDANCE if guidance is None else guidance,
            decode_chunk_size=_FRAMES_DECODED_AT_ONCE,
            generator=_rng(direction, "video", self._video.device),
            callback_on_step_end=_reporting(on_step, steps),
            output_type="pt",
        ).frames[0]
        film = self.canvas.film_of(frames[: self._spec.first_chunk_frames].float())
        return to_film_size(film, self._spec, published=published)


def _reporting(on_step: OnStep, steps: int) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    """diffusers calls back after a step; what `on_step` raises leaves the pipeline."""

    def after_step(pipeline: Any, k: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(k + 1, steps)
        return tensors

    return after_step


def _rng(direction: Direction, purpose: str, device: torch.device) -> torch.Generator:
    """Published: on the device, seeded as it is. (There SDXL drew from whatever state the process was in: here from the seed.)
    Else on the CPU, addressed by seed and purpose."""
    if direction.preset == "published":
        return torch.Generator(device).manual_seed(direction.seed)
    address = hashlib.sha256(f"{direction.seed}/0/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(address[:8], "little"))
