"""How sharp, how true and how steady enlarged films are. Frames (T, H, W, 3) uint8 throughout."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from st2v_stream.chunk import Frames

EDGE_STEP = 24
"""Neighbouring pixels that differ by more than this, of 255, in some colour are an edge of the drawing."""

EDGE_REACH = 4
"""Pixels: near an edge is what lies so close to it. One pixel of the preview."""

CONTRAST = 60
"""Of 255: how far an edge's two sides must be apart for its width to be measured."""


def near_edges(truth: Frames) -> NDArray[np.bool_]:
    """Where the drawing has an edge within `EDGE_REACH` pixels: (T, H, W)."""
    kernel = np.ones((2 * EDGE_REACH + 1,) * 2, np.uint8)
    return np.stack([cv2.dilate(_edges(frame).astype(np.uint8), kernel) > 0 for frame in truth])


def squared_error(frames: Frames, truth: Frames) -> NDArray[np.float64]:
    """Mean over the colours, of 255 squared: (T, H, W)."""
    error: NDArray[np.float64] = ((frames.astype(np.float64) - truth) ** 2).mean(-1)
    return error


def psnr_db(mean_squared_error: float) -> float:
    """Of an error of 255 squared."""
    return float(10 * np.log10(255**2 / max(mean_squared_error, 1e-9)))


def flicker(frames: Frames, truth: Frames) -> tuple[float, int]:
    """Changes from frame to frame where the truth stands still: their sum, of 255, and how many pixels that are."""
    is_still = (truth[1:] == truth[:-1]).all(-1)  # (T - 1, H, W)
    change = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(-1)
    return float(change[is_still].sum()), int(is_still.sum())


def edge_widths(frames: Frames) -> NDArray[np.float64]:
    """How many pixels the picture needs from one side of an edge to the other, at every place on an edge: smaller is sharper.

    Of the brightness: its range within 13 x 13 pixels over its steepest slope there, where the range is `CONTRAST` or more and
    the slope is the steepest around. Needs no truth. A step drawn with smooth edges has about 1.5 pixels.
    """
    widths = [_widths(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)) for frame in frames]
    return np.concatenate(widths).astype(np.float64)


def _edges(frame: Frames) -> NDArray[np.bool_]:
    steps = np.zeros(frame.shape[:2], np.uint8)
    steps[:, 1:] = cv2.absdiff(frame[:, 1:], frame[:, :-1]).max(-1)
    steps[1:] = np.maximum(steps[1:], cv2.absdiff(frame[1:], frame[:-1]).max(-1))
    return steps > EDGE_STEP


def _widths(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    kernel = np.ones((_AROUND, _AROUND), np.uint8)
    spread = cv2.dilate(grey, kernel) - cv2.erode(grey, kernel)
    # central differences, so a step between two pixels counts half on either side
    slope = np.hypot(cv2.filter2D(grey, -1, _ACROSS), cv2.filter2D(grey, -1, _ACROSS.T))
    is_ridge = (slope >= cv2.dilate(slope, np.ones((3, 3), np.uint8))) & (spread >= CONTRAST) & (slope >= 0.1 * spread)
    widths: NDArray[np.float32] = spread[is_ridge] / slope[is_ridge]
    return widths


_AROUND = 13
"""Pixels: more than any edge is wide here, less than a drawn line is thick."""

_ACROSS = np.array([[-0.5, 0.0, 0.5]], np.float32)
