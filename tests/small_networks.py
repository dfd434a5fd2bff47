"""A storybook-like set of networks, small enough for tests of milliseconds, with random weights in every path."""

from __future__ import annotations

import torch
from torch import nn

from st2v_stream.networks.cam import ControlBranch, ControlBranchConfig
from st2v_stream.networks.resampler import LatentImageEncoder, LatentImageEncoderConfig
from st2v_stream.networks.unet import StreamingUNet, StreamingUNetConfig
from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig

SIZES = {
    "in_channels": 12,
    "block_out_channels": (16, 32),
    "cross_attention_levels": (True, True),
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "transformer_in_heads": 2,
    "norm_num_groups": 8,
    "cross_attention_dim": 16,
    "frame_positions": True,
    "images_skip_temporal": True,
    "temporal_dropout": 0.0,
}


def small_unet(**changes: object) -> StreamingUNet:
    settings = {
        "out_channels": 12,
        "prediction_type": "v",
        "text_tokens": 12,
        "apm_alpha_init": 0.5,
        "cam_head_dim": 8,
        "cam_frame_positions": True,
        "cam_key_norm": True,
    }
    return StreamingUNet(StreamingUNetConfig(**SIZES | settings | changes)).eval()  # type: ignore[arg-type]


def small_branch(**changes: object) -> ControlBranch:
    settings = {"cam_features": "clean", "condition_channels": None}
    return ControlBranch(ControlBranchConfig(**SIZES | settings | changes)).eval()  # type: ignore[arg-type]


def small_image_encoder() -> LatentImageEncoder:
    return LatentImageEncoder(LatentImageEncoderConfig(widths=(8, 8), cross_attention_dim=16)).eval()


def small_vae() -> FrameAutoencoder:
    """Eight-fold like storybook's; 64-pixel frames give 8 x 8 latents of 12 channels."""
    config = FrameAutoencoderConfig(
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=12,
        norm_num_groups=8,
        mid_block_add_attention=False,
        latents_mean=(0.1,) * 12,
        latents_std=(0.9,) * 12,
        patch_size=4,
    )
    return FrameAutoencoder(config).eval()


def randomize(network: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every tensor, also those that start at zero, so that every path contributes."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.state_dict().values():
            draw = torch.randn(value.shape, generator=rng)
            value.copy_(draw / (value.numel() / value.shape[0]) ** 0.5 if value.ndim >= 2 else value + 0.1 * draw)
    return network
