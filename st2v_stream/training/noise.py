"""The noise schedule: variance preserving, cosine, v-prediction, continuous time t in 0..1 (the network sees 1000 t).

    x_t = a z + s e        v = a e - s z        a = cos(pi t / 2), s = sin(pi t / 2)

At t = 1 nothing of the signal is left, as in the sampler's first step; v-prediction bears that (there v = -z). A `v` target
asks for the clean latent where noise is strong and for the noise where it is weak: a small network never has to learn to
copy.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

TIMESTEPS_PER_TIME = 1000
SAMPLING_SHIFT = 4.0
GUIDANCE_RESCALE = 0.7  # guidance would otherwise over-saturate (arXiv 2305.08891 sec. 3.4)


def scheduler_settings() -> dict[str, Any]:
    """`scheduler/scheduler_config.json` of the export; read by networks.sampling.make_sampler."""
    return {
        "_class_name": "ContinuousScheduler",
        "noise_schedule": "cosine",
        "prediction_type": "v",
        "shift": SAMPLING_SHIFT,
        "guidance_rescale": GUIDANCE_RESCALE,
    }


def shifted(u: Tensor, shift: float) -> Tensor:
    """Times 0..1 moved towards noise: s / a is multiplied by `shift`."""
    angle = u.clamp(1e-4, 1 - 1e-4) * math.pi / 2
    return 2 / math.pi * torch.atan(shift * torch.tan(angle))


def training_times(batch: int, shift: float, rng: torch.Generator) -> Tensor:
    """One time per sample, stratified over the batch, `(B,)`."""
    return shifted((torch.rand(batch, generator=rng) + torch.arange(batch)) / batch, shift)


def noised(clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy latents and the v target for clean latents `(B, C, F, h, w)` at times `(B,)`."""
    angle = times.view(-1, *(1,) * (clean.ndim - 1)) * math.pi / 2
    a, s = torch.cos(angle), torch.sin(angle)
    return a * clean + s * noise, a * noise - s * clean
