"""Clips as people send them, and pictures."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from st2v_stream.chunk import Frames


def grey_frames(count: int, width: int = 64, height: int = 64) -> Frames:
    """Frame k is as bright as 10 + 5k."""
    return np.stack([np.full((height, width, 3), 10 + 5 * k, np.uint8) for k in range(count)])


def clip_of(
    frames: Frames, *, fps: int = 8, container: str = "mp4", codec: str = "libx264", rotation: int = 0, pixels: str = "yuv420p"
) -> bytes:
    """Frames (T, H, W, 3) as a file, BT.709."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        if rotation:
            stream.set_display_rotation(rotation)
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame = frame.reformat(format=pixels, dst_colorspace=1, dst_color_range=1)
            frame.pts, frame.time_base = number, Fraction(1, fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def sound_of(seconds: int = 1) -> bytes:
    """An MP4 without pictures."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for number in range(16 * seconds):
            frame.pts = 1024 * number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def picture_of(frame: Frames, kind: str = "PNG") -> bytes:
    """(H, W, 3) as a file."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, kind)
    return file.getvalue()
