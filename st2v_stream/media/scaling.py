"""Small pictures shown large: smooth enlargement by a whole factor, the same for films and thumbnails."""

from __future__ import annotations

import numpy as np
from PIL import Image

from st2v_stream.chunk import Frames

MIN_SIDE = 192
"""Pixels the short side should have before encoding: below, 4:2:0 chroma and browser upscaling show."""

FACTORS = (1, 2, 4)
"""Powers of two only, so that sizes stay multiples of the 16-pixel macroblock: 64 -> 256, 96 -> 192, 128 -> 256."""


def enlarge_factor(width: int, height: int) -> int:
    """The smallest factor that brings the short side to `MIN_SIDE`, or the largest one there is."""
    short_side = min(width, height)
    return next((factor for factor in FACTORS if short_side * factor >= MIN_SIDE), FACTORS[-1])


def enlarge(frames: Frames, factor: int) -> Frames:
    """(T, H, W, 3) -> (T, H * factor, W * factor, 3), bicubic; the same array for factor 1.

    Pillow, not swscale: swscale drops chroma to half its width before it scales RGB.
    """
    if factor == 1:
        return frames
    height, width = frames.shape[1] * factor, frames.shape[2] * factor
    return np.stack([resize(frame, width, height) for frame in frames])


def resize(frame: Frames, width: int, height: int) -> Frames:
    """One frame (H, W, 3) at another size, bicubic."""
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
