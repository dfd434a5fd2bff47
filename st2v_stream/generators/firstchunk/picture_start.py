"""A given picture as the start of a text-to-video model that was never trained to take one.

Every frame of the window begins as the picture, noised to the level of the first step, and is held on that forward process
(x_t = sqrt(a_t) z + sqrt(1 - a_t) e, the frame's own e) until its turn comes: frame f is let go at the strength
START + (1 - START) f / (F - 1), frame 0 never. So the first frame is the picture, the second may differ in detail only, the
last one takes from it little more than its layout; and all frames have the same noise level at every step, as in
training. With one strength for all frames this would be SDEdit (arXiv 2108.01073), with 0 for the first and 1 for the
others a replacement of the first frame. Why neither of these: docs/bases.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from st2v_stream.networks.sampling import Sampler

START = 0.5
"""Strength at which the frame after the picture would be let go if it were the first; from here to 1 the frames take turns."""


class PictureStart:
    """Implements `Sampler` around another one (DDIM or DPM-Solver++ over 1000 discrete timesteps)."""

    def __init__(self, sampler: Sampler, settings: Mapping[str, Any], picture: Tensor, noise: Tensor) -> None:
        """picture: normalised latents (1, C, 1, h, w). noise: (1, C, F, h, w), what the window would have begun with."""
        self._sampler, self._picture, self._noise = sampler, picture, noise
        self._alphas_cumprod = DDIMScheduler.from_config(_noise_settings(settings)).alphas_cumprod
        self._strengths = strengths(noise.shape[2]).to(noise.device)
        self.timesteps: Tensor = sampler.timesteps
        self.uses_noise = sampler.uses_noise

    def begin(self) -> Tensor:
        """The latents before step 0: the picture in every frame, noised."""
        return self._noised(0)

    def guided_quantity(self, k: int, prediction: Tensor, latents: Tensor) -> Tensor:
        """As the sampler inside."""
        return self._sampler.guided_quantity(k, prediction, latents)

    def step(self, k: int, quantity: Tensor, latents: Tensor, noise: Tensor | None) -> Tensor:
        """Latents after step k; frames whose turn has not come are put back on the picture."""
        after = self._sampler.step(k, quantity, latents, noise)
        if k + 1 == len(self.timesteps):
            return after
        held = self._strengths * len(self._alphas_cumprod) < float(self.timesteps[k + 1])
        return torch.where(held.view(1, 1, -1, 1, 1), self._noised(k + 1), after)

    def _noised(self, k: int) -> Tensor:
        alpha = float(self._alphas_cumprod[int(self.timesteps[k])])
        return alpha**0.5 * self._picture + (1 - alpha) ** 0.5 * self._noise


def strengths(frames: int) -> Tensor:
    """(F,) in [0, 1]: the share of the noise at which each frame leaves the picture; frame 0 stays on it."""
    ramp = START + (1 - START) * torch.arange(frames) / max(1, frames - 1)
    return torch.cat([torch.zeros(1), ramp[1:]])


def _noise_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    return {name: settings[name] for name in names if name in settings}
