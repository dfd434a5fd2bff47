"""Small films drawn with numpy, whose measures are known beforehand, and files to put them in."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Film = NDArray[np.uint8]


def texture(width: int, height: int, seed: int = 0, grain: int = 4) -> NDArray[np.uint8]:
    """A soft picture with detail of about `grain` pixels, (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // grain + 1, width // grain + 1, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def translation(frames: int, side: int = 96, step: int = 2, seed: int = 0) -> Film:
    """A window that moves over a texture by whole pixels: what a perfect flow explains without any error."""
    wide = texture(side + frames * step, side, seed, grain=8)
    return np.stack([wide[:, t * step : t * step + side] for t in range(frames)])


def noise(frames: int, side: int = 96, seed: int = 0) -> Film:
    """Frames that have nothing to do with each other."""
    return np.stack([texture(side, side, seed + t, grain=8) for t in range(frames)])


def write_film(
    path: Path, film: Iterable[Film], fps: int = 8, *, codec: str = "ffv1", pix_fmt: str = "bgr0", **options: str
) -> Path:
    """A video file of frames (H, W, 3); FFV1 keeps them exactly (into .mkv)."""
    with av.open(str(path), "w") as container:
        stream: Any = None
        for frame in film:
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps), options=options)
                stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], pix_fmt
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return path
