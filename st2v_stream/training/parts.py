"""Storybook's networks: the published classes with small sizes and the options that a small model needs."""

from __future__ import annotations

import torch
from torch import nn

from st2v_stream.networks.cam import ControlBranch, ControlBranchConfig
from st2v_stream.networks.resampler import LatentImageEncoder, LatentImageEncoderConfig
from st2v_stream.networks.unet import StreamingUNet, StreamingUNetConfig
from st2v_stream.training import randomness
from st2v_stream.training.text import MAX_TOKENS, TEXT_WIDTH, new_text_encoder

WINDOW_FRAMES = 16
TAIL_FRAMES = 8
LATENT_CHANNELS = 12
LATENT_SIDE = 8

_SHARED = {
    "in_channels": LATENT_CHANNELS,
    "block_out_channels": (80, 112),
    "cross_attention_levels": (True, True),
    "layers_per_block": 1,
    "attention_head_dim": 16,
    "norm_num_groups": 16,
    "cross_attention_dim": TEXT_WIDTH,
    "frame_positions": True,
    "images_skip_temporal": True,
    "temporal_dropout": 0.0,
}
UNET_CONFIG = StreamingUNetConfig(
    **_SHARED,
    out_channels=LATENT_CHANNELS,
    num_frames=WINDOW_FRAMES,
    prediction_type="v",
    text_tokens=MAX_TOKENS,
    image_tokens=16,
    apm_alpha_init=0.5,  # SiLU(0) = 0 would start APM without any gradient for its mixing weights
    num_control_frames=TAIL_FRAMES,
    cam_head_dim=16,
    cam_frame_positions=True,
    cam_key_norm=True,
)
CAM_CONFIG = ControlBranchConfig(**_SHARED, num_frames=TAIL_FRAMES, cam_features="clean", condition_channels=None)
IMAGE_ENCODER_CONFIG = LatentImageEncoderConfig(
    latent_channels=LATENT_CHANNELS, cross_attention_dim=TEXT_WIDTH, image_tokens=16
)


class Parts(nn.Module):
    """Everything that is trained after the VAE. Sub-module names are the folders of the export."""

    def __init__(
        self,
        unet: StreamingUNetConfig = UNET_CONFIG,
        cam: ControlBranchConfig = CAM_CONFIG,
        image_encoder: LatentImageEncoderConfig = IMAGE_ENCODER_CONFIG,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        torch.manual_seed(randomness.address(seed, "network weights"))
        self.unet = StreamingUNet(unet)
        self.unet.init_weights()
        self.cam = ControlBranch(cam)
        self.cam.init_weights()
        self.image_encoder = LatentImageEncoder(image_encoder)
        self.text_encoder = new_text_encoder(seed)

    def encode_text(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`(B, 12)` token numbers to `(B, 12, 64)`."""
        return self.text_encoder(token_ids).last_hidden_state
