"""The blocks of the ModelScope video UNet, put together from diffusers' parts, and the half that UNet and CAM branch share.

Layout inside: frames folded into the batch, (B*F, C, h, w), batch-major. One layer is resnet, temporal conv, spatial
transformer, temporal transformer. Group norms of the temporal parts span (F, h, w) jointly, the others one frame.
Order in time is known only through the temporal convolutions: the temporal transformers have no positions (config
`frame_positions` adds some). Names follow the published checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.upsampling import Upsample2D
from einops import rearrange, repeat
from torch import Tensor, nn

from st2v_stream.networks.apm import SharedContextAttention
from st2v_stream.networks.folder import FolderModule


@dataclass(frozen=True)
class VideoBlocksConfig:
    """Sizes that the UNet and the CAM branch share; the defaults are ModelScope text-to-video 1.7b."""

    in_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    cross_attention_levels: tuple[bool, ...] = (True, True, True, False)
    layers_per_block: int = 2
    attention_head_dim: int = 64  # width of one head; heads = channels / this
    transformer_in_heads: int = 8  # whatever the width: inner width 8 * 64 = 512 for 320 channels
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1024
    num_frames: int = 16
    frame_positions: bool = False  # learned, added to the time embedding of every frame
    images_skip_temporal: bool = False  # a window of one frame passes no temporal layer (training on pictures)
    temporal_dropout: float = 0.1  # inside the temporal convolutions, active in training only

    def __post_init__(self) -> None:
        if len(self.block_out_channels) != len(self.cross_attention_levels):
            raise ValueError(
                f"expected one cross_attention_levels entry for each of {len(self.block_out_channels)} levels, "
                f"received {len(self.cross_attention_levels)}"
            )

    @property
    def time_channels(self) -> int:
        """Width of the time embedding."""
        return 4 * self.block_out_channels[0]

    @property
    def skip_channels(self) -> tuple[int, ...]:
        """Widths of the skip features in the order in which the down path emits them (12 when published)."""
        widths = [self.block_out_channels[0]]
        for level, width in enumerate(self.block_out_channels):
            is_last = level == len(self.block_out_channels) - 1
            widths += [width] * (self.layers_per_block + (not is_last))
        return tuple(widths)


class TemporalConv(TemporalConvLayer):
    """Four (norm, SiLU, Conv3d (3,1,1)) in a row plus identity; (B*F, C, h, w) -> the same.

    A (3,1,1) convolution of (B,C,F,h,w) is a (3,1) convolution of (B,C,F,h*w): same weights, same numbers. Measured on
    one CPU core, torch 2.13, this layer as 2-D against Conv3d: 80 channels 8x8 batch 2: 10.5 against 18.5 ms (with
    backward 26 against 46), 112 channels 4x4: 3.9 against 7.6 (16 against 22), 320 channels 32x32: 775 against 1077.
    """

    def forward(self, hidden_states: Tensor, num_frames: int = 1) -> Tensor:
        height = hidden_states.shape[-2]
        identity = rearrange(hidden_states, "(b f) c h w -> b c f (h w)", f=num_frames)
        out = identity
        for stack in (self.conv1, self.conv2, self.conv3, self.conv4):
            for layer in stack:
                out = conv_over_frames(layer, out) if isinstance(layer, nn.Conv3d) else layer(out)
        return rearrange(identity + out, "b c f (h w) -> (b f) c h w", h=height)


def conv_over_frames(conv: nn.Conv3d, hidden: Tensor) -> Tensor:
    """A Conv3d with kernel (3,1,1) applied to (B, C, F, h*w)."""
    return F.conv2d(hidden, conv.weight.squeeze(-1), conv.bias, padding=(1, 0))


def _resnet(config: VideoBlocksConfig, in_channels: int, out_channels: int) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels=in_channels,
        out_channels=out_channels,
        temb_channels=config.time_channels,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        non_linearity="silu",
    )


def _temporal_conv(config: VideoBlocksConfig, channels: int) -> TemporalConv:
    return TemporalConv(channels, channels, dropout=config.temporal_dropout, norm_num_groups=config.norm_num_groups)


def _spatial_transformer(config: VideoBlocksConfig, channels: int) -> Transformer2DModel:
    transformer = Transformer2DModel(
        num_attention_heads=channels // config.attention_head_dim,
        attention_head_dim=config.attention_head_dim,
        in_channels=channels,
        cross_attention_dim=config.cross_attention_dim,
        norm_num_groups=config.norm_num_groups,
        use_linear_projection=True,
    )
    transformer.transformer_blocks[0].attn2.set_processor(SharedContextAttention())
    return transformer


def _temporal_transformer(config: VideoBlocksConfig, channels: int, heads: int | None = None) -> nn.Module:
    return TransformerTemporalModel(
        num_attention_heads=heads or channels // config.attention_head_dim,
        attention_head_dim=config.attention_head_dim,
        in_channels=channels,
        norm_num_groups=config.norm_num_groups,
    )


class VideoBlock(nn.Module):
    """Layers of one level: lists by kind (as the checkpoint names them), walked layer by layer."""

    def __init__(self, config: VideoBlocksConfig, in_channels: Sequence[int], channels: int, attention: bool) -> None:
        super().__init__()
        self.images_skip_temporal = config.images_skip_temporal
        self.resnets = nn.ModuleList(_resnet(config, width, channels) for width in in_channels)
        self.temp_convs = nn.ModuleList(_temporal_conv(config, channels) for _ in in_channels)
        if attention:
            self.attentions = nn.ModuleList(_spatial_transformer(config, channels) for _ in in_channels)
            self.temp_attentions = nn.ModuleList(_temporal_transformer(config, channels) for _ in in_channels)

    def convolve(self, index: int, hidden: Tensor, emb: Tensor, num_frames: int) -> Tensor:
        """Resnet, then temporal convolution."""
        hidden = self.resnets[index](hidden, emb)
        if num_frames == 1 and self.images_skip_temporal:
            return hidden
        return self.temp_convs[index](hidden, num_frames=num_frames)

    def attend(self, index: int, hidden: Tensor, context: Tensor, num_frames: int) -> Tensor:
        """Spatial transformer (APM acts in its cross-attention), then temporal transformer."""
        hidden = self.attentions[index](hidden, encoder_hidden_states=context, return_dict=False)[0]
        if num_frames == 1 and self.images_skip_temporal:
            return hidden
        return self.temp_attentions[index](hidden, num_frames=num_frames, return_dict=False)[0]

    def layer(self, index: int, hidden: Tensor, emb: Tensor, context: Tensor, num_frames: int) -> Tensor:
        """One full layer."""
        hidden = self.convolve(index, hidden, emb, num_frames)
        return self.attend(index, hidden, context, num_frames) if hasattr(self, "attentions") else hidden


class DownBlock(VideoBlock):
    """One level of the encoder; emits a skip feature per layer and one for its downsampler."""

    def __init__(self, config: VideoBlocksConfig, level: int) -> None:
        channels = config.block_out_channels[level]
        first = config.block_out_channels[max(level - 1, 0)]
        in_channels = [first] + [channels] * (config.layers_per_block - 1)
        super().__init__(config, in_channels, channels, config.cross_attention_levels[level])
        if level < len(config.block_out_channels) - 1:
            self.downsamplers = nn.ModuleList([Downsample2D(channels, use_conv=True, padding=1, name="op")])

    def forward(self, hidden: Tensor, emb: Tensor, context: Tensor, num_frames: int) -> tuple[Tensor, list[Tensor]]:
        """-> the running feature and the skip features in order."""
        skips = []
        for index in range(len(self.resnets)):
            hidden = self.layer(index, hidden, emb, context, num_frames)
            skips.append(hidden)
        if hasattr(self, "downsamplers"):
            hidden = self.downsamplers[0](hidden)
            skips.append(hidden)
        return hidden, skips


class MidBlock(VideoBlock):
    """Resnet, temporal conv, spatial transformer, temporal transformer, resnet, temporal conv."""

    def __init__(self, config: VideoBlocksConfig) -> None:
        channels = config.block_out_channels[-1]
        super().__init__(config, [channels] * 2, channels, attention=False)
        self.attentions = nn.ModuleList([_spatial_transformer(config, channels)])
        self.temp_attentions = nn.ModuleList([_temporal_transformer(config, channels)])

    def forward(self, hidden: Tensor, emb: Tensor, context: Tensor, num_frames: int) -> Tensor:
        hidden = self.layer(0, hidden, emb, context, num_frames)
        return self.convolve(1, hidden, emb, num_frames)


class UpBlock(VideoBlock):
    """One level of the decoder; every layer takes one skip feature, concatenated after the running one."""

    def __init__(self, config: VideoBlocksConfig, level: int) -> None:
        widths = config.block_out_channels
        channels = widths[level]
        below = widths[min(level + 1, len(widths) - 1)]  # what comes up from the level underneath
        skips = [channels] * config.layers_per_block + [widths[max(level - 1, 0)]]
        hidden = [below] + [channels] * config.layers_per_block
        in_channels = [width + skip for width, skip in zip(hidden, skips, strict=True)]
        super().__init__(config, in_channels, channels, config.cross_attention_levels[level])
        if level > 0:
            self.upsamplers = nn.ModuleList([Upsample2D(channels, use_conv=True)])

    def forward(self, hidden: Tensor, emb: Tensor, context: Tensor, num_frames: int, skips: list[Tensor]) -> Tensor:
        """Takes its skip features from the end of `skips`."""
        for index in range(len(self.resnets)):
            hidden = torch.cat([hidden, skips.pop()], dim=1)
            hidden = self.layer(index, hidden, emb, context, num_frames)
        if hasattr(self, "upsamplers"):
            # the next level's size, which is not twice ours when that one was odd
            hidden = self.upsamplers[0](hidden, output_size=skips[-1].shape[-2:])
        return hidden


BlocksConfigT = TypeVar("BlocksConfigT", bound=VideoBlocksConfig)


class VideoEncoder(FolderModule[BlocksConfigT]):
    """The half that the main UNet and the CAM branch have in common: conv_in to mid block."""

    def __init__(self, config: BlocksConfigT) -> None:
        super().__init__(config)
        width = config.block_out_channels[0]
        self.conv_in = nn.Conv2d(config.in_channels, width, kernel_size=3, padding=1)
        self.time_proj = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(width, config.time_channels, act_fn="silu")
        if config.frame_positions:
            self.frame_positions = nn.Parameter(torch.zeros(config.num_frames, config.time_channels))
        self.transformer_in = _temporal_transformer(config, width, heads=config.transformer_in_heads)
        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in range(len(config.block_out_channels)))

    def embed_time(self, timesteps: Tensor, num_frames: int) -> Tensor:
        """(B,) timesteps, 0..1000, fractions allowed -> (B*F, 4 * width)."""
        emb = self.time_embedding(self.time_proj(timesteps).to(self.dtype))
        emb = repeat(emb, "b d -> b f d", f=num_frames)
        if self.config.frame_positions and num_frames > 1:
            emb = emb + self.frame_positions[:num_frames]
        return rearrange(emb, "b f d -> (b f) d")

    def embed_sample(self, sample: Tensor) -> Tensor:
        """(B, C, F, h, w) latents -> (B*F, width, h, w): conv_in and the first temporal transformer."""
        num_frames = sample.shape[2]
        hidden = self.conv_in(rearrange(sample, "b c f h w -> (b f) c h w"))
        if num_frames == 1 and self.config.images_skip_temporal:
            return hidden
        return self.transformer_in(hidden, num_frames=num_frames, return_dict=False)[0]

    def encode(self, hidden: Tensor, emb: Tensor, context: Tensor, num_frames: int) -> tuple[Tensor, list[Tensor]]:
        """The down path -> running feature and all skip features, `hidden` being the first."""
        skips = [hidden]
        for block in self.down_blocks:
            hidden, more = block(hidden, emb, context, num_frames)
            skips += more
        return hidden, skips


def zero_init(network: nn.Module) -> None:
    """Zero the last layer of every residual part, so that each starts as the identity (training from scratch)."""
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            _zero(module.conv2)
        elif isinstance(module, Transformer2DModel | TransformerTemporalModel):
            _zero(module.proj_out)
        elif isinstance(module, TemporalConvLayer):
            _zero(module.conv4[-1])


def _zero(layer: nn.Module) -> None:
    nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
