from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from st2v_stream.errors import InvalidRequest
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training import decoder
from st2v_stream.training.decoder import DecoderStage, begin_memory, grown, load_vae
from st2v_stream.training.recipe import DecoderRecipe
from training.tiny_training import tiny_autoencoder

pytestmark = pytest.mark.slow

SIZE, SIDE = 32, 4  # frames and latents
TINY = DecoderRecipe(films=4, memory_slots=16, memory_frames=256, noisy_share=0.25, remembered_share=0.25)


def make_stage(settling_steps: int = 10) -> DecoderStage:
    vae = grown(tiny_autoencoder(), TINY, seed=0, side=SIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "SETTLING_STEPS", settling_steps)
        begin_memory(vae, TINY, seed=0, size=SIZE)
    return DecoderStage(vae, TINY, seed=0, size=SIZE)


def latents(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 12, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("channels", "layers"), [((8, 8), 3), ((24, 24), 1), ((16, 16), 2)])
def test_a_grown_decoder_paints_the_same(channels: tuple[int, ...], layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "UNEVENNESS", 0.0)
    vae = tiny_autoencoder()
    recipe = dataclasses.replace(TINY, block_out_channels=channels, layers_per_block=layers, memory_slots=0)
    larger = grown(vae, recipe, seed=0)
    torch.testing.assert_close(larger.decode(latents()), vae.decode(latents()), atol=1e-5, rtol=1e-4)
    assert sum(p.numel() for p in larger.decoder.parameters()) > sum(p.numel() for p in vae.decoder.parameters())


def test_copies_of_a_channel_may_part() -> None:
    recipe = dataclasses.replace(TINY, block_out_channels=(16, 16), memory_slots=0)
    first, second = grown(tiny_autoencoder(), recipe, seed=0).decoder.conv_out.weight.unflatten(1, (8, 2)).unbind(2)
    assert not torch.equal(first, second)


def test_a_growth_that_copies_cannot_make_is_refused() -> None:
    for channels, expected in (((12, 8), "whole multiples"), ((16, 24), "equally wide")):
        recipe = dataclasses.replace(TINY, block_out_channels=channels)
        with pytest.raises(InvalidRequest, match=expected):
            grown(tiny_autoencoder(), recipe, seed=0)


def test_growing_to_the_same_changes_nothing() -> None:
    vae = tiny_autoencoder()
    assert grown(vae, dataclasses.replace(TINY, memory_slots=0), seed=0) is vae


def test_the_memory_refuses_another_size() -> None:
    vae = grown(tiny_autoencoder(), TINY, seed=0, side=SIDE)
    with pytest.raises(ValueError, match=r"expected \(12, 4, 4\), received \(12, 8, 8\)"):
        vae.decode(torch.zeros(1, 12, 8, 8))


def test_the_memory_begins_with_backgrounds() -> None:
    stage = make_stage(decoder.SETTLING_STEPS)
    frames, masks = stage.validation
    flat = stage.vae.encode(frames.flatten(0, 1))
    recalled = torch.nn.functional.pixel_shuffle(stage.vae.memory.recalled(flat), 4).view_as(frames)
    seen = 1 - masks
    error = ((recalled - frames) ** 2 * seen).sum() / seen.sum()
    mean = (frames * seen).sum((0, 1), keepdim=True) / seen.sum((0, 1), keepdim=True)
    assert error < 0.5 * ((mean - frames) ** 2 * seen).sum() / seen.sum()  # sixteen pictures of thirty tell more than one


def test_the_decoder_learns_and_the_encoder_stays() -> None:
    stage = make_stage()
    encoder = {name: value.clone() for name, value in stage.vae.encoder.state_dict().items()}
    before = stage.validate()
    for step in range(20):
        stage.train_step(step, 3e-3)
    after = stage.validate()
    assert after["psnr_db"] > before["psnr_db"] + 1, (before, after)
    kept = stage.vae.encoder.state_dict()
    for name, value in encoder.items():
        assert torch.equal(value, kept[name]), name


def test_a_resumed_decoder_continues_bit_for_bit() -> None:
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


def test_a_checkpoint_brings_its_sizes() -> None:
    stage = make_stage()
    stage.train_step(0, 1e-3)
    again: FrameAutoencoder = load_vae(stage.state_dict())
    assert again.config == stage.vae.config
    torch.testing.assert_close(again.decode(latents()), stage.vae.decode(latents()).detach())
