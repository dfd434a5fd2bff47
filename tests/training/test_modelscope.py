"""A base as diffusers writes it becomes our networks, number for number; what does not fit is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from st2v_stream.errors import CheckpointError, InvalidRequest
from st2v_stream.networks.cam import ControlBranch, ControlBranchConfig
from st2v_stream.networks.resampler import ImageResampler, ImageResamplerConfig
from st2v_stream.networks.sampling import make_sampler
from st2v_stream.networks.unet import StreamingUNet, StreamingUNetConfig
from st2v_stream.training.finetune_stage import is_trained
from st2v_stream.training.modelscope import (
    ExtenderParts,
    branch_config,
    is_new,
    new_parts,
    read_base,
    unet_config,
)
from training.tiny_base import SIDE, tiny_image_encoder, tiny_unet, tiny_vae, write_base

pytestmark = pytest.mark.slow

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "base"))


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_the_unet_starts_as_the_base(sound: Path) -> None:
    """With CAM and APM in place, and adding nothing yet."""
    base = read_base(sound)
    assert (base.width, base.height) == (SIDE, SIDE)
    parts = new_parts(base, seed=0).eval()
    rng = torch.Generator().manual_seed(0)
    sample, text = torch.randn((2, 4, 16, 4, 4), generator=rng), torch.randn((2, 12, 16), generator=rng)
    image, tail = torch.randn((2, 16, 16), generator=rng), torch.randn((2, 8, 3, SIDE, SIDE), generator=rng)
    timesteps = torch.tensor([10, 900])
    with torch.no_grad():
        cam = parts.cam(sample[:, :, :8], timesteps, text, parts.cam.embed_condition(tail))
        received = parts.unet(sample, timesteps, text, image, cam)
        torch.testing.assert_close(received, tiny_unet()(sample, timesteps, text).sample, atol=1e-6, rtol=1e-5)


def test_the_branch_starts_as_a_copy_that_sees_no_pixels(sound: Path) -> None:
    parts = new_parts(read_base(sound), seed=0)
    unet, cam = parts.unet.state_dict(), parts.cam.state_dict()
    copied = {name for name in cam if name in unet}
    assert all(torch.equal(cam[name], unet[name]) for name in copied)
    assert {name for name in cam if name not in copied} == {
        name for name in cam if name.startswith("controlnet_cond_embedding.")
    }
    assert parts.cam.embed_condition(torch.ones(1, 8, 3, SIDE, SIDE)).abs().max() == 0
    assert not any(is_new(name) for name in cam)


def test_the_vae_and_the_text_encoder_are_the_bases(sound: Path) -> None:
    base = read_base(sound)
    frames = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = tiny_vae().encode(frames).latent_dist.mean * 0.18215
        torch.testing.assert_close(base.vae.encode(frames), expected, atol=1e-6, rtol=1e-5)
        assert base.text(["a red boat"]).shape == (1, 12, 16)


def test_seeds_decide_what_is_new(sound: Path) -> None:
    base = read_base(sound)
    first, again, other = (new_parts(base, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert differing
    assert all(is_new(name) or name.startswith(("resampler.", "cam.controlnet_cond_embedding.")) for name in differing)


@pytest.mark.parametrize("kind", ["missing", "unknown", "shape"])
def test_a_tensor_that_does_not_fit_is_named(folder: Path, kind: str) -> None:
    path = folder / "unet" / WEIGHTS
    tensors = load_file(path)
    name = "up_blocks.1.resnets.0.conv1.weight"
    if kind == "missing":
        del tensors[name]
    elif kind == "unknown":
        name = "up_blocks.7.weight"
        tensors[name] = torch.zeros(1)
    else:
        tensors[name] = torch.zeros(1, 2)
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        new_parts(read_base(folder), seed=0)
    assert name in str(caught.value)
    assert "unet" in str(caught.value)


@pytest.mark.parametrize(
    "missing",
    [
        "unet/config.json",
        "vae/config.json",
        f"vae/{WEIGHTS}",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
        f"image_encoder/{WEIGHTS}",
    ],
)
def test_a_missing_file_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(CheckpointError) as caught:
        read_base(folder)
    assert missing.split("/", maxsplit=1)[0] in str(caught.value)


def test_missing_weights_of_the_unet_are_named(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"lacks .*unet: expected diffusion_pytorch_model.safetensors"):
        new_parts(read_base(folder), seed=0)


def test_no_base_and_no_image_encoder(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="no base: expected a folder with unet/"):
        read_base(folder / "none")
    shutil.rmtree(folder / "image_encoder")
    with pytest.raises(InvalidRequest, match=r"APM needs an image encoder: expected OpenCLIP .*--image-encoder FOLDER"):
        read_base(folder)


@pytest.mark.parametrize(
    ("part", "settings", "said"),
    [
        ("unet", {"act_fn": "gelu"}, "act_fn: expected 'silu', received 'gelu'"),
        ("unet", {"up_block_types": ["UpBlock3D", "UpBlock3D"]}, "up_block_types: expected"),
        ("unet", {"cross_attention_dim": 32}, "widths of text and UNet"),
        ("vae", {"shift_factor": 0.5}, "shift_factor: expected None, received 0.5"),
        ("vae", {"latent_channels": 5}, "vae"),
    ],
)
def test_another_architecture_is_refused(folder: Path, part: str, settings: dict[str, object], said: str) -> None:
    change(folder / part / "config.json", **settings)
    with pytest.raises(CheckpointError) as caught:
        read_base(folder)
    assert said in str(caught.value)


def test_another_prediction_is_refused(folder: Path) -> None:
    change(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    with pytest.raises(CheckpointError, match="expected 'epsilon', received 'v_prediction'"):
        read_base(folder)


def test_any_scheduler_gives_the_published_sampler(folder: Path) -> None:
    expected = read_base(folder).scheduler
    shutil.rmtree(folder / "scheduler")
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "linspace"}
    DPMSolverMultistepScheduler(**schedule).save_pretrained(folder / "scheduler")
    received = read_base(folder).scheduler
    assert {name: received[name] for name in expected} == expected
    assert make_sampler(received, 50).timesteps[:2].tolist() == [981, 961]


def test_half_weights_are_read_too(sound: Path, folder: Path) -> None:
    path = folder / "unet" / WEIGHTS
    save_file({name: value.half() for name, value in load_file(path).items()}, path.with_suffix(".fp16.safetensors"))
    path.unlink()
    received, expected = (new_parts(read_base(home), seed=0).unet.state_dict() for home in (folder, sound))
    for name, value in expected.items():
        assert received[name].dtype == torch.float32
        torch.testing.assert_close(received[name], value if is_new(name) else value.half().float(), rtol=0, atol=0)


def test_padding_is_what_the_special_tokens_say(sound: Path, folder: Path) -> None:
    """As in ModelScope's folder, where tokenizer_config.json says something else."""
    (folder / "tokenizer" / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<eos>"}))
    base = read_base(folder)
    ids = base.text.tokenizer(["a red boat"], padding="max_length", max_length=12).input_ids[0]
    assert ids == [4, 5, 7] + 9 * [2]
    assert not torch.equal(base.text(["a red boat"]), read_base(sound).text(["a red boat"]))
    base.text.tokenizer.save_pretrained(folder / "exported")
    assert AutoTokenizer.from_pretrained(folder / "exported").pad_token == "<eos>"


def test_old_names_of_the_vae_are_read_too(sound: Path, folder: Path) -> None:
    path = folder / "vae" / WEIGHTS
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    for new, name in old.items():
        tensors = {key.replace(f".{new}.", f".{name}."): value for key, value in tensors.items()}
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in tensors
    save_file(tensors, path)
    received, expected = (read_base(home).vae.state_dict() for home in (folder, sound))
    assert all(torch.equal(received[name], value) for name, value in expected.items())


def test_openclips_own_folder_is_read_too(sound: Path, tmp_path: Path) -> None:
    encoder = tiny_image_encoder()
    tensors = {name.removeprefix("model."): value for name, value in encoder.state_dict().items()}
    text_half = ("token_embedding.weight", "positional_embedding", "ln_final.bias", "text_projection", "logit_scale")
    leftovers = {name: torch.zeros(1) for name in (*text_half, "transformer.resblocks.0.ln_1.weight")}
    vision = {"image_size": 28, "patch_size": 14, "width": 16, "layers": 1, "head_width": 8}
    save_file(tensors | leftovers, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 8, "vision_cfg": vision}}))
    frames = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(read_base(sound, tmp_path).image_encoder(frames), encoder(frames))


def test_the_published_sizes() -> None:
    """ModelScope's own settings give the published networks, and the paper's trained parameters are the published count."""
    settings = {
        "sample_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["CrossAttnDownBlock3D"] * 3 + ["DownBlock3D"],
        "up_block_types": ["UpBlock3D"] + ["CrossAttnUpBlock3D"] * 3,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "cross_attention_dim": 1024,
        "attention_head_dim": 64,
    }
    config = unet_config(settings, text_tokens=77)
    assert config == StreamingUNetConfig()
    assert branch_config(config, downscale=8) == ControlBranchConfig()
    with torch.device("meta"):
        networks = StreamingUNet(config), ControlBranch(ControlBranchConfig()), ImageResampler(ImageResamplerConfig())
        parts = ExtenderParts(*networks)
    counts = {
        case: sum(value.numel() for name, value in parts.named_parameters() if is_trained(name, case[0], train_spatial=case[1]))
        for case in (("cam", False), ("cam", True), ("apm", False), ("apm", True))
    }
    cam = 621_981_664 + 68_867_200  # branch and mergers
    assert counts["cam", False] == counts["cam", True] == cam
    assert counts["apm", False] == cam + 377_744 + 22_299_904  # APM's mixing, the resampler
    assert counts["apm", True] == 1_579_437_236  # the published trainable set, by its gradient set-up and by the file's size
