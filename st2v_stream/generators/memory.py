"""StreamingT2V's memory: the film's tail and its anchor, and nothing else, whatever the film's length.

    preset default, live    tail (8, H, W, 3) uint8, anchor (H, W, 3) uint8: what viewers saw is what the model goes on from;
                            after chunk 0 also head (8, H, W, 3) uint8, so that its 16 frames survive a restart
    preset published        tail, anchor as float32 in [0, 1], not rounded, and rng_state: its random generator runs on

A film may change its preset: each kind can be read in the other's place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from st2v_stream.chunk import Frames, Memory, StreamSpec
from st2v_stream.errors import InvalidRequest

KIND = "streamingt2v"
VERSION = 1


@dataclass(frozen=True)
class Past:
    """A memory as the networks want it: frames (N, 3, H, W) float32 in [-1, 1].

    rng_state: None unless the preset was `published`. anchor_part: the anchor as it lies in the memory, handed on untouched,
    so that all memories of a film share one.
    """

    tail: Tensor
    anchor: Tensor
    rng_state: Tensor | None = None
    anchor_part: NDArray[np.generic] | None = None


def to_network(frames: NDArray[np.generic]) -> Tensor:
    """(T, H, W, 3), uint8 or float32 in [0, 1] -> (T, 3, H, W) float32 in [-1, 1]."""
    pixels = rearrange(torch.from_numpy(np.array(frames)), "t h w c -> t c h w")  # a copy: memories may be read-only
    return pixels.float() / 127.5 - 1 if pixels.dtype == torch.uint8 else 2 * pixels - 1


def to_unit(frames: Frames) -> Tensor:
    """(T, H, W, 3) uint8 -> (T, 3, H, W) float32 in [0, 1]; 255 times that is the integer again, rounded or truncated."""
    return rearrange(torch.from_numpy(np.array(frames)), "t h w c -> t c h w").float() / 255


def to_frames(frames: Tensor, *, truncate: bool = False) -> Frames:
    """(T, 3, H, W) in [0, 1] -> (T, H, W, 3) uint8; the published code truncates where others round."""
    pixels = frames * 255 if truncate else (frames * 255).round()
    return rearrange(pixels.clamp(0, 255).to(torch.uint8), "t c h w -> t h w c").contiguous().cpu().numpy()


def to_floats(frames: Tensor) -> NDArray[np.float32]:
    """(T, 3, H, W) in [0, 1] -> (T, H, W, 3) float32, unrounded."""
    return rearrange(frames.float(), "t c h w -> t h w c").contiguous().cpu().numpy()


def write_memory(
    spec: StreamSpec,
    index: int,
    frames: Tensor,
    *,
    tail_frames: int,
    past: Past | None = None,
    anchor: Tensor | None = None,
    rng_state: Tensor | None = None,
) -> tuple[Frames, Memory]:
    """Frames of chunk `index`, (T, 3, H, W) in [0, 1] -> as they leave the generator, and the memory after it.

    past: what this chunk was made from, None for chunk 0. anchor: chunk 0's, (1, 3, H, W) in [0, 1], where it is not its first
    frame (the film continues a clip that began earlier). rng_state: given in preset `published`, and only there.
    """
    published = rng_state is not None
    shown = to_frames(frames, truncate=published)
    kept = _kept(frames, published) if published else shown
    parts = {"tail": kept[-tail_frames:], "anchor": kept[0]}
    if past is not None:
        parts["anchor"] = _kept_anchor(past, published)
    elif anchor is not None:
        parts["anchor"] = _kept(anchor, published)[0]
    if past is None and not published:
        parts["head"] = kept[:-tail_frames]
    if rng_state is not None:
        parts["rng_state"] = rng_state.numpy()
    return shown, Memory(KIND, VERSION, index + 1, spec.start_of(index + 1), parts)


def _kept_anchor(past: Past, published: bool) -> NDArray[np.generic]:
    wanted = np.float32 if published else np.uint8
    if past.anchor_part is not None and past.anchor_part.dtype == wanted:
        return past.anchor_part
    return _kept(past.anchor / 2 + 0.5, published)[0]  # the film changed its preset


def _kept(frames: Tensor, published: bool) -> NDArray[np.generic]:
    """(T, 3, H, W) in [0, 1] -> (T, H, W, 3) as a memory keeps them."""
    kept: NDArray[np.generic] = to_floats(frames) if published else to_frames(frames)
    return kept


def remembered_frames(memory: Memory) -> Frames:
    """The last frames of the chunk before, exactly as they were shown: all of them, but for chunk 0 in preset `published`."""
    tail = memory.parts["tail"]
    if tail.dtype == np.float32:
        return to_frames(rearrange(torch.from_numpy(np.array(tail)), "t h w c -> t c h w"), truncate=True)
    parts = [memory.parts[name] for name in ("head", "tail") if name in memory.parts]
    frames: Frames = np.concatenate(parts).astype(np.uint8, copy=False)
    return frames


def read_memory(memory: Memory, spec: StreamSpec, tail_frames: int) -> Past:
    """Raises `InvalidRequest` if the memory is of another family, layout or size."""
    _require("memory of another kind", (KIND, VERSION), (memory.kind, memory.version))
    shapes = {name: part.shape for name, part in memory.parts.items() if name in ("tail", "anchor")}
    size = (spec.height, spec.width, 3)
    _require("memory of another size", {"tail": (tail_frames, *size), "anchor": size}, shapes)
    state = memory.parts.get("rng_state")
    return Past(
        to_network(memory.parts["tail"]),
        to_network(memory.parts["anchor"][None]),
        None if state is None else torch.from_numpy(np.array(state)),
        memory.parts["anchor"],
    )


def _require(what: str, expected: object, received: object) -> None:
    if expected != received:
        raise InvalidRequest(what, expected=expected, received=received, param="memory")
