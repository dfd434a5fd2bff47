"""Long films denoised again from part of the way (SDEdit, arXiv 2108.01073) in windows, joined in five ways.

What the enhancer will do at a larger size: noise a finished film to time t0, denoise it in windows of 16 frames. The denoiser
is the variant that knows no tail: it sees the caption and nothing else, as the published enhancer does.

    naive         windows side by side, no overlap
    independent   overlap 8, every window with noise of its own; averaged when all are done
    average       overlap 8, one noise for the film; predictions averaged in every step
    coded         overlap 8, one noise for the film; randomized blending of predictions, cuts 0..7
    paper         the same of x_{t-1}, cuts 0..8
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from st2v_stream.evaluation.rollouts import Scene
from st2v_stream.evaluation.variants import Variant
from st2v_stream.networks.blending import (
    Join,
    PredictWindow,
    Windows,
    average_together,
    cut_together,
    denoise_apart,
    denoise_joined,
    draw_cuts_as_coded,
    draw_cuts_as_in_paper,
)
from st2v_stream.networks.sampling import Sampler, alpha_sigma, make_sampler, noise_at
from st2v_stream.training import randomness
from st2v_stream.training.noise import scheduler_settings
from st2v_stream.training.parts import WINDOW_FRAMES
from st2v_stream.training.text import new_tokenizer, tokenize

Blending = Literal["naive", "independent", "average", "coded", "paper"]

OVERLAP_FRAMES = 8
STEPS_FROM_NOISE = 8
"""The grid of times is even from 1 to 0 in this many steps; a film noised to t0 joins it where t0 lies."""


def denoise_again(variant: Variant, scenes: Sequence[Scene], clean: Tensor, t0: float, blending: Blending) -> Tensor:
    """Clean latents (B, C, L, h, w) -> noised to t0 (a multiple of 1/8) and denoised. Raises ValueError."""
    first_step = _first_step(t0)
    film = Windows(clean.shape[2], WINDOW_FRAMES, 0 if blending == "naive" else OVERLAP_FRAMES)
    predict = _predictor(variant, scenes)
    if blending == "independent":
        parts = [_noised_window(part, scenes, number, t0) for number, part in enumerate(film.split(clean))]
        return average_together([_denoise_window(predict, part, first_step) for part in parts], film)
    start = _noised(clean, _film_noise(clean, scenes), t0)
    if blending == "paper":
        samplers = [_sampler() for _ in film.starts]
        return denoise_apart(predict, samplers, start, film, _join(blending, scenes, film), _no_noise, first_step=first_step)
    return denoise_joined(predict, _sampler(), start, film, _join(blending, scenes, film), _no_noise, first_step=first_step)


def _first_step(t0: float) -> int:
    step = STEPS_FROM_NOISE * (1 - t0)
    if not 0 <= step < STEPS_FROM_NOISE or step != int(step):
        raise ValueError(f"t0: expected a multiple of 1/{STEPS_FROM_NOISE} above 0, at most 1, received {t0}")
    return int(step)


def _sampler() -> Sampler:
    """DPM-Solver++ 2M on an even grid of times; it draws nothing."""
    return make_sampler(scheduler_settings() | {"shift": 1.0}, STEPS_FROM_NOISE)


def _no_noise(k: int) -> Tensor:
    raise AssertionError("this sampler draws nothing")


def _predictor(variant: Variant, scenes: Sequence[Scene]) -> PredictWindow:
    """(k, latents) -> clean latents, from the caption; APM is told that there is no anchor."""
    text = variant.encode_text(tokenize(new_tokenizer(), [each.spec.caption for each in scenes]))
    image = variant.image_encoder.null_tokens(len(scenes))
    sampler = _sampler()

    def predict(k: int, latents: Tensor) -> Tensor:
        predicted = variant.unet(latents, sampler.timesteps[k], text, image)
        return sampler.guided_quantity(k, predicted, latents)

    return predict


def _join(blending: Blending, scenes: Sequence[Scene], windows: Windows) -> Join:
    if blending == "average":
        return lambda k, parts: average_together(parts, windows)
    draw = draw_cuts_as_in_paper if blending == "paper" else draw_cuts_as_coded
    rngs = [random.Random(randomness.address(each.seed, "ablation cuts")) for each in scenes]
    cuts = [[draw(rng, windows) for _ in range(STEPS_FROM_NOISE)] for rng in rngs]  # per film, step, window
    return partial(_cut_each, windows, cuts)


def _cut_each(windows: Windows, cuts: list[list[list[int]]], k: int, parts: Sequence[Tensor]) -> Tensor:
    """Every film of the batch has cuts of its own."""
    films = [cut_together([part[i : i + 1] for part in parts], windows, cuts[i][k]) for i in range(len(cuts))]
    return torch.cat(films)


def _denoise_window(predict: PredictWindow, latents: Tensor, first_step: int) -> Tensor:
    alone = Windows(latents.shape[2], latents.shape[2], 0)
    return denoise_joined(predict, _sampler(), latents, alone, lambda k, parts: parts[0], _no_noise, first_step=first_step)


def _film_noise(clean: Tensor, scenes: Sequence[Scene]) -> Tensor:
    return torch.cat([noise_at(each.seed, 0, "blending", (1, *clean.shape[1:])) for each in scenes])


def _noised_window(part: Tensor, scenes: Sequence[Scene], number: int, t0: float) -> Tensor:
    noise = [noise_at(each.seed, number, "blending window", (1, *part.shape[1:])) for each in scenes]
    return _noised(part, torch.cat(noise), t0)


def _noised(clean: Tensor, noise: Tensor, t0: float) -> Tensor:
    alpha, sigma = alpha_sigma(t0)
    return alpha * clean + sigma * noise
