from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from st2v_stream.networks.guidance import Guidance
from st2v_stream.networks.sampling import make_sampler
from st2v_stream.training.distil import Chains, grid, needed_clean, predictor, solve, sub_grid, travelled
from st2v_stream.training.noise import scheduler_settings
from training.tiny_training import TINY_DISTIL, distil_stage, tiny_pool

pytestmark = pytest.mark.slow


def half_of(latents: torch.Tensor, time: float) -> torch.Tensor:
    """A stand-in for a network."""
    return 0.5 * latents + time


@pytest.mark.parametrize("steps", [2, 3, 4, 8])
def test_the_grid_is_the_sampler_s(steps: int) -> None:
    expected = make_sampler(scheduler_settings(), steps).timesteps / 1000
    torch.testing.assert_close(torch.tensor(grid(steps)[:-1]), expected)
    assert grid(steps)[-1] == 0.0


def test_the_second_order_is_the_sampler_s() -> None:
    latents = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    sampler = make_sampler(scheduler_settings(), 5)
    expected = latents
    for k, timestep in enumerate(sampler.timesteps):
        expected = sampler.step(k, half_of(expected, timestep.item() / 1000), expected, None)
    torch.testing.assert_close(solve(half_of, latents, grid(5), order=2), expected)


def test_two_steps_of_the_sampler_are_first_order() -> None:
    latents = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(solve(half_of, latents, grid(2), order=2), solve(half_of, latents, grid(2), order=1))


@pytest.mark.parametrize("step", [0, 1, 2])
def test_the_target_leads_where_the_teacher_landed(step: int) -> None:
    latents = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    time, next_time = grid(3)[step : step + 2]
    times = sub_grid(3, step, 2)
    assert (times[0], times[-1]) == pytest.approx((time, next_time))
    landed = solve(half_of, latents, times, order=2)
    clean = needed_clean(latents, landed, time, next_time)
    torch.testing.assert_close(travelled(latents, clean, time, next_time), landed)


def test_the_student_comes_nearer_to_the_guided_teacher() -> None:
    recipe = dataclasses.replace(TINY_DISTIL, guidance_scale=3.0, image_share=0.0, drift_share=0.0, steps=((2, 1.0),))
    stage = distil_stage(recipe)
    before = stage.validate()
    for step in range(6):
        stage.train_step(step, 5e-3)
    after = stage.validate()  # seen: 0.76 of it
    assert after["steps_2"] < 0.9 * before["steps_2"], (before, after)


def test_pictures_come_nearer_too() -> None:
    stage = distil_stage(dataclasses.replace(TINY_DISTIL, image_guidance_scale=3.0, image_share=1.0, image_steps=2))
    conditions, noise = stage._validation_conditions()[1], torch.randn(3, 12, 1, 8, 8)
    wanted = solve(predictor(stage.teacher, conditions, stage._picture_guidance), noise, grid(4), order=2)

    def error() -> float:
        made = solve(predictor(stage.average, conditions, Guidance(1.0)), noise, grid(2), order=1)
        return (made - wanted).pow(2).mean().item()

    before = error()
    for step in range(40):
        stage.train_step(step, 5e-3)
    assert error() < 0.8 * before  # seen: 0.53 of it


def test_only_the_student_learns() -> None:
    stage = distil_stage(dataclasses.replace(TINY_DISTIL, image_share=0.0))
    teacher = {name: value.clone() for name, value in stage.teacher.state_dict().items()}
    for step in range(2):
        stage.train_step(step, 1e-3)
    student = stage.parts.state_dict()
    for name, value in stage.teacher.state_dict().items():
        assert torch.equal(value, teacher[name]), name
        if name.startswith(("text_encoder", "image_encoder")):
            assert torch.equal(student[name], value), name
    assert not torch.equal(student["unet.conv_out.weight"], teacher["unet.conv_out.weight"])


def test_a_resumed_distillation_continues_bit_for_bit() -> None:
    recipe = dataclasses.replace(TINY_DISTIL, drift_share=1.0, image_share=0.0, chain_chunks=1000)
    whole, second = distil_stage(recipe), distil_stage(recipe)
    for step in range(2):
        whole.train_step(step, 1e-3)
    second.load_state_dict(copy.deepcopy(whole.state_dict()))
    for step in range(2, 4):
        whole.train_step(step, 1e-3)
        second.train_step(step, 1e-3)
    expected, received = whole.state_dict(), second.state_dict()
    assert int(whole.chains.ages.max()) > 0, "no chain went on: the test would not see one lost"
    for part in ("parts", "average", "chains"):
        for name, value in expected[part].items():
            assert torch.equal(value, received[part][name]), (part, name)


def test_chains_queue_and_begin_anew() -> None:
    pool = tiny_pool()
    chains = Chains.begun(pool, torch.tensor([0, 1, 2]))
    made = torch.full((2, 8, 12, 8, 8), 7.0)
    chains.advance(pool, made, torch.tensor([-1, 2]))
    assert chains.films.tolist() == [2, 0, 2]
    assert chains.ages.tolist() == [0, 1, 0]
    assert torch.equal(chains.tails[1], made[0])
    assert torch.equal(chains.tails[2], pool.anchor[2, :1].float().expand(8, -1, -1, -1))


def test_without_guidance_one_pass_is_enough() -> None:
    stage = distil_stage(dataclasses.replace(TINY_DISTIL, guidance_scale=1.0))
    assert stage._guidance == Guidance(1.0, stage._guidance.rescale)
    assert stage._guidance.passes == 1
    stage.train_step(0, 1e-3)
