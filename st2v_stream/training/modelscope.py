"""A text-to-video model to build on: a folder in the layout of ModelScope's `text-to-video-ms-1.7b`.

    unet/           a `UNet3DConditionModel` of diffusers: becomes a `StreamingUNet`; CAM and APM are new in it
    vae/            an `AutoencoderKL`: becomes a `FrameAutoencoder`
    text_encoder/   a `CLIPTextModel`; tokenizer/ beside it
    scheduler/      any scheduler of diffusers': its betas, sampled by DDIM as published
    image_encoder/  OpenCLIP's visual tower, for APM: `OpenClipImageEncoder`, or as OpenCLIP publishes it
                    (open_clip_config.json, open_clip_model.safetensors). Not part of ModelScope's folder.

Sizes come from the configs, names are matched strictly: every tensor of the folder has its place, and nothing but CAM and APM
stays without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel

from st2v_stream.checkpoints.first_chunk import tokenizer_from
from st2v_stream.checkpoints.parts import checkpoint_errors, read, read_json, read_network
from st2v_stream.errors import CheckpointError, InvalidRequest
from st2v_stream.generators.conditioning import ClipText
from st2v_stream.networks.cam import CamMerger, ControlBranch, ControlBranchConfig
from st2v_stream.networks.folder import config_from_settings, load_weights, weight_problems
from st2v_stream.networks.resampler import (
    DROPPED_PREFIXES,
    ImageResampler,
    ImageResamplerConfig,
    OpenClipImageEncoder,
    OpenClipImageEncoderConfig,
)
from st2v_stream.networks.unet import StreamingUNet, StreamingUNetConfig
from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig
from st2v_stream.training import randomness

NEW_IN_UNET = ("cross_attention_merger_", ".attn2.conv.", ".attn2.conv_ln.", ".attn2.alpha")
"""Parts of the names that a base does not have: CAM's mergers, APM's mixing. All others are the same in diffusers."""

PUBLISHED_DDIM = {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
_NOISE_SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
_FIXED_IN_UNET = {"act_fn": "silu", "downsample_padding": 1, "mid_block_scale_factor": 1, "num_attention_heads": None}
_FIXED_IN_VAE = {"shift_factor": None, "use_quant_conv": True, "use_post_quant_conv": True}
_VAE_SETTINGS = (
    *("in_channels", "out_channels", "block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups"),
    *("mid_block_add_attention", "scaling_factor", "latents_mean", "latents_std"),
)


@dataclass
class Base:
    """What the folder holds, except the UNet's weights: `new_parts` reads them to where they are trained or frozen."""

    folder: Path
    unet_config: StreamingUNetConfig
    vae: FrameAutoencoder
    text: ClipText
    image_encoder: OpenClipImageEncoder
    scheduler: dict[str, Any]  # DDIM's
    width: int
    height: int
    image_encoder_folder: Path

    @property
    def encoder_folders(self) -> list[Path]:
        """Where that lies which clips are encoded with."""
        return [*(self.folder / part for part in ("vae", "text_encoder", "tokenizer")), self.image_encoder_folder]

    def encoders_to(self, device: torch.device) -> None:
        """Move what clips are encoded with."""
        for network in (self.vae, self.text.model, self.image_encoder):
            network.to(device)


class ExtenderParts(nn.Module):  # type: ignore[misc]
    """The networks that training touches; names are the folders of the export."""

    def __init__(self, unet: StreamingUNet, cam: ControlBranch, resampler: ImageResampler) -> None:
        super().__init__()
        self.unet, self.cam, self.resampler = unet, cam, resampler


def read_base(folder: Path, image_encoder: Path | None = None) -> Base:
    """Read it all. Raises `InvalidRequest` (no such folder, no image encoder) or `CheckpointError` naming file and fault."""
    if not folder.is_dir():
        raise InvalidRequest("no base", expected="a folder with unet/, vae/, ...", received=str(folder), param="base")
    tower = _image_encoder_folder(folder, image_encoder)
    text, vae = _read_text(folder), _read_vae(folder / "vae")
    settings = read(folder / "unet", _unet_settings)
    config = read(folder / "unet", lambda _: unet_config(settings, text.max_tokens))
    _require_same("widths of text and UNet", config.cross_attention_dim, text.model.config.hidden_size, folder)
    _require_same("latent channels of VAE and UNet", config.in_channels, vae.config.latent_channels, folder)
    scheduler = read(folder / "scheduler" / "scheduler_config.json", lambda path: ddim_settings(read_json(path)))
    width, height = (side * vae.config.downscale for side in _sides(settings["sample_size"]))
    return Base(folder, config, vae, text, read(tower, read_image_encoder), scheduler, width, height, tower)


def unet_config(settings: Mapping[str, Any], text_tokens: int) -> StreamingUNetConfig:
    """Settings of a `UNet3DConditionModel` -> the UNet with CAM and APM at the published proportions.

    Raises ValueError for what ModelScope's UNet does not do either.
    """
    _require_fixed(settings, _FIXED_IN_UNET)
    levels = tuple(block == "CrossAttnDownBlock3D" for block in settings["down_block_types"])
    mirrored = ["CrossAttnUpBlock3D" if attention else "UpBlock3D" for attention in reversed(levels)]
    if list(settings["up_block_types"]) != mirrored:
        raise ValueError(f"up_block_types: expected {mirrored}, received {list(settings['up_block_types'])}")
    return StreamingUNetConfig(
        in_channels=settings["in_channels"],
        out_channels=settings["out_channels"],
        block_out_channels=tuple(settings["block_out_channels"]),
        cross_attention_levels=levels,
        layers_per_block=settings["layers_per_block"],
        attention_head_dim=settings["attention_head_dim"],
        norm_num_groups=settings["norm_num_groups"],
        norm_eps=settings["norm_eps"],
        cross_attention_dim=settings["cross_attention_dim"],
        text_tokens=text_tokens,
        cam_head_dim=settings["attention_head_dim"],
    )


def branch_config(unet: StreamingUNetConfig, downscale: int) -> ControlBranchConfig:
    """CAM's branch for this UNet: noisy features, as published; its pixel encoder shrinks as the VAE does, by `downscale`."""
    width = unet.block_out_channels[0]
    stages = downscale.bit_length()
    published = (32, 96, 256, 512, 512, 512)[:stages]  # for a width of 320 and a downscale of 8
    return ControlBranchConfig(
        in_channels=unet.in_channels,
        block_out_channels=unet.block_out_channels,
        cross_attention_levels=unet.cross_attention_levels,
        layers_per_block=unet.layers_per_block,
        attention_head_dim=unet.attention_head_dim,
        norm_num_groups=unet.norm_num_groups,
        norm_eps=unet.norm_eps,
        cross_attention_dim=unet.cross_attention_dim,
        num_frames=unet.num_control_frames,
        condition_channels=tuple(max(4, channels * width // 320) for channels in published),
    )


def new_parts(base: Base, seed: int) -> ExtenderParts:
    """The base's UNet, in which CAM and APM add nothing yet; CAM's branch, a copy of its encoder; a random resampler.

    Paper sec. 4.1 and 4.2; the published alpha starts at 0 (`apm_alpha_init`), so the first APM step moves the alphas alone.
    Raises `CheckpointError` if the UNet's weights are missing or not these.
    """
    torch.manual_seed(randomness.address(seed, "network weights"))
    unet = StreamingUNet(base.unet_config)
    for module in unet.modules():
        if isinstance(module, CamMerger):
            module.init_weights()
    theirs = read_network(UNet3DConditionModel, base.folder / "unet", torch.float32)
    with checkpoint_errors(base.folder / "unet"):
        adopt_weights(unet, theirs.state_dict())
    cam = ControlBranch(branch_config(base.unet_config, base.vae.config.downscale))
    cam.init_weights()
    cam.copy_from(unet)
    embedding_dim = base.image_encoder.config.output_dim
    sizes = ImageResamplerConfig(
        embedding_dim=embedding_dim,
        inner_dim=embedding_dim * 5 // 4,  # published: 1280 for 1024
        cross_attention_dim=base.unet_config.cross_attention_dim,
        image_tokens=base.unet_config.image_tokens,
    )
    return ExtenderParts(unet, cam, ImageResampler(sizes))


def adopt_weights(unet: StreamingUNet, tensors: Mapping[str, Tensor]) -> None:
    """Fill all of `unet` but `NEW_IN_UNET`. Raises ValueError naming what is missing, left over or of another shape."""
    expected = {name: tuple(value.shape) for name, value in unet.state_dict().items() if not is_new(name)}
    received = {name: tuple(value.shape) for name, value in tensors.items()}
    if problems := weight_problems(expected, received):
        raise ValueError("UNet3DConditionModel: " + "; ".join(problems))
    unet.load_state_dict(tensors, strict=False)


def is_new(name: str) -> bool:
    """Whether a tensor of the UNet is CAM's or APM's."""
    return any(part in name for part in NEW_IN_UNET)


def read_image_encoder(folder: Path) -> OpenClipImageEncoder:
    """OpenCLIP's visual tower, from our layout or from OpenCLIP's own folder (its text half is left out)."""
    encoder: OpenClipImageEncoder
    if not (folder / "open_clip_config.json").is_file():
        encoder = OpenClipImageEncoder.from_pretrained(folder)
        return encoder
    settings = read_json(folder / "open_clip_config.json")["model_cfg"]
    vision = settings["vision_cfg"]
    if settings.get("quick_gelu"):
        raise ValueError("quick_gelu: expected False, received True")
    config = OpenClipImageEncoderConfig(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["width"] // vision.get("head_width", 64),
        mlp_ratio=vision.get("mlp_ratio", 4.0),
        output_dim=settings["embed_dim"],
    )
    tensors = load_file(folder / "open_clip_model.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.startswith((*DROPPED_PREFIXES, "transformer."))}
    encoder = OpenClipImageEncoder(config)
    load_weights(encoder.eval(), {f"model.{name}": value for name, value in kept.items()})
    return encoder


def ddim_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """scheduler_config.json of the scheduler that extends films: the base's noise, sampled as published. Raises ValueError."""
    if settings.get("prediction_type", "epsilon") != "epsilon":
        raise ValueError(f"prediction_type: expected 'epsilon', received {settings['prediction_type']!r}")
    return PUBLISHED_DDIM | {name: value for name, value in settings.items() if name in _NOISE_SCHEDULE}


def _image_encoder_folder(folder: Path, given: Path | None) -> Path:
    found = folder / "image_encoder" if given is None else given
    if not found.is_dir():
        expected = f"OpenCLIP ViT-H-14 in {folder / 'image_encoder'}, or --image-encoder FOLDER"
        raise InvalidRequest("APM needs an image encoder", expected=expected, received="no such folder", param="image_encoder")
    return found


def _read_text(folder: Path) -> ClipText:
    model = read_network(CLIPTextModel, folder / "text_encoder", torch.float32, stem="model")
    return ClipText(read(folder / "tokenizer", tokenizer_from), model, model.config.max_position_embeddings)


def _read_vae(folder: Path) -> FrameAutoencoder:
    theirs = read_network(AutoencoderKL, folder, torch.float32)
    with checkpoint_errors(folder):
        _require_fixed(theirs.config, _FIXED_IN_VAE)
        known = {name: theirs.config[name] for name in _VAE_SETTINGS}
        vae: FrameAutoencoder = FrameAutoencoder(config_from_settings(FrameAutoencoderConfig, known))
        load_weights(vae.eval().requires_grad_(False), theirs.state_dict())
    return vae


def _unet_settings(folder: Path) -> Mapping[str, Any]:
    """config.json with diffusers' defaults for what it does not say."""
    with torch.device("meta"):
        settings: Mapping[str, Any] = UNet3DConditionModel.from_config(read_json(folder / "config.json")).config
    return settings


def _require_fixed(settings: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    for name, expected in fixed.items():
        if settings.get(name, expected) != expected:
            raise ValueError(f"{name}: expected {expected!r}, received {settings[name]!r}")


def _sides(sample_size: int | list[int]) -> tuple[int, int]:
    """Latent width and height: diffusers gives one number, or (height, width)."""
    return (sample_size, sample_size) if isinstance(sample_size, int) else (sample_size[1], sample_size[0])


def _require_same(what: str, expected: int, received: int, folder: Path) -> None:
    if expected != received:
        raise CheckpointError(f"{what} in {folder} differ", expected=expected, received=received)
