"""Segments back to RGB: for tests, thumbnails of stored films and tools. Never to feed a model: decoding is lossy."""

from __future__ import annotations

import io
from collections.abc import Iterable

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from st2v_stream.chunk import Frames
from st2v_stream.media.boxes import DamagedMedia


def decode_frames(init: bytes, segments: Iterable[bytes]) -> Frames:
    """All frames, (T, H, W, 3) uint8 RGB, in order of display. Raises `DamagedMedia`."""
    to_rgb = VideoReformatter()
    try:
        with av.open(io.BytesIO(init + b"".join(segments)), format="mp4") as container:
            frames = [_rgb(frame, to_rgb) for frame in container.decode(video=0)]
    except av.FFmpegError as error:
        raise DamagedMedia("these segments cannot be decoded", received=str(error)) from error
    if not frames:
        raise DamagedMedia("these segments hold no frame", expected="at least one frame", received="none")
    return np.stack(frames)


def _rgb(frame: av.VideoFrame, to_rgb: VideoReformatter) -> Frames:
    """A yuv420p frame, BT.709, limited range -> (H, W, 3) uint8."""
    picture = to_rgb.reformat(
        frame,
        format="rgb24",
        src_colorspace=Colorspace.ITU709,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.BICUBIC
        | Interpolation.ACCURATE_RND
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.BITEXACT,
        threads=1,
    )
    return np.asarray(picture.to_ndarray(), dtype=np.uint8)
