"""Names and shapes of the enhancer's UNet (Video-to-Video, 1,411 M parameters), from its sizes alone.

What the published `non_ema_0035000.pth` must hold is thus known before any network is built: 1,480 tensors. Structure as
published: input blocks, middle, output blocks of (residual block, spatial transformer, temporal transformer); the temporal
convolution sits inside the residual block, under the published spelling `temopral_conv`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Shapes = dict[str, tuple[int, ...]]


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


def enhancer_unet_shapes(config: EnhancerUNetConfig) -> Shapes:
    """Every tensor of the network by its published name."""
    time = 4 * config.dim
    shapes = _weight_and_bias("time_embed.0", time, config.dim) | _weight_and_bias("time_embed.2", time, time)
    skips = _add_input_blocks(shapes, config)
    width = config.widths[-1]
    shapes |= _residual("middle_block.0", width, width, time)
    shapes |= _transformers("middle_block", 1, width, config)
    shapes |= _residual("middle_block.3", width, width, time)
    _add_output_blocks(shapes, config, skips)
    return shapes | _norm("out.0", config.dim) | _weight_and_bias("out.2", config.out_channels, config.dim, 3, 3)


def _add_input_blocks(shapes: Shapes, config: EnhancerUNetConfig) -> list[int]:
    """-> the widths of the skip features, in order."""
    dim, time = config.dim, 4 * config.dim
    shapes |= _weight_and_bias("input_blocks.0.0", dim, config.in_channels, 3, 3)
    shapes |= _transformer("input_blocks.0.1", dim, config.num_heads * config.head_dim, None)
    skips, before = [dim], dim
    for level, width in enumerate(config.widths):
        for _ in range(config.num_res_blocks):
            block = f"input_blocks.{len(skips)}"
            shapes |= _residual(f"{block}.0", before, width, time)
            if 0.5**level in config.attn_scales:
                shapes |= _transformers(block, 1, width, config)
            skips, before = [*skips, width], width
        if level < len(config.widths) - 1:
            shapes |= _weight_and_bias(f"input_blocks.{len(skips)}.op", width, width, 3, 3)
            skips.append(width)
    return skips


def _add_output_blocks(shapes: Shapes, config: EnhancerUNetConfig, skips: list[int]) -> None:
    number, before = 0, config.widths[-1]
    for level, width in reversed(list(enumerate(config.widths))):
        for repeat in range(config.num_res_blocks + 1):
            block, place = f"output_blocks.{number}", 1
            shapes |= _residual(f"{block}.0", before + skips.pop(), width, 4 * config.dim)
            if 0.5**level in config.attn_scales:
                shapes |= _transformers(block, 1, width, config)
                place = 3
            if level > 0 and repeat == config.num_res_blocks:
                shapes |= _weight_and_bias(f"{block}.{place}.conv", width, width, 3, 3)
            number, before = number + 1, width


def _residual(name: str, width_in: int, width: int, time: int) -> Shapes:
    shapes = _norm(f"{name}.in_layers.0", width_in) | _weight_and_bias(f"{name}.in_layers.2", width, width_in, 3, 3)
    shapes |= _weight_and_bias(f"{name}.emb_layers.1", width, time)
    shapes |= _norm(f"{name}.out_layers.0", width) | _weight_and_bias(f"{name}.out_layers.3", width, width, 3, 3)
    if width_in != width:
        shapes |= _weight_and_bias(f"{name}.skip_connection", width, width_in, 1, 1)
    for number in (1, 2, 3, 4):
        stack = f"{name}.temopral_conv.conv{number}"
        shapes |= _norm(f"{stack}.0", width)
        shapes |= _weight_and_bias(f"{stack}.{2 if number == 1 else 3}", width, width, 3, 1, 1)
    return shapes


def _transformers(block: str, place: int, width: int, config: EnhancerUNetConfig) -> Shapes:
    """The spatial one, which reads the text, and after it the temporal one."""
    spatial = _transformer(f"{block}.{place}", width, width, config.context_dim)
    return spatial | _transformer(f"{block}.{place + 1}", width, width, None)


def _transformer(name: str, width: int, inner: int, context: int | None) -> Shapes:
    """context: width of the text; None = temporal, with two self-attentions and 1-D convolutions as projections."""
    kernel = (1,) if context is None else ()
    shapes = _norm(f"{name}.norm", width) | _weight_and_bias(f"{name}.proj_in", inner, width, *kernel)
    block = f"{name}.transformer_blocks.0"
    for attention, width_of_keys in (("attn1", inner), ("attn2", context or inner)):
        shapes[f"{block}.{attention}.to_q.weight"] = (inner, inner)
        shapes[f"{block}.{attention}.to_k.weight"] = (inner, width_of_keys)
        shapes[f"{block}.{attention}.to_v.weight"] = (inner, width_of_keys)
        shapes |= _weight_and_bias(f"{block}.{attention}.to_out.0", inner, inner)
    shapes |= _weight_and_bias(f"{block}.ff.net.0.proj", 8 * inner, inner)
    shapes |= _weight_and_bias(f"{block}.ff.net.2", inner, 4 * inner)
    for number in (1, 2, 3):
        shapes |= _norm(f"{block}.norm{number}", inner)
    return shapes | _weight_and_bias(f"{name}.proj_out", width, inner, *kernel)


def _norm(name: str, width: int) -> Shapes:
    return dict(_pair(name, (width,), width))


def _weight_and_bias(name: str, *shape: int) -> Shapes:
    return dict(_pair(name, shape, shape[0]))


def _pair(name: str, weight: tuple[int, ...], bias: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", weight
    yield f"{name}.bias", (bias,)
