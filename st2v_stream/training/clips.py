"""A folder of captioned clips: which of them can be used, and their frames at the size and rate of a model.

    FOLDER/**/NAME.mp4     or .mov, .mkv, .webm, .gif ...: whatever PyAV decodes
    FOLDER/**/NAME.txt     its caption; or, for many clips, one line each in
    FOLDER/captions.jsonl  {"file": "NAME.mp4", "caption": "a red boat drifts left"}    (wins over NAME.txt)

What is wrong with a file is an `InvalidRequest` that names it; whoever reads the folder decides whether to go on with the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace

from st2v_stream.chunk import Frames
from st2v_stream.errors import InvalidRequest
from st2v_stream.media.image import fit_image

CAPTIONS_FILE = "captions.jsonl"
MIN_FRAMES = 24
"""A window of 16 frames, and before it 8 from which APM's anchor is drawn."""

MAX_FRAMES = 512
"""Of a longer clip its beginning is used: a clip is held in memory once, while its latents are made."""

MAX_PIXELS = 8192 * 4320
"""Per frame; more is no film but an attack on the memory."""

_NO_CLIPS = frozenset({".txt", ".json", ".jsonl", ".csv", ".md"})
_UNSPECIFIED = 2
_HD_LINES = 720
_SLACK = 0.1  # of a frame: time stamps of some containers are whole milliseconds


@dataclass(frozen=True)
class Clip:
    """A file and what it shows; `name` is its path within the folder, with slashes."""

    path: Path
    name: str
    caption: str


def find_clips(folder: Path) -> tuple[list[Clip], list[InvalidRequest]]:
    """Every clip that has a caption, by name, and what is wrong with the others. No file is opened but captions.

    Raises `InvalidRequest` if there is no such folder.
    """
    if not folder.is_dir():
        raise InvalidRequest("no folder of clips", expected="a folder", received=str(folder), param="clips")
    captions, problems = _listed_captions(folder)
    clips = []
    for path in _candidates(folder):
        name = path.relative_to(folder).as_posix()
        try:
            clips.append(Clip(path, name, _caption(path, name, captions.pop(name, None))))
        except InvalidRequest as problem:
            problems.append(problem)
    problems += [InvalidRequest(f"{name} has a line in {CAPTIONS_FILE} and is not there") for name in captions]
    return clips, problems


def _candidates(folder: Path) -> list[Path]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix.lower() not in _NO_CLIPS)
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _listed_captions(folder: Path) -> tuple[dict[str, str], list[InvalidRequest]]:
    """captions.jsonl as a table from file names to captions; empty if there is no such file."""
    path, captions = folder / CAPTIONS_FILE, dict[str, str]()
    problems: list[InvalidRequest] = []
    if not path.is_file():
        return captions, problems
    for number, line in enumerate(_text(path, CAPTIONS_FILE).splitlines(), start=1):
        where = f"{CAPTIONS_FILE}, line {number}"
        try:
            if line.strip():
                name, caption = _listed_caption(line, where)
                if name in captions:
                    raise InvalidRequest(f"{where} is the second one for {name}")
                captions[name] = caption
        except InvalidRequest as problem:
            problems.append(problem)
    return captions, problems


def _listed_caption(line: str, where: str) -> tuple[str, str]:
    try:
        fields: Any = json.loads(line)
        name, caption = fields["file"], fields["caption"]
        if isinstance(name, str) and isinstance(caption, str):
            return name, caption
    except (ValueError, KeyError, TypeError):
        pass
    raise InvalidRequest(f"{where} cannot be read", expected='{"file": "...", "caption": "..."}', received=line)


def _caption(path: Path, name: str, listed: str | None) -> str:
    beside = path.with_suffix(".txt")
    if listed is None and not beside.is_file():
        expected = f"{beside.name} beside it, or a line in {CAPTIONS_FILE}"
        raise InvalidRequest(f"{name} has no caption", expected=expected, received="neither")
    caption = " ".join((_text(beside, name) if listed is None else listed).split())
    if not caption:
        raise InvalidRequest(f"the caption of {name} is empty", expected="a few words", received=caption)
    return caption


def _text(path: Path, name: str) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the caption of {name} cannot be read", expected="UTF-8", received=str(error)) from error


def read_frames(clip: Clip, *, fps: float, width: int, height: int, max_frames: int = MAX_FRAMES) -> Frames:
    """(T, height, width, 3) uint8: the frames on screen every 1/fps s from the first on, at most `max_frames`.

    Frames are turned as the file says, scaled to fill (height, width) and cut to it around their centre. Memory holds the
    small frames and a few large ones. Raises `InvalidRequest` naming the file: no film, too slow, shorter than `MIN_FRAMES`.
    """
    try:
        # a play list must not lead to other machines
        with av.open(str(clip.path), options={"protocol_whitelist": "file"}) as container:
            stream = _video_stream(container, clip.name, fps)
            shown = at_rate(container.decode(stream), fps, float(stream.average_rate or fps))
            frames = [fit_image(_rgb(frame)[None], width, height)[0] for frame in islice(shown, max_frames)]
    except av.FFmpegError as error:
        raise InvalidRequest(f"{clip.name} cannot be decoded", expected="a film", received=error.strerror) from error
    if len(frames) < MIN_FRAMES:
        expected = f"at least {MIN_FRAMES} frames at {fps:g} per second"
        raise InvalidRequest(f"{clip.name} is too short", expected=expected, received=len(frames))
    return np.stack(frames)


def _video_stream(container: av.container.InputContainer, name: str, fps: float) -> av.VideoStream:
    if not container.streams.video:
        raise InvalidRequest(f"{name} has no picture", expected="a film", received=container.format.long_name)
    stream = container.streams.video[0]
    if stream.width * stream.height > MAX_PIXELS:
        size = f"{stream.width} x {stream.height}"
        raise InvalidRequest(f"{name} is too large", expected=f"at most {MAX_PIXELS} pixels", received=size)
    if stream.average_rate and stream.average_rate < (1 - _SLACK) * fps:
        rate = float(stream.average_rate)
        raise InvalidRequest(f"{name} is too slow", expected=f"{fps:g} frames per second", received=f"{rate:g}")
    stream.thread_type = "AUTO"
    return stream


def at_rate(frames: Iterable[av.VideoFrame], fps: float, own_fps: float) -> Iterator[av.VideoFrame]:
    """The frames on screen at 0, 1/fps, 2/fps ... s after the first; `own_fps` places frames without time stamps."""
    start, time, wanted = 0.0, 0.0, 0
    shown: av.VideoFrame | None = None
    for number, frame in enumerate(frames):
        time = number / own_fps if frame.time is None else float(frame.time)
        start = time if number == 0 else start
        while shown is not None and (wanted + _SLACK) / fps < time - start:
            yield shown
            wanted += 1
        shown = frame
    if shown is not None and (wanted - _SLACK) / fps <= time - start:
        yield shown


def _rgb(frame: av.VideoFrame) -> Frames:
    """(H, W, 3) uint8, upright. Films in high definition that do not name their colours mean BT.709; FFmpeg assumes BT.601."""
    unnamed_hd = frame.colorspace == _UNSPECIFIED and frame.height >= _HD_LINES
    pixels = frame.to_ndarray(format="rgb24", src_colorspace=Colorspace.ITU709 if unnamed_hd else None)
    return np.rot90(np.asarray(pixels, dtype=np.uint8), round(frame.rotation / 90))
