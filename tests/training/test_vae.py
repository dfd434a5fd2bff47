from __future__ import annotations

import copy

import numpy as np
import torch

from st2v_stream.training.ahead import map_ahead
from st2v_stream.training.pool import build_pool
from st2v_stream.training.recipe import PoolRecipe, VaeRecipe
from st2v_stream.training.vae import VaeStage, finished, new_autoencoder, to_network


def make_stage() -> VaeStage:
    return VaeStage(new_autoencoder(0), VaeRecipe(batch=2), seed=0, size=32)


def test_a_few_steps_lower_the_loss() -> None:
    stage = make_stage()
    losses = [stage.train_step(step, 2.5e-3) for step in range(16)]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4]), losses


def test_a_resumed_vae_continues_bit_for_bit() -> None:
    whole, second = make_stage(), make_stage()
    for step in range(2):
        whole.train_step(step, 1e-3)
    second.load_state_dict(copy.deepcopy(whole.state_dict()))
    for step in range(2, 4):
        whole.train_step(step, 1e-3)
        second.train_step(step, 1e-3)
    received = second.state_dict()["vae"]
    for name, value in whole.state_dict()["vae"].items():
        assert torch.equal(value, received[name]), name


def test_finished_latents_are_unit_normal_and_decode_as_before() -> None:
    trained = new_autoencoder(0)
    vae = finished(trained.state_dict(), seed=0, size=64, frames=16)
    frames = to_network(np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3)).astype(np.uint8))
    torch.testing.assert_close(vae.decode(vae.encode(frames)), trained.decode(trained.encode(frames)), atol=1e-4, rtol=1e-3)
    assert vae.config.latents_std is not None
    assert len(vae.config.latents_std) == 12


def test_a_pool_is_the_same_every_time_and_whole() -> None:
    vae = finished(new_autoencoder(0).state_dict(), seed=0, size=64, frames=4)
    one, two = (build_pool(vae, 3, PoolRecipe(), seed=0, purpose="films", size=64) for _ in range(2))
    assert one.opening.shape == one.later.shape == (3, 16, 12, 8, 8)
    assert one.tail.shape == (3, 8, 12, 8, 8)
    assert one.anchor.shape == (3, 2, 12, 8, 8)
    for name, value in vars(one).items():
        assert torch.equal(value, vars(two)[name]), name


def test_map_ahead_keeps_the_order() -> None:
    assert list(map_ahead(abs, range(-5, 5), workers=0)) == [abs(value) for value in range(-5, 5)]
    assert list(map_ahead(abs, range(-5, 5), workers=2)) == [abs(value) for value in range(-5, 5)]
