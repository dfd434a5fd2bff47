"""A film to measure: a video file, decoded frame by frame and never held whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from st2v_stream.chunk import Frames
from st2v_stream.errors import InvalidRequest

_OWN_HANDLER = "video"  # what media/boxes writes as the name of its track; others write VideoHandler and the like
_LONGEST_CHUNK = 64  # key frames further apart are an encoder's habit, not chunks
_EXACT_CODECS = ("ffv1", "rawvideo")
_UPSAMPLING = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
)  # as media/decode: the same frames from the same file on every CPU


@dataclass(frozen=True, slots=True)
class ChunkGrid:
    """Where chunks meet: after the first `first_chunk_frames`, then every `chunk_frames`."""

    first_chunk_frames: int
    chunk_frames: int

    def __post_init__(self) -> None:
        for name in ("first_chunk_frames", "chunk_frames"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"{name} is out of range", expected="1 or more", received=getattr(self, name), param=name)


@dataclass(frozen=True, slots=True)
class Film:
    """A file and what is known about it. group: the model that made it, or `files`.

    is_exact: its frames are those that were made; otherwise a lossy codec lies between, whose key frames show in the
    differences. declared_frames: what the file says about its length. shown: the file that a person watches, where that is
    another one.
    """

    path: Path
    width: int
    height: int
    fps: float
    name: str
    group: str = "files"
    prompt: str | None = None
    grid: ChunkGrid | None = None
    is_exact: bool = False
    declared_frames: int | None = None
    shown: Path | None = None
    notes: tuple[str, ...] = ()

    def frames(self) -> Iterator[Frames]:
        """(H, W, 3) uint8 RGB, one after the other. Raises `InvalidRequest` if the file ends in damage."""
        return read_frames(self.path)


def open_film(path: Path, *, group: str = "files", name: str | None = None) -> Film:
    """Look into a video file without decoding more than its first frame. Raises `InvalidRequest` naming file and fault."""
    if not path.is_file():
        received = "a folder" if path.is_dir() else "no such file"
        raise InvalidRequest(f"{path} cannot be measured", expected="a video file", received=received)
    with _opened(path) as container:
        stream = _video_stream(container, path)
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise InvalidRequest(f"{path} has no frame rate", expected="frames per second", received="none")
        codec, title = stream.codec_context.name, container.metadata.get("title", "").strip()
        own, declared_s = _is_ours(stream), _declared_s(container, stream)
        keys = [number for number, is_key in enumerate(_key_flags(container, stream)) if is_key] if own else []
    first = next(read_frames(path), None)
    if first is None:
        raise InvalidRequest(f"{path} holds no frame", expected="at least 2 frames", received=0)
    height, width = first.shape[:2]
    return Film(
        path=path,
        width=width,
        height=height,
        fps=float(rate),
        name=name or path.stem,
        group=group,
        prompt=title or None,
        grid=grid_from_keys(keys),
        is_exact=codec in _EXACT_CODECS,
        declared_frames=None if declared_s is None else round(declared_s * float(rate)),
    )


def grid_from_keys(keys: Sequence[int]) -> ChunkGrid | None:
    """The chunk grid that key frames at these numbers show, None if they show none (three chunks are needed to tell)."""
    gaps = np.diff(np.asarray(keys, np.int64))
    if len(gaps) < 2 or (gaps[1:] != gaps[1]).any() or gaps.max() > _LONGEST_CHUNK:
        return None
    return ChunkGrid(int(gaps[0]), int(gaps[1]))


def read_frames(path: Path) -> Iterator[Frames]:
    """Every frame of a video file as (H, W, 3) uint8 RGB. Raises `InvalidRequest` where it cannot be decoded."""
    to_rgb, number, size = VideoReformatter(), 0, None
    with _opened(path) as container:
        stream = _video_stream(container, path)
        try:
            for frame in container.decode(stream):
                size = size or (frame.width, frame.height)
                if size != (frame.width, frame.height):
                    received = f"{frame.width}x{frame.height} at frame {number}"
                    raise InvalidRequest(f"{path} changes its size", expected=f"{size[0]}x{size[1]}", received=received)
                yield _rgb(frame, to_rgb)
                number += 1
        except av.FFmpegError as error:
            raise InvalidRequest(f"{path} cannot be decoded after frame {number}", received=_reason(error)) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise InvalidRequest(f"{path} is not a video", expected="a file that FFmpeg reads", received=_reason(error)) from error
    with container:
        yield container


def _video_stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise InvalidRequest(f"{path} is not a video", expected="a video track", received="none")
    return container.streams.video[0]


def _declared_s(container: Any, stream: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    is_alone = len(container.streams) == 1  # sound may last longer than the pictures
    return container.duration / av.time_base if container.duration and is_alone else None


def _is_ours(stream: Any) -> bool:
    return bool(stream.metadata.get("handler_name") == _OWN_HANDLER)


def _key_flags(container: Any, stream: Any) -> Iterator[bool]:
    """One per frame, in the order of the file (ours has no frames out of order)."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet.is_keyframe
    except av.FFmpegError:
        return  # read_frames says where the damage is


def _rgb(frame: Any, to_rgb: VideoReformatter) -> Frames:
    """Any pixel format -> (H, W, 3) uint8; colours by the matrix and range that the file names."""
    is_full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    picture = to_rgb.reformat(
        frame,
        format="rgb24",
        src_color_range=None if frame.format.is_rgb else ColorRange.JPEG if is_full else ColorRange.MPEG,
        dst_color_range=None if frame.format.is_rgb else ColorRange.JPEG,
        interpolation=_UPSAMPLING,
        threads=1,
    )
    return np.asarray(picture.to_ndarray(), np.uint8)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
