"""CAM, the conditional attention module: the last 8 frames of the film steer the next window (paper sec. 4.1).

Two halves: `ControlBranch`, a copy of the UNet's encoder that looks at the 8 frames ("short-term memory"), and
`CamMerger`, the attention through which the main UNet's skip features read the branch's features (eq. 3-4). Published
names: the branch is `unet.*` in the checkpoint, the mergers are `base_model.cross_attention_merger_*`.

As published the branch gets the first 8 *noisy* latents of the window plus encoded pixels of the 8 frames, anew in
every step (`cam_features="noisy"`). With `"clean"` it gets the VAE latents of the 8 frames at timestep 0: the features
then belong to the chunk and are computed once.

The paper's ablation compares CAM with two older ways to condition on the 8 frames; both are here, for `st2v evaluate`
(`StreamingUNetConfig.conditioning`). They know no attention in time, so each window frame needs its own control frame: the
8 window frames that repeat the tail's moments get the tail, the 8 new ones get zeros, and a mask channel tells the two
apart (`padded_with_mask`; the paper pads likewise).

    addition         as ControlNet: the branch runs over the padded window (`pads_to_window`), its features pass
                     zero-initialised 1x1 convolutions and are added to the skip features of the same frame (`AdditionMerger`)
    concatenation    no branch: the padded latents are further input channels of the UNet, with zero-initialised weights
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn

from st2v_stream.networks.video_blocks import MidBlock, VideoBlocksConfig, VideoEncoder, zero_init


class CamFeatures(NamedTuple):
    """What the branch hands to the UNet: one (B*8, C, h, w) per skip feature, and one for the mid block or None.

    latents: the tail itself, (B, C, 8, h, w), for a UNet that is conditioned by concatenation; skips and mid are then empty.
    """

    skips: tuple[Tensor, ...]
    mid: Tensor | None
    latents: Tensor | None = None


@dataclass(frozen=True)
class ControlBranchConfig(VideoBlocksConfig):
    """The branch; the defaults are the published one (622 M parameters)."""

    num_frames: int = 8
    cam_features: Literal["noisy", "clean"] = "noisy"
    condition_channels: tuple[int, ...] | None = (32, 96, 256, 512)  # pixel encoder; None: absent
    has_mid_block: bool = True
    pads_to_window: bool = False  # for addition: features of all num_frames window frames, most of them of empty frames

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cam_features not in ("noisy", "clean"):
            raise ValueError(f"cam_features: expected 'noisy' or 'clean', received {self.cam_features!r}")
        if self.pads_to_window and self.cam_features == "noisy":
            raise ValueError("pads_to_window: expected cam_features 'clean', received 'noisy'")


def padded_with_mask(latents: Tensor, num_frames: int) -> Tensor:
    """Control latents (B, C, 8, h, w) -> (B, C + 1, F, h, w): empty frames follow; the last channel is 1 on control frames."""
    marked = torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)
    return F.pad(marked, (0, 0, 0, 0, 0, num_frames - latents.shape[2]))


class ConditionEncoder(nn.Module):
    """E_cond: pixels (N, 3, 8h, 8w) in [-1, 1] -> (N, C, h, w). No norms, despite the paper (released config)."""

    def __init__(self, channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels[0], kernel_size=3, padding=1)
        self.blocks = nn.ModuleList()
        for width, next_width in zip(channels, channels[1:], strict=False):
            self.blocks.append(nn.Conv2d(width, width, kernel_size=3, padding=1))
            self.blocks.append(nn.Conv2d(width, next_width, kernel_size=3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(channels[-1], out_channels, kernel_size=3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        hidden = F.silu(self.conv_in(frames))
        for conv in self.blocks:
            hidden = F.silu(conv(hidden))
        return self.conv_out(hidden)


class ControlBranch(VideoEncoder[ControlBranchConfig]):
    """The CAM branch. Reads the text tokens only (no APM)."""

    config_class = ControlBranchConfig

    def __init__(self, config: ControlBranchConfig) -> None:
        super().__init__(config)
        if config.pads_to_window:
            self.conv_in = nn.Conv2d(config.in_channels + 1, config.block_out_channels[0], kernel_size=3, padding=1)
        if config.condition_channels is not None:
            self.controlnet_cond_embedding = ConditionEncoder(config.condition_channels, config.block_out_channels[0])
        if config.has_mid_block:
            self.mid_block = MidBlock(config)

    def init_weights(self) -> None:
        """Start for training from scratch: every residual part is the identity, the pixels count nothing."""
        zero_init(self)
        if self.config.condition_channels is not None:
            nn.init.zeros_(self.controlnet_cond_embedding.conv_out.weight)
            nn.init.zeros_(self.controlnet_cond_embedding.conv_out.bias)

    def copy_from(self, unet: VideoEncoder) -> None:
        """Take over the UNet's encoder, as training starts (paper sec. 4.1: the branch is a copy of it)."""
        theirs = unet.state_dict()
        own = {name: value for name, value in self.state_dict().items() if name in theirs}
        # the branch sees fewer frames: of frame positions it takes the first; a mask channel starts without weight
        theirs["conv_in.weight"] = with_further_inputs(theirs["conv_in.weight"], self.conv_in.in_channels)
        self.load_state_dict({name: theirs[name][: len(value)] for name, value in own.items()}, strict=False)

    def embed_condition(self, control_frames: Tensor) -> Tensor:
        """Pixels (B, 8, 3, H, W) in [-1, 1] -> (B*8, C, h, w). Constant over the steps of a chunk."""
        return self.controlnet_cond_embedding(rearrange(control_frames, "b f c h w -> (b f) c h w"))

    def forward(
        self, sample: Tensor, timesteps: Tensor, text: Tensor, condition_embedding: Tensor | None = None
    ) -> CamFeatures:
        """Latents (B, C, 8, h, w), (B,) timesteps, text (B, tokens, D), `embed_condition`'s result or None.

        The embedding is added after the first temporal transformer. Features come out unscaled ("zero conv" is the
        identity in the released set-up).
        """
        num_frames = sample.shape[2]
        emb = self.embed_time(timesteps, num_frames)
        hidden = self.embed_sample(sample)
        if condition_embedding is not None:
            hidden = hidden + condition_embedding
        hidden, skips = self.encode(hidden, emb, text, num_frames)
        mid = self.mid_block(hidden, emb, text, num_frames) if self.config.has_mid_block else None
        return CamFeatures(tuple(skips), mid)

    def clean_features(self, control_latents: Tensor, text: Tensor) -> CamFeatures:
        """Features of clean latents (B, C, 8, h, w) at timestep 0; constant over the steps of a chunk."""
        timesteps = torch.zeros(control_latents.shape[0], device=control_latents.device)
        if self.config.pads_to_window:
            control_latents = padded_with_mask(control_latents, self.config.num_frames)
        return self(control_latents, timesteps, text)


def with_further_inputs(weight: Tensor, in_channels: int) -> Tensor:
    """Weights (out, in, k, k) of a convolution that takes more channels; the further ones count nothing yet."""
    return F.pad(weight, (0, 0, 0, 0, 0, in_channels - weight.shape[1]))


class CamAttention(nn.Module):
    """Per spatial position: 16 window frames ask, the 8 control frames answer.

    As published without mask and without positions, with the branch's raw features as keys and values;
    `frame_positions` and `key_norm` add what a small model needs to learn this quickly.
    """

    def __init__(self, channels: int, settings: CamMergerSettings) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(settings.norm_num_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.attention = Attention(
            query_dim=channels,
            cross_attention_dim=channels,
            heads=channels // settings.head_dim,
            dim_head=settings.head_dim,
        )
        self.proj_out = nn.Linear(channels, channels)
        self.key_norm = nn.GroupNorm(settings.norm_num_groups, channels, eps=1e-6) if settings.key_norm else None
        self.query_positions = self.key_positions = None
        if settings.frame_positions:  # std 0.2: strong enough to tell frames apart from the first step on
            self.query_positions = nn.Parameter(0.2 * torch.randn(settings.num_frames, channels))
            self.key_positions = nn.Parameter(0.2 * torch.randn(settings.num_control_frames, channels))

    def forward(self, hidden: Tensor, control: Tensor, num_frames: int) -> Tensor:
        """(B*F, C, h, w) and (B*8, C, h, w) -> (B*F, C, h, w): what is added to `hidden`."""
        query = rearrange(hidden, "(b f) c h w -> b c f (h w)", f=num_frames)
        query = rearrange(self.norm(query), "b c f n -> (b n) f c")  # group norm over all frames jointly
        query = self.proj_in(query)
        key = rearrange(control, "(b f) c h w -> b c f (h w)", b=hidden.shape[0] // num_frames)
        if self.key_norm is not None:
            key = self.key_norm(key)
        key = rearrange(key, "b c f n -> (b n) f c")
        if self.query_positions is not None and self.key_positions is not None:
            query = query + self.query_positions[:num_frames]
            key = key + self.key_positions[: key.shape[1]]
        out = self.proj_out(self.attention(query, encoder_hidden_states=key))
        batch, height = hidden.shape[0] // num_frames, hidden.shape[2]
        return rearrange(out, "(b h w) f c -> (b f) c h w", b=batch, h=height)


@dataclass(frozen=True)
class CamMergerSettings:
    """What all mergers of one UNet share."""

    head_dim: int = 64
    norm_num_groups: int = 32
    num_frames: int = 16
    num_control_frames: int = 8
    frame_positions: bool = False
    key_norm: bool = False


class CamMerger(nn.Module):
    """x + CAM(x, control); the inner name is the checkpoint's."""

    def __init__(self, channels: int, settings: CamMergerSettings) -> None:
        super().__init__()
        self.temporal_transformer = CamAttention(channels, settings)

    def forward(self, hidden: Tensor, control: Tensor, num_frames: int) -> Tensor:
        return hidden + self.temporal_transformer(hidden, control, num_frames)

    def init_weights(self) -> None:
        """Training starts with CAM adding nothing (paper sec. 4.1)."""
        nn.init.zeros_(self.temporal_transformer.proj_out.weight)
        nn.init.zeros_(self.temporal_transformer.proj_out.bias)


class AdditionMerger(nn.Module):
    """x + conv(control), frame by frame, as ControlNet does (arXiv 2302.05543 sec. 3.1): the ablation's alternative to CAM."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, hidden: Tensor, control: Tensor, num_frames: int) -> Tensor:
        """Both (B*F, C, h, w): the branch has padded the control frames to the window."""
        return hidden + self.conv(control)

    def init_weights(self) -> None:
        """ControlNet's "zero convolution"."""
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)
