"""A window of frames from a text-to-video model made of diffusers' parts: what ModelScope and AnimateDiff share.

The arithmetic is that of diffusers' pipelines; the loop is ours, so that it can be left between two steps, its draws have
addresses and a picture can be its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from st2v_stream.chunk import Frames, StreamSpec
from st2v_stream.direction import Direction
from st2v_stream.generators.conditioning import TextEncoder
from st2v_stream.generators.firstchunk.picture_start import PictureStart
from st2v_stream.generators.memory import to_unit
from st2v_stream.generators.streamingt2v import text_rows
from st2v_stream.media.image import fit_image
from st2v_stream.networks.guidance import Guidance
from st2v_stream.networks.sampling import Predict, Sampler, denoise, make_sampler, noise_at
from st2v_stream.types import OnStep

_FRAMES_DECODED_AT_ONCE = 8

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class TextToVideoParts:
    """unet: `UNet3DConditionModel` or `UNetMotionModel`; vae: `AutoencoderKL`; scheduler: settings for `make_sampler`.

    text_per_frame: whether the network wants the text's tokens once per frame (`UNetMotionModel`) or once.
    """

    unet: Any
    vae: Any
    text: TextEncoder
    scheduler: Mapping[str, Any] = field(repr=False)
    text_per_frame: bool = False

    @property
    def downscale(self) -> int:
        """Pixels per latent position and axis."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def latents_shape(self, frames: int, size: Size) -> tuple[int, int, int, int, int]:
        """(1, C, F, h, w) of a window of `size` pixels."""
        height, width = size
        return 1, int(self.unet.config.in_channels), frames, height // self.downscale, width // self.downscale

    def predictor(self, text: Tensor, guidance: Guidance, frames: int) -> Predict:
        """One network evaluation of all rows, [unconditional, conditional]; text: (rows, tokens, D)."""
        tokens = text.repeat_interleave(frames, dim=0) if self.text_per_frame else text

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            rows = torch.cat([latents] * guidance.passes)
            prediction: Tensor = self.unet(rows, timestep.to(rows.device), encoder_hidden_states=tokens).sample
            return prediction

        return predict

    def encode(self, pictures: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> normalised latents (N, C, h, w), the mean of the posterior."""
        latents: Tensor = self.vae.encode((2 * pictures - 1).to(self.vae.device, self.vae.dtype)).latent_dist.mode()
        return latents * self.vae.config.scaling_factor

    def decode(self, latents: Tensor, frames_at_once: int) -> Tensor:
        """(1, C, F, h, w) -> (F, 3, H, W) float32 in [0, 1]."""
        frames = rearrange(1 / self.vae.config.scaling_factor * latents, "1 c f h w -> f c h w")
        decoded = torch.cat([self.vae.decode(piece).sample for piece in frames.split(frames_at_once)])
        return (decoded.float() / 2 + 0.5).clamp(0, 1)


def make_window(
    parts: TextToVideoParts,
    direction: Direction,
    frames: int,
    size: Size,
    on_step: OnStep,
    picture: Tensor | None = None,
) -> Tensor:
    """-> (F, 3, H, W) float32 in [0, 1], not rounded. picture: (1, 3, H, W) in [0, 1], what the window starts from.

    Raises `Stopped`.
    """
    guidance = Guidance(direction.guidance_scale)
    text = text_rows(parts.text, direction, guidance)
    latents = draw_init(direction, parts.latents_shape(frames, size), text.device, text.dtype)
    sampler: Sampler = make_sampler(parts.scheduler, direction.num_inference_steps, eta=0.0)
    if picture is not None:
        held = PictureStart(sampler, parts.scheduler, parts.encode(picture)[:, :, None], latents)
        sampler, latents = held, held.begin()
    clean = denoise(parts.predictor(text, guidance, frames), sampler, latents, _no_noise, guidance, on_step)
    return parts.decode(clean, 1 if direction.preset == "published" else _FRAMES_DECODED_AT_ONCE)


def draw_init(direction: Direction, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """The noise a window begins with: published from a generator on the device, in the device's type; else addressed."""
    if direction.preset == "published":
        rng = torch.Generator(device).manual_seed(direction.seed)
        return torch.randn(shape, generator=rng, device=device, dtype=dtype)
    return noise_at(direction.seed, 0, "init", shape).to(device, dtype)


def _no_noise(k: int) -> Tensor:
    raise AssertionError("neither DPM-Solver++ nor DDIM with eta 0 draws noise in a step")


def to_film_size(frames: Tensor, spec: StreamSpec, *, published: bool) -> Tensor:
    """(F, 3, H, W) in [0, 1] at a model's own size -> at the film's.

    Published: rounded to 8 bits, then every other pixel or so thrown away (nearest neighbour: thin lines break, edges
    crawl). Else bicubic with antialiasing, unrounded.
    """
    size = (spec.height, spec.width)
    if published:
        return F.interpolate((frames * 255).round(), size=size) / 255.0
    return F.interpolate(frames, size=size, mode="bicubic", antialias=True).clamp(0, 1)


def fitted(picture: Frames, width: int, height: int) -> Tensor:
    """A picture (H, W, 3) uint8 of any size -> (1, 3, height, width) in [0, 1], covering, the middle kept."""
    return to_unit(fit_image(picture[None], width, height))


def starting_with(frames: Tensor, picture: Tensor) -> Tensor:
    """The frames with the picture itself, (1, 3, H, W), in place of the first: no decoder has blurred it."""
    return torch.cat([picture.to(frames), frames[1:]])
