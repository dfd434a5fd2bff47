"""Temporal convolution as a 2-D one: the same numbers as diffusers' Conv3d."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from small_networks import SIZES, randomize, small_unet

from st2v_stream.networks.sampling import noise_at
from st2v_stream.networks.video_blocks import TemporalConv


@pytest.mark.parametrize("num_frames", [1, 8, 16])
def test_conv2d_path_equals_conv3d(num_frames: int) -> None:
    ours = randomize(TemporalConv(16, 16, norm_num_groups=8)).eval()
    theirs = TemporalConvLayer(16, 16, norm_num_groups=8).eval()
    theirs.load_state_dict(ours.state_dict())
    hidden = noise_at(0, 0, "hidden", (2 * num_frames, 16, 5, 3))
    torch.testing.assert_close(ours(hidden, num_frames), theirs(hidden, num_frames), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
def test_plain_unet_equals_the_one_of_diffusers(size: tuple[int, int]) -> None:
    """Odd sizes too: the decoder returns to the size of its skip feature."""
    ours = randomize(small_unet(image_tokens=0, num_control_frames=0, frame_positions=False, transformer_in_heads=8))
    theirs = UNet3DConditionModel(
        in_channels=12,
        out_channels=12,
        down_block_types=("CrossAttnDownBlock3D",) * 2,
        up_block_types=("CrossAttnUpBlock3D",) * 2,
        **{
            name: SIZES[name]
            for name in (
                "block_out_channels", "layers_per_block", "norm_num_groups", "cross_attention_dim", "attention_head_dim"
            )
        },
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    sample, text = noise_at(0, 0, "sample", (2, 12, 16, *size)), noise_at(0, 0, "text", (2, 12, 16))
    t = torch.tensor([981, 20])
    torch.testing.assert_close(ours(sample, t, text), theirs(sample, t, text).sample, rtol=1e-4, atol=2e-4)
