"""What the config fields beyond the published behaviour do, on small random networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from small_networks import randomize, small_branch, small_image_encoder, small_unet, small_vae
from torch import Tensor, nn

from st2v_stream.networks.ar_step import chunk_conditions, extend, predictor
from st2v_stream.networks.cam import ControlBranch
from st2v_stream.networks.folder import FolderModule
from st2v_stream.networks.guidance import Guidance
from st2v_stream.networks.sampling import ContinuousSampler, noise_at
from st2v_stream.networks.unet import StreamingUNet

LATENTS, TEXT, IMAGE, CONTROL = (1, 12, 16, 8, 8), (1, 12, 16), (1, 16, 16), (1, 12, 8, 8, 8)


@pytest.fixture(autouse=True)
def one_seed() -> None:
    torch.manual_seed(7)


def draw(shape: tuple[int, ...], purpose: str) -> Tensor:
    return noise_at(1, 0, purpose, shape)


def window() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return draw(LATENTS, "latents"), torch.tensor([300.5]), draw(TEXT, "text"), draw(IMAGE, "image")


def test_clean_features_once_per_chunk_equal_those_of_every_step() -> None:
    unet, branch = randomize(small_unet()), randomize(small_branch())
    text, image, control = draw(TEXT, "text"), draw(IMAGE, "image"), draw(CONTROL, "control")
    once = predictor(unet, branch, chunk_conditions(branch, text, image, control_latents=control))
    latents = draw(LATENTS, "latents")
    for t in (900.0, 20.0):
        anew = unet(latents, torch.tensor([t]), text, image, branch.clean_features(control, text))
        assert torch.equal(once(latents, torch.tensor(t)), anew)


def test_one_frame_skips_every_temporal_layer() -> None:
    unet = randomize(small_unet())
    sample, t, text, image = window()
    before = unet(sample[:, :, :1], t, text, image)
    randomize_temporal(unet)
    assert torch.equal(unet(sample[:, :, :1], t, text, image), before)
    video = unet(sample, t, text, image)
    randomize_temporal(unet, seed=5)
    assert not torch.allclose(unet(sample, t, text, image), video)


def randomize_temporal(unet: StreamingUNet, seed: int = 3) -> None:
    for name, module in unet.named_modules():
        if name == "transformer_in" or name.endswith(("temp_convs", "temp_attentions")):
            randomize(module, seed)


def test_published_behaviour_runs_temporal_layers_on_one_frame() -> None:
    unet = randomize(small_unet(images_skip_temporal=False))
    sample, t, text, image = window()
    before = unet(sample[:, :, :1], t, text, image)
    randomize_temporal(unet)
    assert not torch.allclose(unet(sample[:, :, :1], t, text, image), before)


def test_zero_init_starts_as_the_identity() -> None:
    unet, branch = small_unet(), small_branch()
    unet.init_weights()
    branch.init_weights()
    sample, t, text, image = window()
    cam = branch.clean_features(draw(CONTROL, "control"), text)
    assert torch.count_nonzero(unet(sample, t, text, image, cam)) == 0
    nn.init.normal_(unet.conv_out.weight)
    assert torch.equal(unet(sample, t, text, image, cam), unet(sample, t, text, image))  # CAM adds nothing yet
    hidden = draw((16, 16, 8, 8), "hidden")
    emb, block = draw((16, 64), "emb"), unet.down_blocks[0]
    assert torch.equal(block.layer(0, hidden, emb, text, num_frames=16), hidden)


def test_gradients_reach_cam_apm_and_the_image_encoder() -> None:
    unet, branch, encoder = randomize(small_unet()), randomize(small_branch()), randomize(small_image_encoder())
    sample, t, text, _ = window()
    image = encoder(draw((1, 12, 8, 8), "anchor"))
    unet(sample, t, text, image, branch.clean_features(draw(CONTROL, "control"), text)).square().mean().backward()
    without = {
        name
        for network in (unet, branch, encoder)
        for name, weight in network.named_parameters()
        if weight.grad is None or not weight.grad.any()
    }
    # the features of the running hidden state end at the mid block; null tokens stand for "no anchor"
    assert without == {"null"}


def test_branch_copies_the_encoder_of_the_unet() -> None:
    unet, branch = randomize(small_unet()), randomize(small_branch(), seed=2)
    branch.copy_from(unet)
    ours = unet.state_dict()
    assert all(torch.equal(value, ours[name][: len(value)]) for name, value in branch.state_dict().items())


def test_apm_off_is_alpha_zero() -> None:
    unet = randomize(small_unet())
    sample, t, text, image = window()
    on, off = unet(sample, t, text, image), unet(sample, t, text)
    assert not torch.allclose(on, off)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if name.endswith("alpha"):
                weight.zero_()
    assert torch.equal(unet(sample, t, text, image), off)


def test_frame_positions_tell_frames_apart() -> None:
    """Without them equal frames stay equal up to the borders that the temporal convolutions see."""
    unet = randomize(small_unet())
    sample, t, text, image = window()
    equal_frames = sample[:, :, :1].expand(-1, -1, 16, -1, -1)
    out = unet(equal_frames, t, text, image)
    assert (out[:, :, 7] - out[:, :, 8]).abs().max() > 1e-4


def test_batch_rows_do_not_mix() -> None:
    unet, branch = randomize(small_unet()), randomize(small_branch())
    sample, text, image = draw((2, *LATENTS[1:]), "two"), draw((2, *TEXT[1:]), "text2"), draw((2, *IMAGE[1:]), "image2")
    control, t = draw((2, *CONTROL[1:]), "control2"), torch.tensor([700.0, 20.0])
    both = unet(sample, t, text, image, branch.clean_features(control, text))
    for row in (slice(0, 1), slice(1, 2)):
        cam = branch.clean_features(control[row], text[row])
        alone = unet(sample[row], t[row], text[row], image[row], cam)
        torch.testing.assert_close(both[row], alone, rtol=1e-4, atol=1e-4)


def test_noisy_and_clean_need_their_own_control() -> None:
    noisy: ControlBranch = small_branch(cam_features="noisy", condition_channels=(4, 4, 4, 4))
    with pytest.raises(ValueError, match="expected control_frames, received None"):
        chunk_conditions(noisy, draw(TEXT, "text"), None, control_latents=draw(CONTROL, "control"))
    with pytest.raises(ValueError, match="expected control_latents, received None"):
        chunk_conditions(small_branch(), draw(TEXT, "text"), None)


def test_on_step_between_steps_and_after_the_last() -> None:
    unet, calls = randomize(small_unet()), []
    text = draw((2, *TEXT[1:]), "text2")
    conditions = chunk_conditions(randomize(small_branch()), text, None, control_latents=draw(CONTROL, "control"))
    sampler = ContinuousSampler({"shift": 4.0}, 3)
    out = extend(
        unet, None, conditions, sampler, Guidance(1.5, 0.7), draw(LATENTS, "init"), draw_nothing,
        lambda k, n: calls.append((k, n)),
    )  # fmt: skip
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert out.isfinite().all()


def draw_nothing(k: int) -> Tensor:
    raise AssertionError(f"a deterministic sampler asked for the noise of step {k}")


@pytest.mark.parametrize("make", [small_unet, small_branch, small_image_encoder, small_vae])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_folder_round_trip(make: type[FolderModule], dtype: torch.dtype, tmp_path: Path) -> None:
    network = randomize(make())
    network.save_pretrained(tmp_path, dtype)
    again = type(network).from_pretrained(tmp_path)
    assert again.config == network.config
    assert again.dtype == torch.float32
    received = again.state_dict()
    assert all(torch.equal(received[name], value.to(dtype).float()) for name, value in network.state_dict().items())


def test_folder_says_what_does_not_fit(tmp_path: Path) -> None:
    network = small_unet()
    network.save_pretrained(tmp_path)
    other = small_unet(block_out_channels=(16, 24))
    (tmp_path / "config.json").unlink()
    (tmp_path / "other").mkdir()
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "config.json").write_text((tmp_path / "other" / "config.json").read_text())
    with pytest.raises(ValueError, match=r"expected shape \(24.*received \(32"):
        StreamingUNet.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"no_such_setting": 1}')
    with pytest.raises(ValueError, match=r"received \['no_such_setting'\]"):
        StreamingUNet.from_pretrained(tmp_path)


def test_vae_normalises_per_channel_and_decodes_in_pieces() -> None:
    vae = randomize(small_vae())
    frames = draw((3, 3, 64, 64), "frames")
    latents = vae.encode(frames)
    assert latents.shape == (3, 12, 8, 8)
    assert vae.config.downscale == 8
    torch.testing.assert_close(vae.normalize(vae.denormalize(latents)), latents)
    assert vae.decode(latents).shape == frames.shape
    torch.testing.assert_close(vae.decode(latents), vae.decode(latents, frames_at_once=1), rtol=1e-4, atol=1e-4)
    plain = dataclasses.replace(vae.config, latents_mean=None, latents_std=None)
    vae.config = plain
    torch.testing.assert_close(vae.normalize(latents), latents * plain.scaling_factor)
