"""How a film holds together: seams between chunks, drift of its colours, change from frame to frame. numpy only.

A film is `(T, H, W, 3)` uint8 RGB. Every measure is a function of a few numbers per frame or per pair of frames, and both
halves are here: `boundary_ratio(film)` for a film in memory, `seam_ratio(differences)` for one that only passed by.
Differences, colours and saturations are on the scale 0 to 255.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from st2v_stream.chunk import Frames

Series: TypeAlias = NDArray[np.float64]
"""One number (or one row) per frame, or per pair of consecutive frames."""


def boundary_ratio(film: Frames, first_chunk_frames: int = 16, chunk_frames: int = 8) -> float:
    """Mean change where chunks meet over mean change inside the further chunks: 1 is a film without seams.

    NaN where it has no meaning: no second chunk, chunks of a single frame, or nothing moves at all.
    """
    return seam_ratio(frame_differences(film), first_chunk_frames, chunk_frames)


def seam_ratio(differences: Series, first_chunk_frames: int = 16, chunk_frames: int = 8) -> float:
    """`boundary_ratio` from the `(T - 1,)` frame differences. A seam without change inside gives infinity."""
    is_seam = seams(len(differences), first_chunk_frames, chunk_frames)
    # the inside of the first chunk is left out: it has no memory and may be made with other settings
    is_inside = ~is_seam & (np.arange(len(differences)) >= first_chunk_frames)
    if not is_seam.any() or not is_inside.any():
        return math.nan
    seam, inside = float(differences[is_seam].mean()), float(differences[is_inside].mean())
    if inside == 0.0:
        return math.nan if seam == 0.0 else math.inf
    return seam / inside


def seams(pairs: int, first_chunk_frames: int = 16, chunk_frames: int = 8) -> NDArray[np.bool_]:
    """(pairs,) True where the pair (frame i, frame i + 1) lies across two chunks."""
    after_first = np.arange(pairs) - (first_chunk_frames - 1)
    is_seam: NDArray[np.bool_] = (after_first >= 0) & (after_first % chunk_frames == 0)
    return is_seam


def frame_differences(film: Frames) -> Series:
    """(T - 1,) mean absolute difference of consecutive frames, over pixels and channels."""
    return np.array([difference(film[t], film[t + 1]) for t in range(len(film) - 1)], np.float64)


def difference(frame: Frames, following: Frames) -> float:
    """Mean absolute difference of two frames (H, W, 3)."""
    return float(np.abs(following.astype(np.int16) - frame).mean())


def still_difference(film: Frames, truth: Frames) -> float:
    """Mean absolute frame difference of `film` over the pixels that do not change at all in `truth` (both T, H, W, 3).

    What flickers where a perfect film stands still. NaN if every pixel of `truth` changes in every pair.
    """
    total, count = 0.0, 0
    for t in range(len(truth) - 1):
        is_still = (truth[t] == truth[t + 1]).all(axis=-1)  # (H, W)
        changes = np.abs(film[t + 1].astype(np.int16) - film[t]).mean(axis=-1)
        total += float(changes[is_still].sum())
        count += int(is_still.sum())
    return total / count if count else math.nan


def rgb_drift(film: Frames, window: int = 100) -> float:
    """How far the mean colour of the last frames lies from that of the first: mean over R, G, B of the absolute shift."""
    return float(np.abs(drift(mean_colours(film), window)).mean())


def saturation_drift(film: Frames, window: int = 100) -> float:
    """Mean saturation (HSV, 0 to 255) of the last frames less that of the first: above 0 the colours grow louder."""
    return float(drift(mean_saturations(film), window))


def drift(series: Series, window: int = 100) -> Series:
    """Mean over the last frames less mean over the first, per column of `(T,)` or `(T, columns)`.

    The window is an eighth of a film that is too short to hold two of them, and at least one frame.
    """
    frames = drift_window(len(series), window)
    shift: Series = series[-frames:].mean(axis=0) - series[:frames].mean(axis=0)
    return shift


def drift_window(frames: int, window: int = 100) -> int:
    """Frames compared at each end of a film of this length."""
    return window if frames >= 2 * window else max(1, frames // 8)


def mean_colours(film: Frames) -> Series:
    """(T, 3) mean R, G and B of every frame."""
    return np.array([mean_colour(frame) for frame in film], np.float64)


def mean_colour(frame: Frames) -> Series:
    """(3,) mean R, G and B of a frame (H, W, 3)."""
    colour: Series = frame.mean(axis=(0, 1), dtype=np.float64)
    return colour


def mean_saturations(film: Frames) -> Series:
    """(T,) mean saturation of every frame."""
    return np.array([mean_saturation(frame) for frame in film], np.float64)


def mean_saturation(frame: Frames) -> float:
    """Mean of HSV's saturation, 255 (max - min) / max over R, G, B (0 for black)."""
    largest, smallest = frame.max(axis=-1).astype(np.float32), frame.min(axis=-1)
    return float((255.0 * (largest - smallest) / np.maximum(largest, 1.0)).mean(dtype=np.float64))
