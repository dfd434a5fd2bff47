"""The enhancer's UNet: MS-Vid2Vid-XL (1,411 M parameters), which denoises films of full size, 24 frames at a time.

Published as `Vid2VidSDUNet`. Structure and names are latent-diffusion's: input blocks, middle, output blocks, each a list of
(residual block with temporal convolution, spatial transformer that reads the text, temporal transformer). Names follow the
published checkpoint, the spelling `temopral_conv` included. The published code computes every temporal attention twice
(hooks whose result is thrown away); here it is computed once, with the same output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import Timesteps
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from einops import rearrange
from torch import Tensor, nn

from st2v_stream.networks.apm import SharedContextAttention
from st2v_stream.networks.folder import FolderModule
from st2v_stream.networks.video_blocks import TemporalConv

_GROUPS = 32


@dataclass(frozen=True)
class EnhancerUNetConfig:
    """The defaults are the published sizes."""

    in_channels: int = 4
    out_channels: int = 4
    dim: int = 320
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    num_heads: int = 8  # of the first temporal transformer; its inner width is num_heads * head_dim
    head_dim: int = 64
    context_dim: int = 1024

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at every level, from full resolution down."""
        return tuple(self.dim * factor for factor in self.dim_mult)

    @property
    def time_channels(self) -> int:
        """Width of the time embedding."""
        return 4 * self.dim

    @property
    def size_step(self) -> int:
        """Latent heights are 2 more than a multiple of this, widths a multiple of it (8 when published: 90 x 96)."""
        return int(2 ** (len(self.dim_mult) - 1))

    def has_attention(self, level: int) -> bool:
        """Whether the blocks of a level have transformers."""
        return 0.5**level in self.attn_scales


@dataclass(frozen=True)
class _Conditions:
    """What every layer may look at: time (B*F, 4 dim), text (B, tokens, D), frames per film."""

    time: Tensor
    text: Tensor
    num_frames: int


class EnhancerUNet(FolderModule[EnhancerUNetConfig]):
    """Predicts v = alpha noise - sigma clean from noisy latents."""

    config_class = EnhancerUNetConfig

    def __init__(self, config: EnhancerUNetConfig) -> None:
        super().__init__(config)
        time, width = config.time_channels, config.widths[-1]
        self.time_proj = Timesteps(config.dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embed = nn.Sequential(nn.Linear(config.dim, time), nn.SiLU(), nn.Linear(time, time))
        self.input_blocks = nn.ModuleList(_input_blocks(config))
        middle = (_ResidualBlock(width, width, time), *_transformers(width, config), _ResidualBlock(width, width, time))
        self.middle_block = _Block(*middle)
        self.output_blocks = nn.ModuleList(_output_blocks(config))
        head = nn.Conv2d(config.dim, config.out_channels, kernel_size=3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(_GROUPS, config.dim), nn.SiLU(), head)

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """Noisy latents (B, C, F, h, w), timesteps (B,) or one for all, text (B, tokens, D) -> v (B, C, F, h, w).

        Any number of frames; h and w as `size_step` says. Raises ValueError for other sizes.
        """
        batch, _, num_frames = sample.shape[:3]
        self._require_size(*sample.shape[-2:])
        given = _Conditions(self._embed_time(timestep.to(sample.device).expand(batch), num_frames), text, num_frames)
        hidden = rearrange(sample, "b c f h w -> (b f) c h w").contiguous()
        skips = []
        for block in self.input_blocks:
            hidden = block(hidden, given)
            skips.append(hidden)
        hidden = self.middle_block(hidden, given)
        for block in self.output_blocks:
            hidden = block(torch.cat([hidden, skips.pop()], dim=1), given)
        return rearrange(self.out(hidden), "(b f) c h w -> b c f h w", b=batch)

    def _embed_time(self, timesteps: Tensor, num_frames: int) -> Tensor:
        embedding = self.time_embed(self.time_proj(timesteps).to(self.dtype))
        return embedding.repeat_interleave(num_frames, dim=0)

    def _require_size(self, height: int, width: int) -> None:
        step = self.config.size_step
        if (height - 2) % step or width % step:
            expected = f"a height 2 above a multiple of {step} and a width that is one"
            raise ValueError(f"latents of the enhancer: expected {expected}, received {height} x {width}")


# ---------------------------------------------------------------- what the blocks are made of


class _Block(nn.ModuleList):
    """Layers that follow each other; each takes of the conditions what it needs."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(layers)

    def forward(self, hidden: Tensor, given: _Conditions) -> Tensor:
        for layer in self:
            if isinstance(layer, _ResidualBlock):
                hidden = layer(hidden, given)
            elif isinstance(layer, Transformer2DModel):
                hidden = layer(hidden, encoder_hidden_states=given.text, return_dict=False)[0]
            elif isinstance(layer, TransformerTemporalModel):
                hidden = layer(hidden, num_frames=given.num_frames, return_dict=False)[0]
            else:
                hidden = layer(hidden)
        return hidden


class _ResidualBlock(nn.Module):
    """Two convolutions around the time embedding, a skip, then the temporal convolution over the frames."""

    def __init__(self, width_in: int, width: int, time: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(_GROUPS, width_in), nn.SiLU(), _conv(width_in, width))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, width))
        self.out_layers = nn.Sequential(nn.GroupNorm(_GROUPS, width), nn.SiLU(), nn.Dropout(0.0), _conv(width, width))
        self.skip_connection = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, kernel_size=1)
        self.temopral_conv = TemporalConv(width, width, dropout=0.0, norm_num_groups=_GROUPS)

    def forward(self, hidden: Tensor, given: _Conditions) -> Tensor:
        time = rearrange(self.emb_layers(given.time), "n c -> n c 1 1")
        out = self.out_layers(self.in_layers(hidden) + time)
        return self.temopral_conv(self.skip_connection(hidden) + out, num_frames=given.num_frames)


class _Downsample(nn.Module):
    """Stride 2 with padding 2 in height and 1 in width, as published: height h becomes h / 2 + 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, kernel_size=3, stride=2, padding=(2, 1))

    def forward(self, hidden: Tensor, given: _Conditions) -> Tensor:
        return self.op(hidden)


class _Upsample(nn.Module):
    """Twice the size by repetition, less the first and the last row: the inverse sizes of `_Downsample`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv(F.interpolate(hidden, scale_factor=2, mode="nearest")[:, :, 1:-1])


class _PointwiseConv1d(nn.Conv1d):
    """A convolution of kernel 1 in the checkpoint, a linear layer over the last axis in what it does."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__(width_in, width, kernel_size=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight.squeeze(-1), self.bias)


def _conv(width_in: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, kernel_size=3, padding=1)


def _spatial(width: int, config: EnhancerUNetConfig) -> Transformer2DModel:
    transformer = Transformer2DModel(
        num_attention_heads=width // config.head_dim,
        attention_head_dim=config.head_dim,
        in_channels=width,
        cross_attention_dim=config.context_dim,
        norm_num_groups=_GROUPS,
        use_linear_projection=True,
    )
    transformer.transformer_blocks[0].attn2.set_processor(SharedContextAttention())  # one text for all frames
    return transformer


def _temporal(width: int, heads: int, config: EnhancerUNetConfig) -> TransformerTemporalModel:
    transformer = TransformerTemporalModel(heads, config.head_dim, width, norm_num_groups=_GROUPS)
    inner = heads * config.head_dim
    transformer.proj_in, transformer.proj_out = _PointwiseConv1d(width, inner), _PointwiseConv1d(inner, width)
    return transformer


def _transformers(width: int, config: EnhancerUNetConfig) -> tuple[nn.Module, nn.Module]:
    return _spatial(width, config), _temporal(width, width // config.head_dim, config)


# ---------------------------------------------------------------- the two halves


def _skip_widths(config: EnhancerUNetConfig) -> list[int]:
    """Widths of the skip features in the order in which the input blocks emit them."""
    widths = [config.dim]
    for level, width in enumerate(config.widths):
        is_last = level == len(config.widths) - 1
        widths += [width] * (config.num_res_blocks + (not is_last))
    return widths


def _input_blocks(config: EnhancerUNetConfig) -> Iterator[nn.Module]:
    yield _Block(_conv(config.in_channels, config.dim), _temporal(config.dim, config.num_heads, config))
    before = config.dim
    for level, width in enumerate(config.widths):
        for _ in range(config.num_res_blocks):
            residual = _ResidualBlock(before, width, config.time_channels)
            yield _Block(residual, *(_transformers(width, config) if config.has_attention(level) else ()))
            before = width
        if level < len(config.widths) - 1:
            yield _Downsample(width)  # a block by itself: the published name has no number more


def _output_blocks(config: EnhancerUNetConfig) -> Iterator[nn.Module]:
    skips, before = _skip_widths(config), config.widths[-1]
    for level, width in reversed(list(enumerate(config.widths))):
        for repeat in range(config.num_res_blocks + 1):
            layers: list[nn.Module] = [_ResidualBlock(before + skips.pop(), width, config.time_channels)]
            layers += _transformers(width, config) if config.has_attention(level) else ()
            if level > 0 and repeat == config.num_res_blocks:
                layers.append(_Upsample(width))
            yield _Block(*layers)
            before = width
