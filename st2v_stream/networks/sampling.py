"""Denoising: every sampler has one signature, the loop can be read aloud, every random number has an address.

Published: DDIM, 50 steps, eta 1 for extensions (noise in every step, the last included), DPM-Solver++ 2M for the first
chunk; both are diffusers' schedulers. `ContinuousSampler` is DPM-Solver++ 2M in continuous time for models trained with
v or flow prediction.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from einops import rearrange
from torch import Tensor

from st2v_stream.networks.guidance import Guidance
from st2v_stream.types import OnStep

Predict = Callable[[Tensor, Tensor], Tensor]
"""(latents (B, C, F, h, w), timestep) -> predictions (passes * B, C, F, h, w), unconditional rows first."""

StepNoise = Callable[[int], Tensor]
"""Step k -> noise in the shape of the latents."""


class Sampler(Protocol):
    """One denoising run: made for one chunk, thrown away after it."""

    timesteps: Tensor
    uses_noise: bool

    def guided_quantity(self, k: int, prediction: Tensor, latents: Tensor) -> Tensor:
        """What guidance acts on and `step` takes: the prediction itself or the clean latents it implies."""
        ...

    def step(self, k: int, quantity: Tensor, latents: Tensor, noise: Tensor | None) -> Tensor:
        """Latents after step k."""
        ...


def denoise(
    predict: Predict,
    sampler: Sampler,
    latents: Tensor,
    step_noise: StepNoise,
    guidance: Guidance,
    on_step: OnStep = lambda k, n: None,
) -> Tensor:
    """From noise (B, C, F, h, w) to clean latents. `on_step` may raise to leave between two steps."""
    total = len(sampler.timesteps)
    for k, timestep in enumerate(sampler.timesteps):
        on_step(k, total)
        predictions = predict(latents, timestep)
        rows = torch.cat([latents] * guidance.passes)
        guided = guidance(sampler.guided_quantity(k, predictions, rows))
        latents = sampler.step(k, guided, latents, step_noise(k) if sampler.uses_noise else None)
    on_step(total, total)
    return latents


class DdimSampler:
    """DDIM (arXiv 2010.02502 eq. 12 and 16) with injected noise; "leading" timesteps with offset 1: 981, 961, ..., 1."""

    def __init__(self, settings: Mapping[str, Any], num_inference_steps: int, eta: float = 1.0) -> None:
        self._scheduler = DDIMScheduler.from_config(dict(settings))
        self._scheduler.set_timesteps(num_inference_steps)
        self._eta = eta
        self.timesteps: Tensor = self._scheduler.timesteps
        self.uses_noise = eta > 0

    def guided_quantity(self, k: int, prediction: Tensor, latents: Tensor) -> Tensor:
        return prediction

    def step(self, k: int, quantity: Tensor, latents: Tensor, noise: Tensor | None) -> Tensor:
        timestep = int(self.timesteps[k])
        # without a noise tensor diffusers would draw one itself, so eta 0 needs none and eta > 0 always gets one
        return self._scheduler.step(quantity, timestep, latents, eta=self._eta, variance_noise=noise, return_dict=False)[0]


class DpmSolverSampler:
    """DPM-Solver++ 2M, midpoint, lower order at the end, final sigma 0, "linspace" timesteps (published stage 1)."""

    uses_noise = False

    def __init__(self, settings: Mapping[str, Any], num_inference_steps: int) -> None:
        self._scheduler = DPMSolverMultistepScheduler.from_config(dict(settings))
        self._scheduler.set_timesteps(num_inference_steps)
        self.timesteps: Tensor = self._scheduler.timesteps

    def guided_quantity(self, k: int, prediction: Tensor, latents: Tensor) -> Tensor:
        return prediction

    def step(self, k: int, quantity: Tensor, latents: Tensor, noise: Tensor | None) -> Tensor:
        return self._scheduler.step(quantity, self.timesteps[k], latents, return_dict=False)[0]


class ContinuousSampler:
    """DPM-Solver++ 2M (arXiv 2211.01095) over x = alpha x0 + sigma e in continuous time t from 1 to 0.

    settings: `noise_schedule` "cosine" (alpha = cos(pi t / 2), sigma = sin) or "linear" (1 - t, t: rectified flow);
    `prediction_type` "v" (alpha e - sigma x0), "flow" (e - x0) or "epsilon" (e); `shift` multiplies sigma / alpha along
    an even grid, so more steps fall where noise is strong. `solver_order` 1 is DDIM, for distilled weights. The network
    sees t * 1000.
    """

    uses_noise = False

    def __init__(self, settings: Mapping[str, Any], num_inference_steps: int) -> None:
        self._schedule = settings.get("noise_schedule", "cosine")
        self._prediction_type = settings.get("prediction_type", "v")
        self._order = int(settings.get("solver_order", 2))
        grid = [1 - k / num_inference_steps for k in range(num_inference_steps + 1)]
        self._times = [shifted_time(t, float(settings.get("shift", 1.0)), self._schedule) for t in grid]
        self._levels = [alpha_sigma(t, self._schedule) for t in self._times]
        self.timesteps = torch.tensor([1000 * t for t in self._times[:-1]])
        self._previous: tuple[float, Tensor] | None = None  # log(alpha / sigma) and x0 of the step before

    def guided_quantity(self, k: int, prediction: Tensor, latents: Tensor) -> Tensor:
        return clean_latents(latents, prediction, *self._levels[k], self._prediction_type)

    def step(self, k: int, quantity: Tensor, latents: Tensor, noise: Tensor | None) -> Tensor:
        (alpha, sigma), (next_alpha, next_sigma) = self._levels[k], self._levels[k + 1]
        log_snr = math.log(max(alpha, 1e-3) / sigma)
        direction = quantity
        if (
            self._order == 2 and self._previous is not None and next_sigma > 0
        ):  # second order, except in the first and the last step
            before, old = self._previous
            ratio = (log_snr - before) / (math.log(next_alpha / next_sigma) - log_snr)
            direction = quantity + (quantity - old) / (2 * ratio)
        self._previous = (log_snr, quantity)
        shrink = next_sigma / sigma
        return shrink * latents + (next_alpha - alpha * shrink) * direction


def alpha_sigma(t: float, noise_schedule: str = "cosine") -> tuple[float, float]:
    """Signal and noise level at time t in [0, 1]; exactly (1, 0) and (0, 1) at the ends."""
    if noise_schedule == "linear":
        return 1 - t, t
    return (math.cos(math.pi * t / 2) if t < 1 else 0.0), math.sin(math.pi * t / 2)


def shifted_time(t: float, shift: float, noise_schedule: str = "cosine") -> float:
    """The time at which sigma / alpha is `shift` times that of t."""
    if t in (0.0, 1.0):
        return t
    if noise_schedule == "linear":
        return shift * t / (1 + (shift - 1) * t)
    return 2 / math.pi * math.atan(shift * math.tan(math.pi * t / 2))


def clean_latents(latents: Tensor, prediction: Tensor, alpha: float, sigma: float, prediction_type: str) -> Tensor:
    """x0 that a prediction at (alpha, sigma) implies."""
    if prediction_type == "v":
        return (alpha * latents - sigma * prediction) / (alpha**2 + sigma**2)
    if prediction_type == "flow":
        return (latents - sigma * prediction) / (alpha + sigma)
    return (latents - sigma * prediction) / max(alpha, 1e-3)


def make_sampler(settings: Mapping[str, Any], num_inference_steps: int, eta: float = 1.0) -> Sampler:
    """A fresh sampler for one chunk from `scheduler/scheduler_config.json`; eta matters to DDIM only."""
    match settings.get("_class_name"):
        case "DDIMScheduler":
            return DdimSampler(settings, num_inference_steps, eta)
        case "DPMSolverMultistepScheduler":
            return DpmSolverSampler(settings, num_inference_steps)
        case "ContinuousScheduler":
            return ContinuousSampler(settings, num_inference_steps)
        case other:
            known = "DDIMScheduler, DPMSolverMultistepScheduler or ContinuousScheduler"
            raise ValueError(f"scheduler _class_name: expected {known}, received {other!r}")


def first_chunk_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The published stage 1 runs DPM-Solver++ built from the DDIM settings, with its own `linspace` spacing."""
    if settings.get("_class_name") != "DDIMScheduler":
        return dict(settings)
    return dict(settings) | {"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "linspace"}


def noise_at(seed: int, chunk_index: int, purpose: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 on the CPU, addressed by (seed, chunk, purpose): the same on every machine, in any order.

    Purposes: `init`, `step:<k>`, `enhance:<frame>:<step>`.
    """
    # sha256, so that neighbouring addresses share nothing; torch's CPU generator uses the low 32 bits of a seed
    address = hashlib.sha256(f"{seed}/{chunk_index}/{purpose}".encode()).digest()
    rng = torch.Generator().manual_seed(int.from_bytes(address[:8], "little"))
    return torch.randn(shape, generator=rng)


def draw_published(rng: torch.Generator, shape: tuple[int, ...], num_inference_steps: int) -> tuple[Tensor, list[Tensor]]:
    """The published draws of one extension, from a running CPU generator: initial latents, then one tensor per step.

    shape: (1, C, F, h, w). The step noise is drawn frame-major, (F, C, h, w), as the published DDIM step runs on frames;
    it comes back as (1, C, F, h, w).
    """
    batch, channels, frames, height, width = shape
    init = torch.randn(shape, generator=rng)
    draws = [torch.randn(batch * frames, channels, height, width, generator=rng) for _ in range(num_inference_steps)]
    return init, [rearrange(draw, "(b f) c h w -> b c f h w", f=frames) for draw in draws]
