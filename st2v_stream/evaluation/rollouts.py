"""Films rolled out from a real first chunk: rows of the ablation table differ in the mechanism only.

Every film has its own prompt, its own noise (addressed by film and chunk) and a rendered first chunk that went through the
autoencoder; all of it is the same in every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from st2v_stream.evaluation.variants import Variant
from st2v_stream.networks.cam import CamFeatures
from st2v_stream.networks.guidance import Guidance, pair
from st2v_stream.networks.sampling import denoise, make_sampler, noise_at
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training import randomness
from st2v_stream.training.noise import GUIDANCE_RESCALE, scheduler_settings
from st2v_stream.training.parts import LATENT_CHANNELS, LATENT_SIDE, TAIL_FRAMES, WINDOW_FRAMES
from st2v_stream.training.preview import to_latents, to_pixels
from st2v_stream.training.text import new_tokenizer, tokenize
from st2v_stream.worlds import captions, storybook

Films = NDArray[np.uint8]
"""(B, T, H, W, 3)."""

Anchor = Literal["first", "newest", "random", "null", "off"]
"""The frame that APM looks at: frame 0 of the film (published), the tail's newest, a random one before the tail, the learned
"no anchor", or none at all: no image tokens enter the UNet (APM off)."""


@dataclass(frozen=True)
class Sampling:
    """One setting for all rows; the first chunk is given, so no other guidance precedes it."""

    steps: int = 6
    guidance: float = 1.5


@dataclass(frozen=True)
class Scene:
    """A film to be made: what is asked for, and the seed of its noise."""

    number: int
    spec: storybook.FilmSpec
    seed: int


def scene(number: int, seed: int) -> Scene:
    """Film `number`, from the training split of the world; motions take turns."""
    rng = randomness.numpy_rng(seed, "ablation film", number)
    wanted = captions.MOTIONS[number % len(captions.MOTIONS)]
    while (spec := storybook.sample_spec(rng)).motion != wanted:
        pass
    return Scene(number, spec, randomness.address(seed, "ablation noise", number))


def real_films(scenes: Sequence[Scene], frames: int) -> Films:
    """What the renderer draws for these scenes."""
    return np.stack([storybook.clip(each.spec, range(frames)) for each in scenes])


def through_autoencoder(vae: FrameAutoencoder, films: Films) -> Films:
    """Encoded and decoded: the most that any row can show."""
    return np.concatenate([to_pixels(vae, to_latents(vae, film[None])) for film in films])


@dataclass(frozen=True)
class _Conditions:
    """All that is constant over the steps of a chunk, unconditional rows first."""

    text: Tensor  # (passes * B, 12, 64)
    image: Tensor | None  # (passes * B, 16, 64)
    control: CamFeatures | None


def roll_out(
    variant: Variant,
    vae: FrameAutoencoder,
    scenes: Sequence[Scene],
    first: Films,
    *,
    chunks: int,
    anchor: Anchor,
    sampling: Sampling,
) -> Films:
    """`first` (B, 16, H, W, 3) and `chunks` further chunks of 8 frames."""
    guidance = Guidance(sampling.guidance, GUIDANCE_RESCALE)
    text = _text_rows(variant, scenes, guidance)
    film = first
    for chunk in range(1, chunks + 1):
        shown = anchor_frames(film, scenes, chunk, anchor)
        tail = torch.cat([to_latents(vae, film[:, -TAIL_FRAMES:])] * guidance.passes)
        conditions = _Conditions(text, _image_rows(variant, vae, shown, anchor, guidance), variant.control(tail, text))
        latents = _denoise(variant, conditions, _noise(scenes, chunk), sampling.steps, guidance)
        film = np.concatenate([film, to_pixels(vae, latents[:, :, TAIL_FRAMES:])], axis=1)
    return film


def anchor_frames(film: Films, scenes: Sequence[Scene], chunk: int, anchor: Anchor) -> Films:
    """The frame of each film that APM looks at, (B, 1, H, W, 3); frame 0 where it looks at none."""
    if anchor == "newest":
        return film[:, -1:]
    if anchor == "random":  # before the tail, which CAM knows already
        earlier = film.shape[1] - TAIL_FRAMES
        drawn = [int(randomness.numpy_rng(each.seed, "ablation anchor", chunk).integers(earlier)) for each in scenes]
        return np.stack([one[number : number + 1] for one, number in zip(film, drawn, strict=True)])
    return film[:, :1]


def _denoise(variant: Variant, conditions: _Conditions, noise: Tensor, steps: int, guidance: Guidance) -> Tensor:
    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        rows = torch.cat([latents] * guidance.passes)
        predicted: Tensor = variant.unet(rows, timestep, conditions.text, conditions.image, conditions.control)
        return predicted

    return denoise(predict, make_sampler(scheduler_settings(), steps), noise, lambda _: noise, guidance)


def _text_rows(variant: Variant, scenes: Sequence[Scene], guidance: Guidance) -> Tensor:
    texts = [each.spec.caption for each in scenes]
    tokenizer = new_tokenizer()
    given, none = (variant.encode_text(tokenize(tokenizer, rows)) for rows in (texts, [""] * len(texts)))
    rows = pair(none, given, guidance)
    assert rows is not None
    return rows


def _image_rows(variant: Variant, vae: FrameAutoencoder, shown: Films, anchor: Anchor, guidance: Guidance) -> Tensor | None:
    if anchor == "off":
        return None
    none = variant.image_encoder.null_tokens(len(shown))
    given = none if anchor == "null" else variant.image_encoder(to_latents(vae, shown)[:, :, 0])
    return pair(none, given, guidance)


def _noise(scenes: Sequence[Scene], chunk: int) -> Tensor:
    shape = (1, LATENT_CHANNELS, WINDOW_FRAMES, LATENT_SIDE, LATENT_SIDE)
    return torch.cat([noise_at(each.seed, chunk, "init", shape) for each in scenes])
