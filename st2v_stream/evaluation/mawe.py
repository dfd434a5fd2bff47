"""Motion-aware warp error: how badly a frame, pushed along the optical flow, predicts the next one, per pixel of motion.

For a pair of frames, E is the mean squared error of the pushed frame over the pixels that something lands on, |flow| the
length of the flow in pixels. Low is good: much consistent motion, little error. Three forms are in use:

    released code   mean over pairs of  E / (9.5 mean |flow|)          a mean of ratios (`mawe_of_released_code`)
    paper           mean E / (9.5 mean |flow|)                         a ratio of means (`mawe`)
    paper, v2 text  mean E / mean |flow|^2                             squared, without the constant (`mawe_squared`)

None of them compares with another, nor with the same form under another flow network or another picture size: the paper
takes RAFT at 720x720. arXiv 2403.14773, section on the motion-aware warp error; the released `mawe.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from st2v_stream.chunk import Frames
from st2v_stream.evaluation.seams import Series

COEFFICIENT = 9.5
"""Brings error and motion to one scale (paper; `coeff` of the released code)."""


@dataclass(frozen=True, slots=True)
class Warped:
    """A frame pushed forward: (H, W, 3) uint8, 0 where nothing lands; `is_hit` (H, W) says where something does."""

    frame: Frames
    is_hit: NDArray[np.bool_]


def push(frame: Frames, flow: NDArray[np.float32]) -> Warped:
    """Move every pixel of (H, W, 3) by its flow (H, W, 2) in x and y pixels, to the nearest pixel (half to even).

    What lands outside is dropped; of several on one pixel the last in row-major order stays.
    """
    height, width = frame.shape[:2]
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    to_column, to_row = np.rint(columns + flow[..., 0]), np.rint(rows + flow[..., 1])
    is_inside = (to_column >= 0) & (to_column < width) & (to_row >= 0) & (to_row < height)
    targets = (to_row[is_inside] * width + to_column[is_inside]).astype(np.intp)
    source_of = np.full(height * width, -1, np.intp)
    source_of[targets] = np.flatnonzero(is_inside)  # one index array: numpy lets the last assignment stand
    pixels = rearrange(frame, "h w c -> (h w) c")
    is_hit = source_of >= 0
    landed = pixels[source_of]
    landed[~is_hit] = 0
    return Warped(rearrange(landed, "(h w) c -> h w c", h=height), rearrange(is_hit, "(h w) -> h w", h=height))


def warp_error(frame: Frames, following: Frames, flow: NDArray[np.float32]) -> float:
    """E: mean squared error (values 0 to 255) of the pushed frame, over hit pixels and channels; 0 if nothing is hit."""
    warped = push(frame, flow)
    hits = int(warped.is_hit.sum())
    errors = following.astype(np.int16) - warped.frame
    errors[~warped.is_hit] = 0
    flat = errors.ravel().astype(np.float64)
    return float(flat @ flat) / (3 * hits) if hits else 0.0


def flow_length(flow: NDArray[np.float32]) -> float:
    """Mean Euclidean length of the flow (H, W, 2), in pixels."""
    return float(np.hypot(flow[..., 0], flow[..., 1]).mean(dtype=np.float64))


def flow_energy(flow: NDArray[np.float32]) -> float:
    """Mean squared length of the flow (H, W, 2), in square pixels."""
    flat = flow.ravel().astype(np.float64)
    return float(flat @ flat) / int(flow.shape[0] * flow.shape[1])


def mawe_of_released_code(errors: Series, lengths: Series) -> float:
    """Mean of ratios, from E and mean flow length of every pair. NaN if a pair does not move (the code divides by 0)."""
    if len(errors) == 0 or not (lengths > 0).all():
        return math.nan
    return float((errors / (COEFFICIENT * lengths)).mean())


def mawe(errors: Series, lengths: Series) -> float:
    """Ratio of means. NaN if nothing moves in the whole film."""
    motion = float(lengths.mean()) if len(lengths) else 0.0
    return float(errors.mean()) / (COEFFICIENT * motion) if motion > 0 else math.nan


def mawe_squared(errors: Series, energies: Series) -> float:
    """Ratio of means with the squared flow (v2 of the paper). NaN if nothing moves in the whole film."""
    motion = float(energies.mean()) if len(energies) else 0.0
    return float(errors.mean()) / motion if motion > 0 else math.nan
