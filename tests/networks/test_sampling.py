"""Samplers and addressed noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from st2v_stream.networks.guidance import Guidance, rescale_std
from st2v_stream.networks.sampling import (
    ContinuousSampler,
    DdimSampler,
    alpha_sigma,
    clean_latents,
    denoise,
    draw_published,
    make_sampler,
    noise_at,
    shifted_time,
)

MODELSCOPE = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def test_noise_has_an_address() -> None:
    noise = noise_at(33, 2, "init", (4, 5))
    assert noise.dtype == torch.float32
    assert torch.equal(noise, noise_at(33, 2, "init", (4, 5)))
    others = [(34, 2, "init"), (33, 3, "init"), (33, 2, "step:0"), (3, 32, "init")]
    assert not any(torch.equal(noise, noise_at(*address, (4, 5))) for address in others)


def test_ddim_as_published() -> None:
    """Timesteps and noise levels measured on the published pipeline at 50 steps."""
    sampler = make_sampler(MODELSCOPE, 50)
    assert isinstance(sampler, DdimSampler)
    assert sampler.timesteps[:2].tolist() == [981, 961]
    assert sampler.timesteps[-2:].tolist() == [21, 1]
    for t, sigma in ((981, 0.4544633), (481, 0.2876853), (1, 0.020648)):
        k = sampler.timesteps.tolist().index(t)
        zero, one = torch.zeros(1), torch.ones(1)
        assert sampler.step(k, zero, zero, one).item() == pytest.approx(sigma, abs=1e-6)


def test_published_draws() -> None:
    rng = torch.Generator().manual_seed(33)
    init, noise = draw_published(rng, (1, 4, 16, 32, 32), 50)
    torch.testing.assert_close(init.flatten()[:4], torch.tensor([0.601374, 0.108741, -0.449875, 0.784147]), rtol=0, atol=1e-6)
    expected = torch.tensor([0.65238, -0.195502, 1.314519, -0.404387])
    torch.testing.assert_close(noise[0].flatten()[:4], expected, rtol=0, atol=1e-6)
    assert len(noise) == 50


@pytest.mark.parametrize("noise_schedule", ["cosine", "linear"])
@pytest.mark.parametrize("prediction_type", ["v", "flow", "epsilon"])
@pytest.mark.parametrize("steps", [1, 6])
def test_continuous_sampler_finds_a_single_point(noise_schedule: str, prediction_type: str, steps: int) -> None:
    """Data that is one point: an exact prediction leads there, whatever the steps."""
    target, start = torch.full((1, 2), 0.7), noise_at(0, 0, "init", (1, 2))

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(timestep.item() / 1000, noise_schedule)
        noise = (latents - alpha * target) / sigma
        return {"v": alpha * noise - sigma * target, "flow": noise - target, "epsilon": noise}[prediction_type]

    settings = {"noise_schedule": noise_schedule, "prediction_type": prediction_type, "shift": 3.0}
    out = denoise(predict, ContinuousSampler(settings, steps), start, lambda k: start, Guidance(1.0))
    if prediction_type == "epsilon" and steps == 1:
        return  # noise prediction says nothing about x0 where alpha is 0
    torch.testing.assert_close(out, target, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("noise_schedule", ["cosine", "linear"])
def test_more_steps_come_closer_with_second_order(noise_schedule: str) -> None:
    """Gaussian data of std 0.5: the probability flow maps x to 0.5 x, the exact x0 prediction is known."""
    settings = {"noise_schedule": noise_schedule, "prediction_type": "flow" if noise_schedule == "linear" else "v"}

    def error(steps: int) -> float:
        sampler = ContinuousSampler(settings, steps)
        x = torch.ones(1)
        for k in range(steps):
            alpha, sigma = sampler._levels[k]
            x = sampler.step(k, x * alpha * 0.25 / (alpha**2 * 0.25 + sigma**2), x, None)
        return abs(x.item() - 0.5)

    assert error(8) < error(4) / 2
    assert error(64) < 2e-3


def test_shift_multiplies_the_noise_ratio() -> None:
    for schedule in ("cosine", "linear"):
        ratio = [sigma / alpha for alpha, sigma in (alpha_sigma(t, schedule) for t in (0.3, shifted_time(0.3, 4, schedule)))]
        assert ratio[1] == pytest.approx(4 * ratio[0])
    assert alpha_sigma(1.0) == (0.0, 1.0)
    assert math.isclose(shifted_time(1.0, 4.0), 1.0)


def test_clean_latents_invert_each_prediction() -> None:
    clean, noise, (alpha, sigma) = torch.tensor([0.4]), torch.tensor([-1.1]), alpha_sigma(0.4)
    noisy = alpha * clean + sigma * noise
    predictions = {"v": alpha * noise - sigma * clean, "epsilon": noise}
    for prediction_type, prediction in predictions.items():
        torch.testing.assert_close(clean_latents(noisy, prediction, alpha, sigma, prediction_type), clean)
    flow_levels = alpha_sigma(0.4, "linear")
    noisy = flow_levels[0] * clean + flow_levels[1] * noise
    torch.testing.assert_close(clean_latents(noisy, noise - clean, *flow_levels, "flow"), clean)


def test_guidance() -> None:
    uncond, cond = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 3.0]])
    assert torch.equal(Guidance(2.0)(torch.cat([uncond, cond])), torch.tensor([[2.0, 5.0]]))
    assert torch.equal(Guidance(1.0)(cond), cond)
    rescaled = rescale_std(torch.tensor([[2.0, 5.0]]), cond, 1.0)
    torch.testing.assert_close(rescaled.std(), cond.std())


def test_unknown_scheduler_is_named() -> None:
    with pytest.raises(ValueError, match="received 'NoSuchScheduler'"):
        make_sampler({"_class_name": "NoSuchScheduler"}, 4)
