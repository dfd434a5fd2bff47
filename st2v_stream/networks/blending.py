"""Films longer than a window: denoised in overlapping windows, joined by randomized blending (paper sec. 4.3).

The film's noise is drawn once per frame, so two windows see the same noise where they overlap (O frames). What they make of
it still differs, and a fixed border between them would show. Randomized blending moves the border in every step:

    as coded      each window predicts its clean latents; of the overlap the first r frames are the left window's, r uniform
                  on 0..O-1; then the solver takes one step on the whole film (`denoise_joined`)
    in the paper  each window takes its own solver step; of the overlap of the results x_{t-1} the first f frames are the left
                  window's, f uniform on 0..O: frame k = 1..O is the left's with probability 1 - k/(O+1) (`denoise_apart`)

A solver step is linear in (clean latents, latents, noise), so with equal cuts and a first-order solver both give the same;
they differ in the range of the cuts and in what a multistep solver remembers. Every draw comes in as an argument.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from st2v_stream.networks.sampling import Sampler, StepNoise

PredictWindow = Callable[[int, Tensor], Tensor]
"""(step k, latents (B, C, size, h, w) of one window) -> what the sampler's `step` takes, for example clean latents."""

Join = Callable[[int, Sequence[Tensor]], Tensor]
"""(step k, one (B, C, size, h, w) per window) -> (B, C, L, h, w)."""


@dataclass(frozen=True)
class Windows:
    """Where the windows of a film lie: `size` frames each (published 24), neighbours share `overlap` (published 8).

    Raises ValueError unless they cover the film exactly: num_frames = size + k (size - overlap). The published code checks
    less and returns uninitialised memory for the frames behind the last window. short_last: any length from one frame on; the
    last window, or the only one of a short film, ends where the film does.
    """

    num_frames: int
    size: int = 24
    overlap: int = 8
    short_last: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"overlap: expected 0 to {self.size - 1} frames, received {self.overlap}")
        if self.num_frames < 1:
            raise ValueError(f"windows of a film: expected one frame or more, received {self.num_frames}")
        if not self.short_last and (self.num_frames < self.size or (self.num_frames - self.size) % self.stride):
            expected = f"{self.size} frames and a multiple of {self.stride} more"
            raise ValueError(f"windows do not cover the film: expected {expected}, received {self.num_frames}")

    @property
    def stride(self) -> int:
        """Frames from one window's start to the next."""
        return self.size - self.overlap

    @property
    def starts(self) -> range:
        """First frame of every window."""
        return range(0, max(self.num_frames - self.overlap, 1), self.stride)

    def split(self, film: Tensor) -> list[Tensor]:
        """(B, C, L, h, w) -> one (B, C, size, h, w) per window (fewer frames in a short last one)."""
        if film.shape[2] != self.num_frames:
            raise ValueError(f"expected a film of {self.num_frames} frames, received {film.shape[2]}")
        return [film[:, :, start : start + self.size] for start in self.starts]


# ---------------------------------------------------------------- windows to a film


def cut_together(parts: Sequence[Tensor], windows: Windows, cuts: Sequence[int]) -> Tensor:
    """One film of the windows' frames: of each overlap the first `cut` are the left window's, the others the right one's.

    parts: one (B, C, size, h, w) per window. cuts: one of 0..overlap for every window but the first. -> (B, C, L, h, w).
    """
    _require_one_each("cuts", len(windows.starts) - 1, len(cuts))
    if not all(0 <= cut <= windows.overlap for cut in cuts):
        raise ValueError(f"cuts: expected 0 to {windows.overlap}, received {list(cuts)}")
    firsts = [0, *cuts]
    ends = [windows.stride + cut for cut in cuts] + [parts[-1].shape[2]]
    pieces = [part[:, :, first:end] for part, first, end in zip(parts, firsts, ends, strict=True)]
    return torch.cat(pieces, dim=2)


def average_together(parts: Sequence[Tensor], windows: Windows) -> Tensor:
    """One film of the windows' frames: every frame is the mean of the windows that have it. -> (B, C, L, h, w)."""
    _require_one_each("windows", len(windows.starts), len(parts))
    shape = list(parts[0].shape)
    shape[2] = windows.num_frames
    total, count = parts[0].new_zeros(shape), parts[0].new_zeros(windows.num_frames, 1, 1)
    for part, start in zip(parts, windows.starts, strict=True):
        total[:, :, start : start + part.shape[2]] += part
        count[start : start + part.shape[2]] += 1
    return total / count


def _require_one_each(what: str, expected: int, received: int) -> None:
    if expected != received:
        raise ValueError(f"{what}: expected {expected}, received {received}")


def draw_cuts_as_coded(rng: random.Random, windows: Windows) -> list[int]:
    """One step's cuts, uniform on 0..overlap-1: the overlap's last frame is always the right window's."""
    return [rng.randint(0, windows.overlap - 1) if windows.overlap else 0 for _ in windows.starts[1:]]


def draw_cuts_as_in_paper(rng: random.Random, windows: Windows) -> list[int]:
    """One step's cuts, uniform on 0..overlap."""
    return [rng.randint(0, windows.overlap) for _ in windows.starts[1:]]


# ---------------------------------------------------------------- the two loops


def denoise_joined(
    predict: PredictWindow,
    sampler: Sampler,
    latents: Tensor,
    windows: Windows,
    join: Join,
    step_noise: StepNoise,
    *,
    first_step: int = 0,
) -> Tensor:
    """Predictions are joined, then one step is taken on the film: with `cut_together`, randomized blending as coded.

    latents: (B, C, L, h, w) at the noise level of `sampler.timesteps[first_step]`. -> clean latents of the same shape.
    """
    for k in range(first_step, len(sampler.timesteps)):
        film = join(k, [predict(k, part) for part in windows.split(latents)])
        latents = sampler.step(k, film, latents, step_noise(k) if sampler.uses_noise else None)
    return latents


def denoise_apart(
    predict: PredictWindow,
    samplers: Sequence[Sampler],
    latents: Tensor,
    windows: Windows,
    join: Join,
    step_noise: StepNoise,
    *,
    first_step: int = 0,
) -> Tensor:
    """Every window takes its step by itself, then the results are joined: with `cut_together`, blending as in the paper.

    samplers: a fresh one per window, for each remembers its own past. The other arguments as in `denoise_joined`.
    """
    _require_one_each("samplers", len(windows.starts), len(samplers))
    for k in range(first_step, len(samplers[0].timesteps)):
        noise = windows.split(step_noise(k)) if samplers[0].uses_noise else [None] * len(samplers)
        parts = zip(samplers, windows.split(latents), noise, strict=True)
        latents = join(k, [sampler.step(k, predict(k, part), part, drawn) for sampler, part, drawn in parts])
    return latents
