"""randomized_blending: the enhancer's loop over a whole film with a stand-in network (golden README section 3)."""

from __future__ import annotations

import math
import random
from functools import partial
from typing import Any

import pytest
import torch
from golden_folder import deviation, part, read, settings
from torch import Tensor

from st2v_stream.networks.blending import Windows, cut_together, denoise_joined, draw_cuts_as_coded
from st2v_stream.networks.enhancer_sampling import VideoToVideoSampler, WholeFilmSampler, predict_clean
from st2v_stream.networks.guidance import Guidance

pytestmark = pytest.mark.golden
TOLERANCE = 1e-4
CASES = sorted(settings("randomized_blending"))


class Recorded:
    """One case: its tensors, its settings, and our sampler."""

    def __init__(self, case: str) -> None:
        self.io, self.config = part(read("randomized_blending"), f"{case}."), settings("randomized_blending")[case]
        config = self.config
        self.windows = Windows(config["frames"], config["chunk_size"], config["overlap_size"])
        self.sampler = VideoToVideoSampler(config["steps_argument"], config["total_noise_levels"])
        self.text = torch.tensor([config["y_uncond"], config["y_cond"]]).view(2, 1, 1)
        self.guidance = Guidance(config["guide_scale"], config["guide_rescale"])

    def predict(self, k: int, latents: Tensor) -> Tensor:
        """Clean latents of one window at step k, from the two guided passes of the stand-in."""
        return predict_clean(stand_in, self.sampler, k, latents, self.text, self.guidance)


def stand_in(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """A network whose output depends on a frame's place in its window and on the window's mean."""
    place = torch.arange(x.shape[2], dtype=torch.float32).view(-1, 1, 1)
    mean = x.mean(2, keepdim=True)
    return torch.tanh(0.3 * x) + 0.01 * int(t) / 1000 + y.item() + 0.05 * torch.cos(place) + 0.1 * torch.tanh(mean)


class Watched(WholeFilmSampler):
    """Keeps what the network sees and the blended predictions."""

    def __init__(self, sampler: VideoToVideoSampler) -> None:
        super().__init__(sampler)
        self.inputs: list[Tensor] = []
        self.clean: list[Tensor] = []

    def step(self, k: int, quantity: Tensor, latents: Tensor, noise: Tensor | None) -> Tensor:
        self.inputs.append(self._sampler.network_input(k, latents))
        self.clean.append(quantity)
        return super().step(k, quantity, latents, noise)


@pytest.mark.parametrize("case", CASES)
def test_whole_loop(case: str) -> None:
    recorded = Recorded(case)
    io, windows, solver = recorded.io, recorded.windows, Watched(recorded.sampler)
    assert len(windows.starts) == recorded.config["n_chunks"]

    def join(k: int, parts: Any) -> Tensor:
        return cut_together(parts, windows, io["draw.cut_indices"][k].tolist())

    def step_noise(k: int) -> Tensor:  # the last step draws none
        drawn = io["draw.brownian_noise"]
        return drawn[k] if k < len(drawn) else torch.full_like(drawn[0], math.nan)

    start = io["in.noised_latents"] * recorded.sampler.levels[0]
    out = denoise_joined(recorded.predict, solver, start, windows, join, step_noise)
    assert deviation(torch.stack(solver.inputs), io["mid.model_input_per_step"]) < TOLERANCE
    assert deviation(torch.stack(solver.clean), io["mid.x0_blended_per_step"]) < TOLERANCE
    assert deviation(out, io["out.latents"]) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_each_step_by_itself(case: str) -> None:
    """From the recorded input of every step: no step can make good what another one did."""
    recorded = Recorded(case)
    io, windows = recorded.io, recorded.windows
    for k, cuts in enumerate(io["draw.cut_indices"].tolist()):
        latents = io["mid.model_input_per_step"][k] * math.sqrt(1 + recorded.sampler.levels[k] ** 2)
        parts = map(partial(recorded.predict, k), windows.split(latents))
        assert deviation(cut_together(list(parts), windows, cuts), io["mid.x0_blended_per_step"][k]) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_cuts_are_pythons_random(case: str) -> None:
    recorded = Recorded(case)
    rng = random.Random(recorded.config["python_random_seed"])
    expected = recorded.io["draw.cut_indices"].tolist()
    assert [draw_cuts_as_coded(rng, recorded.windows) for _ in expected] == expected
