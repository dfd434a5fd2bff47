"""How the enhancer denoises: v prediction on a cosine schedule with zero terminal SNR, DPM-Solver++ (2M) SDE from t = 599.

SDEdit (arXiv 2108.01073): the film's own latents are noised to t = 599 and denoised from there. The solver (arXiv 2211.01095,
algorithm 2, SDE form) works on x = clean + s noise with s = sigma / alpha; the network sees x / sqrt(1 + s^2), which has
alpha^2 + sigma^2 = 1. The published code enters with sigma / alpha where 1 / alpha were right, 2.8 % too little noise; so
do we. Its sampler noise, one Brownian tree over the whole film, cannot be continued when a film grows: ours is addressed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from st2v_stream.networks.guidance import Guidance

TRAIN_STEPS = 1000
NOISE_LEVELS = 600
"""SDEdit's strength: the first of these levels, t = 599, is where the film is noised to."""

GUIDANCE = Guidance(scale=7.5, rescale=0.2)
"""As published."""

_LOG_SNR_MAX = 15.0
_SHIFTS = (2.0, 4.0)  # at the clean and at the noisy end


def video_to_video_sigmas() -> Tensor:
    """(1000,) float32 noise levels sigma_t with alpha^2 + sigma^2 = 1; the last is exactly 1 (zero terminal SNR).

    log SNR is a blend over t of two cosine schedules, shifted by 2 log(1/2) and 2 log(1/4) (arXiv 2301.11093 sec. 2.3).
    """
    clean = torch.linspace(1, 0, TRAIN_STEPS, dtype=torch.float64)
    low, high = math.atan(math.exp(_LOG_SNR_MAX / 2)), math.atan(math.exp(-_LOG_SNR_MAX / 2))
    cosine = -2 * torch.log(torch.tan(low + clean * (high - low)))
    near, far = (cosine + 2 * math.log(1 / shift) for shift in _SHIFTS)
    sigmas = torch.sqrt(torch.sigmoid(-(clean * near + (1 - clean) * far)))
    stretched = sigmas[0] + (sigmas - sigmas[0]) * (1 - sigmas[0]) / (sigmas[-1] - sigmas[0])
    stretched[-1] = 1.0
    return stretched.float()


def trailing_times(num_inference_steps: int, noise_levels: int = NOISE_LEVELS) -> Tensor:
    """(evaluations,) float32 times, from noise_levels - 1 down; usually as many as steps.

    In float32, as published: for a few step counts (6) rounding adds one more.
    """
    last = noise_levels - 1
    points = torch.arange(last, -1, -(last + 1) / (num_inference_steps + 1), dtype=torch.float32)
    return points.clamp(0, last)[:-1]


class VideoToVideoSampler:
    """DPM-Solver++ (2M) SDE, midpoint, eta 1. It remembers nothing: windows at different steps share one.

    timesteps: (evaluations,) int64, what the network is told. levels: sigma / alpha before every step, and 0.
    """

    uses_noise = True

    def __init__(self, num_inference_steps: int = 30, noise_levels: int = NOISE_LEVELS) -> None:
        sigmas = video_to_video_sigmas()
        alphas = torch.sqrt(1 - sigmas**2)
        times = trailing_times(num_inference_steps, noise_levels)
        self.timesteps = times.round().long()
        self.levels = (*_levels_at(times, sigmas, alphas), 0.0)
        self._sigmas, self._alphas = sigmas[self.timesteps].tolist(), alphas[self.timesteps].tolist()
        self._start = float(alphas[noise_levels - 1]), float(sigmas[noise_levels - 1])

    @property
    def steps(self) -> int:
        """Evaluations of the network per window."""
        return len(self.timesteps)

    def noised(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Clean latents at the first noise level, alpha^2 + sigma^2 = 1."""
        alpha, sigma = self._start
        return alpha * clean + sigma * noise

    def start(self, clean: Tensor, noise: Tensor) -> Tensor:
        """What the solver starts from, of the latents of a film and noise of the same shape."""
        return self.noised(clean, noise) * self.levels[0]

    def network_input(self, k: int, latents: Tensor) -> Tensor:
        """The solver's latents at step k as the network sees them."""
        return latents / math.sqrt(1 + self.levels[k] ** 2)

    def clean(self, k: int, prediction: Tensor, latents: Tensor) -> Tensor:
        """Clean latents that a v prediction at step k implies. alpha and sigma are those of the whole-number time."""
        return self._alphas[k] * self.network_input(k, latents) - self._sigmas[k] * prediction

    def advance(self, k: int, clean: Tensor, latents: Tensor, before: Tensor | None, noise: Tensor | None) -> Tensor:
        """Latents after step k. before: the clean latents of step k - 1 (None at k = 0). The last step needs no noise.

        Only sums and products of numbers at the same place: a film cut in pieces gives the same, to the bit.
        """
        level, following = self.levels[k], self.levels[k + 1]
        if following == 0 or noise is None:
            return clean
        h = math.log(level / following)
        gain = 1 - math.exp(-2 * h)
        out = (following / level * math.exp(-h)) * latents + gain * clean
        if k and before is not None:
            ratio = h / math.log(self.levels[k - 1] / level)
            out = out + (0.5 * gain * ratio) * (clean - before)
        return out + (following * math.sqrt(gain)) * noise


class WholeFilmSampler:
    """The same as a `Sampler` for `denoise_joined`: it remembers the step before."""

    uses_noise = True

    def __init__(self, sampler: VideoToVideoSampler) -> None:
        self._sampler = sampler
        self._before: Tensor | None = None
        self.timesteps = sampler.timesteps

    def guided_quantity(self, k: int, prediction: Tensor, latents: Tensor) -> Tensor:
        """The clean latents."""
        return self._sampler.clean(k, prediction, latents)

    def step(self, k: int, quantity: Tensor, latents: Tensor, noise: Tensor | None) -> Tensor:
        """Latents after step k."""
        before, self._before = self._before, quantity
        return self._sampler.advance(k, quantity, latents, before, noise)


Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents (1, C, F, h, w), timestep, text (1, tokens, D)) -> v of the same shape as the latents."""


def predict_clean(
    network: Denoiser, sampler: VideoToVideoSampler, k: int, latents: Tensor, text: Tensor, guidance: Guidance = GUIDANCE
) -> Tensor:
    """Clean latents of one window (1, C, F, h, w) at step k. text: (passes, tokens, D), unconditional first.

    One pass after the other, as published: half the activations of both at once.
    """
    scaled = sampler.network_input(k, latents)
    passes = [network(scaled, sampler.timesteps[k], row[None]) for row in text]
    return sampler.clean(k, guidance(torch.cat(passes)), latents)


def _levels_at(times: Tensor, sigmas: Tensor, alphas: Tensor) -> list[float]:
    """sigma / alpha at fractional times: log of it runs straight between whole ones."""
    logs = torch.log(sigmas / alphas)
    low = times.floor().long()
    high, share = times.ceil().long(), times - low
    return [float(level) for level in torch.exp((1 - share) * logs[low] + share * logs[high])]
