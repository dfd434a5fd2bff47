"""The diffusion enhancer in miniature: the published classes, tiny, with random weights; and films for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from small_networks import randomize
from torch import Tensor

from st2v_stream.chunk import Chunk, Memory, StreamSpec
from st2v_stream.direction import Direction
from st2v_stream.enhancers.sdedit import EnhancerNetworks, SdEdit, SdEditSettings
from st2v_stream.networks.enhancer_unet import EnhancerUNet, EnhancerUNetConfig
from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig
from st2v_stream.types import EnhancedChunk

UNET = EnhancerUNetConfig(
    dim=32, dim_mult=(1, 1), num_res_blocks=1, attn_scales=(0.5,), num_heads=1, head_dim=32, context_dim=8
)
VAE = FrameAutoencoderConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False)
SPEC = StreamSpec(width=8, height=8, fps=8, first_chunk_frames=4, chunk_frames=2)
SETTINGS = {
    "width": 14,
    "height": 14,
    "num_inference_steps": 3,
    "window_frames": 6,
    "overlap_frames": 2,
    "windows_together": 2,
}
DIRECTION = Direction((("a red boat", 1.0),), seed=5)


class Hashed:
    """A text encoder without a vocabulary; it remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self.asked += texts
        return torch.stack([torch.randn((5, 8), generator=torch.Generator().manual_seed(len(text))) for text in texts])


@cache
def weights() -> tuple[EnhancerUNet, FrameAutoencoder]:
    return randomize(EnhancerUNet(UNET).eval()), randomize(FrameAutoencoder(VAE).eval(), seed=1)  # type: ignore[return-value]


def small_enhancer(**changes: Any) -> SdEdit:
    return SdEdit(EnhancerNetworks(*weights(), Hashed()), SdEditSettings(**SETTINGS | changes))


def preview(chunks: int, first: int = 0, directions: Sequence[Direction] = ()) -> list[Chunk]:
    """Chunks `first` .. `chunks` - 1 of a film of moving bars, with a memory that nobody reads."""
    made = []
    for index in range(first, chunks):
        start, count = SPEC.start_of(index), SPEC.frames_of(index)
        frames = np.stack([bars(number) for number in range(start, start + count)])
        direction = directions[index] if directions else DIRECTION
        made.append(Chunk(index, start, frames, direction, Memory("test", 1, index + 1, start + count, {})))
    return made


def bars(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    row = (np.arange(SPEC.width) * 29 + number * 17) % 256
    return np.broadcast_to(row[None, :, None], (SPEC.height, SPEC.width, 3)).astype(np.uint8).copy()


def no_step(k: int, n: int) -> None:
    """Nothing happens between two steps."""


def enhanced(enhancer: SdEdit, chunks: Sequence[Chunk], carry: Memory | None = None) -> tuple[list[EnhancedChunk], Memory]:
    """All that comes of these chunks, without the end."""
    made: list[EnhancedChunk] = []
    for chunk in chunks:
        sharp, carry = enhancer.enhance(chunk, carry, no_step)
        made += sharp
    assert carry is not None
    return made, carry


def film_of(chunks: Sequence[EnhancedChunk]) -> np.ndarray[Any, Any]:
    """The newest revision of every chunk, one after the other."""
    newest = {each.chunk.index: each.chunk.frames for each in chunks}
    assert sorted(newest) == list(range(min(newest), max(newest) + 1))
    return np.concatenate([newest[index] for index in sorted(newest)])
