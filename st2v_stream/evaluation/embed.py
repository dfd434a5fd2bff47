"""Films inside a page: as data URLs, encoded small where the file is large or no browser plays it, else as a link."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from st2v_stream.chunk import Frames
from st2v_stream.evaluation.film import Film

MOST_BYTES = 2 * 2**20
"""A film's file up to this size is taken as it is, if browsers play it; a larger one is encoded again."""

MOST_BYTES_IN_ALL = 48 * 2**20
"""What all films of a page may weigh; those that come after are links."""

_SIDE = 384
_CRF = "30"
_STRIP_FRAMES = 8
_STRIP_HEIGHT = 88
_POSTER_HEIGHT = 256


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a page shows of a film. url: `data:video/mp4`, or None: then only `link`, relative to the page, leads to it."""

    url: str | None
    link: str
    strip: str
    poster: str
    is_small_copy: bool = False


class Budget:
    """How many bytes of film a page may still take."""

    def __init__(self, most_bytes: int = MOST_BYTES_IN_ALL, most_per_film: int = MOST_BYTES) -> None:
        self._left = most_bytes
        self._most_per_film = most_per_film

    def embed(self, film: Film, frames: int, page_folder: Path) -> Embedded:
        """The first `frames` frames of a film for a page in `page_folder`."""
        shown = film.shown or film.path
        link, (poster, strip) = os.path.relpath(shown, page_folder), _pictures(film.frames(), frames)
        limit = min(self._left, self._most_per_film)
        content = shown.read_bytes() if shown.stat().st_size <= limit and plays_in_browsers(shown) else None
        is_copy = content is None
        if content is None:
            content = encode_small(film.frames(), frames, film.fps, limit)
        if content is None:
            return Embedded(None, link, strip, poster)
        self._left -= len(content)
        return Embedded(data_url(content, "video/mp4"), link, strip, poster, is_copy)


def plays_in_browsers(path: Path) -> bool:
    """Whether a file is MP4 with H.264 in 4:2:0, which every browser plays."""
    try:
        with av.open(str(path)) as container:
            codec = container.streams.video[0].codec_context
            return "mp4" in container.format.name and codec.name == "h264" and codec.pix_fmt in ("yuv420p", "yuvj420p")
    except (av.FFmpegError, OSError, IndexError):
        return False


def encode_small(frames: Iterable[Frames], count: int, fps: float, most_bytes: int) -> bytes | None:
    """The first `count` frames as a small H.264 MP4; None if that would weigh more than `most_bytes`."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = None
        for frame in islice(frames, count):
            width, height = small_size(frame.shape[1], frame.shape[0])
            stream = stream or _open_stream(container, width, height, fps)
            container.mux(stream.encode(_small_frame(frame, width, height)))
            if file.tell() > most_bytes:
                break
        if stream is not None:
            container.mux(stream.encode(None))
    content = file.getvalue()
    return content if 0 < len(content) <= most_bytes else None


def _open_stream(container: Any, width: int, height: int, fps: float) -> Any:
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.options = {"crf": _CRF, "preset": "veryfast"}
    stream.codec_context.thread_count = 1
    stream.codec_context.color_range, stream.codec_context.colorspace = ColorRange.MPEG, Colorspace.ITU709
    return stream


def _small_frame(frame: Frames, width: int, height: int) -> Any:
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return picture.reformat(
        width, height, "yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, interpolation="AREA"
    )


def small_size(width: int, height: int) -> tuple[int, int]:
    """At most 384 pixels on the longer side, both sides even."""
    scale = min(1.0, _SIDE / max(width, height))
    return tuple(max(2, round(side * scale / 2) * 2) for side in (width, height))  # type: ignore[return-value]


def _pictures(frames: Iterator[Frames], count: int) -> tuple[str, str]:
    """The first frame, and eight frames evenly spread from the first to the last side by side; one pass over the film."""
    wanted = set(np.linspace(0, count - 1, min(count, _STRIP_FRAMES)).round().astype(int).tolist())
    poster, pictures = "", []
    for number, frame in enumerate(islice(frames, count)):
        if number == 0:
            poster = picture_url(_scaled(frame, _POSTER_HEIGHT))
        if number in wanted:
            pictures.append(_scaled(frame, _STRIP_HEIGHT))
    return poster, picture_url(np.concatenate(pictures, axis=1))


def _scaled(frame: Frames, height: int) -> Frames:
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def picture_url(picture: Frames) -> str:
    """(H, W, 3) as a JPEG in a data URL."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=82)
    return data_url(file.getvalue(), "image/jpeg")


def data_url(content: bytes, kind: str) -> str:
    """Bytes inside a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
