from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from st2v_stream.training.denoising import CamApmStage, DenoisingStage, windows_of
from st2v_stream.training.muon import orthogonalized, parameter_groups
from st2v_stream.training.noise import noised, shifted, training_times
from st2v_stream.training.parts import Parts
from st2v_stream.training.recipe import CamApmRecipe, DiffusionRecipe
from training.tiny_training import base_stage, cam_apm_stage, tiny_parts, tiny_pool

pytestmark = pytest.mark.slow

STAGES = [base_stage, cam_apm_stage]


@pytest.mark.parametrize("make_stage", STAGES)
def test_ten_steps_lower_the_loss(make_stage: Callable[[], DenoisingStage]) -> None:
    stage = make_stage()
    before = stage.validate()
    for step in range(10):
        stage.train_step(step, 1e-2)
    after = stage.validate()  # the same films, noise and noise levels: single steps differ too much to compare
    assert sum(after.values()) < 0.9 * sum(before.values()), (before, after)


@pytest.mark.parametrize("make_stage", STAGES)
def test_a_resumed_training_continues_bit_for_bit(make_stage: Callable[[], DenoisingStage]) -> None:
    whole = make_stage()
    for step in range(2):
        whole.train_step(step, 1e-3)
    kept = copy.deepcopy(whole.state_dict())
    second = make_stage()
    second.load_state_dict(kept)
    for step in range(2, 4):  # the second of them has the momentum of the first
        whole.train_step(step, 1e-3)
        second.train_step(step, 1e-3)
    expected, received = whole.state_dict(), second.state_dict()
    for part in ("parts", "average"):
        for name, value in expected[part].items():
            assert torch.equal(value, received[part][name]), name


def test_validation_names_every_noise_level() -> None:
    assert set(base_stage().validate()) == {"images_0.6", "images_0.8", "images_0.95", "images_1.0"}
    times = ("0.6", "0.95", "1.0")
    assert set(cam_apm_stage().validate()) == {f"{kind}_{time}" for kind in ("starting", "continuing") for time in times}


def test_images_leave_the_temporal_layers_alone() -> None:
    stage = base_stage()
    before = {name: value.clone() for name, value in stage.parts.named_parameters()}
    stage.train_step(0, 1e-3)
    moved = {name for name, value in stage.parts.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert not any("temp_" in name or "transformer_in" in name or name.startswith("cam.") for name in moved)


def test_every_parameter_is_in_one_group() -> None:
    parts = Parts()
    grouped = [id(parameter) for group in parameter_groups(parts) for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in parts.parameters())


def test_orthogonalized_pushes_singular_values_to_one() -> None:
    matrices = torch.randn((3, 8, 20), generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_the_v_target_gives_back_signal_and_noise() -> None:
    clean, noise = torch.randn(2, 12, 1, 8, 8), torch.randn(2, 12, 1, 8, 8)
    times = torch.tensor([0.3, 0.9])
    noisy, v = noised(clean, noise, times)
    angle = (times * torch.pi / 2).view(2, 1, 1, 1, 1)
    torch.testing.assert_close(angle.cos() * noisy - angle.sin() * v, clean, atol=1e-5, rtol=0)
    torch.testing.assert_close(angle.sin() * noisy + angle.cos() * v, noise, atol=1e-5, rtol=0)


def test_shift_moves_times_towards_noise() -> None:
    times = training_times(64, 4.0, torch.Generator().manual_seed(0))
    assert times.min() > 0
    assert times.max() < 1
    assert times.median() > 0.8
    assert shifted(torch.tensor([0.5]), 1.0).item() == pytest.approx(0.5)


def test_a_start_continues_a_held_picture() -> None:
    pool = tiny_pool()
    pool.opening = torch.arange(16.0).view(1, 16, 1, 1, 1).expand(3, 16, 12, 8, 8).half()
    pool.anchor[:, 0] = 0.5
    window, tail = windows_of(pool, torch.tensor([2, 1]), torch.tensor([True, False]))
    assert window[0, :, 0, 0, 0].tolist() == [0.0] * 8 + [1.0, 2, 3, 4, 5, 6, 7, 8]
    assert tail[0].eq(0.5).all()
    assert torch.equal(window[1], pool.later[1])
    assert torch.equal(tail[1], pool.tail[1])


def test_without_a_spatial_rate_the_image_model_stays() -> None:
    parts = tiny_parts()
    stage = CamApmStage(
        parts, tiny_pool(), tiny_pool(), DiffusionRecipe(), recipe=CamApmRecipe(batch=2, spatial_rate=0.0), seed=0
    )
    before = {name: value.clone() for name, value in parts.named_parameters()}
    for step in range(3):  # some gradients are zero until others have moved
        stage.train_step(step, 1e-2)
    moved = {name for name, value in parts.named_parameters() if not torch.equal(value, before[name])}
    assert all(parameter.requires_grad for parameter in parts.text_encoder.parameters())
    assert any("temp_" in name for name in moved)
    assert any(name.startswith("cam.") for name in moved)
    assert not any("resnets" in name and name.startswith("unet.") for name in moved)


def test_many_windows_are_nearly_pure_noise() -> None:
    stage, clean = cam_apm_stage(), torch.zeros(400, 12, 1, 8, 8)
    recipe = CamApmRecipe(blind_share=0.5, blind_time=0.01)
    _, _, timesteps = stage._noised(clean, recipe, torch.Generator().manual_seed(0))
    assert 0.45 < (timesteps > 990).float().mean() < 0.65
