"""The small enhancer's network: one evaluation makes one frame four times as wide and high. 1.2 M parameters.

SDEdit cut down to what two processor cores can do beside a preview: one step, and from noise level 0, so nothing is drawn. The
network sees a frame of the preview with the frames before it, and predicts the clean picture (x0) that they show, as what
is to be added to their bicubic enlargement. It sees no later frame: sharpening follows the preview at once.

A UNet on the preview's own pixels (64 x 64), not on those of the result: there every layer would cost sixteen times as much.
The levels below bring the whole picture to every place; which background it is, is seen best from afar. Rectifiers and
no normalisation, as in networks that enlarge photographs (EDSR, arXiv 1707.02921).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from st2v_stream.networks.folder import FolderModule

_SLOPE = 0.1
_UP = 2
"""Pixels per axis and step of enlargement: two such steps."""


@dataclass(frozen=True)
class OneStepUNetConfig:
    """Sizes: the built-in enhancer's."""

    frames: int = 3  # the one that is made sharp, and those before it
    block_out_channels: tuple[int, ...] = (32, 64, 96, 96)
    down_blocks: int = 1  # residual blocks per level on the way down
    up_blocks: int = 2  # and up
    sharp_channels: int = 24  # at twice the preview's size

    @property
    def scale(self) -> int:
        """How much wider and higher frames come out."""
        return _UP**2

    @property
    def size_step(self) -> int:
        """Inside, pictures are as wide and high as a multiple of this; others are continued at their edge."""
        return int(2 ** (len(self.block_out_channels) - 1))


class OneStepUNet(FolderModule[OneStepUNetConfig]):
    """Preview frames -> the last of them, sharp."""

    config_class = OneStepUNetConfig

    def __init__(self, config: OneStepUNetConfig) -> None:
        super().__init__(config)
        widths = config.block_out_channels
        self.conv_in = _conv(3 * config.frames, widths[0])
        self.down = nn.ModuleList(_blocks(width, config.down_blocks) for width in widths)
        self.shrink = nn.ModuleList(_conv(a, b, stride=2) for a, b in zip(widths, widths[1:]))
        self.grow = nn.ModuleList(_conv(b, 4 * a, size=1) for a, b in zip(widths, widths[1:]))
        self.up = nn.ModuleList(_blocks(width, config.up_blocks) for width in widths[:-1])
        self.sharp = _conv(widths[0], _UP**2 * config.sharp_channels)
        self.conv_out = _conv(config.sharp_channels, _UP**2 * 3)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, frames: Tensor) -> Tensor:
        """(N, frames, 3, H, W) in [-1, 1], oldest first -> (N, 3, 4 H, 4 W) in about [-1, 1], not clamped. Any size."""
        height, width = frames.shape[-2:]
        base = F.interpolate(frames[:, -1], scale_factor=self.config.scale, mode="bicubic", align_corners=False)
        detail = self._detail(self._padded(frames.flatten(1, 2)))
        scale = self.config.scale
        return base + detail[:, :, : scale * height, : scale * width]

    def _detail(self, pixels: Tensor) -> Tensor:
        hidden = self.conv_in(pixels)
        skips = []
        for level, blocks in enumerate(self.down):
            hidden = blocks(hidden)
            if level < len(self.shrink):
                skips.append(hidden)
                hidden = self.shrink[level](hidden)
        for level in reversed(range(len(skips))):
            hidden = skips[level] + F.pixel_shuffle(self.grow[level](hidden), 2)
            hidden = self.up[level](hidden)
        hidden = F.pixel_shuffle(self.sharp(hidden), _UP)
        return F.pixel_shuffle(self.conv_out(F.leaky_relu(hidden, _SLOPE)), _UP)

    def _padded(self, pixels: Tensor) -> Tensor:
        step = self.config.size_step
        bottom, right = (-side % step for side in pixels.shape[-2:])
        return F.pad(pixels, (0, right, 0, bottom), mode="replicate") if bottom or right else pixels


class _Block(nn.Module):
    """Two convolutions and the identity; untrained, it is the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(channels, channels), _conv(channels, channels)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, C, h, w) -> the same."""
        changed: Tensor = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(hidden, _SLOPE)), _SLOPE))
        return hidden + changed


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(count)))


def _conv(in_channels: int, out_channels: int, *, size: int = 3, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, size, stride=stride, padding=size // 2)
    nn.init.zeros_(conv.bias)
    return conv


def parameter_count(network: nn.Module) -> int:
    """How many numbers it has learned."""
    return sum(parameter.numel() for parameter in network.parameters())
