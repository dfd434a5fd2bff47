"""What somebody sent to start a film from, an image or a clip: decoded in a process of its own, within bounds.

    looked at     the first bytes: PNG, JPEG, WebP, MP4, MOV or WebM, nothing else reaches a decoder; the number of bytes
    in the child  memory, processor time and open files limited by the system; from the headers, before anything is decoded:
                  pixels, duration, codec; while decoding: the same again, because headers lie
    given back    pixels, and nothing else of the file: no EXIF, no sound, no subtitles

A decoder that is tricked into running foreign code, or into eating all memory, does so in a process that holds no secret and
ends after seconds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from st2v_stream.chunk import Frames, StreamSpec
from st2v_stream.errors import InvalidRequest, St2vError
from st2v_stream.types import Reference

MAX_IMAGE_BYTES = 20 * 2**20
MAX_CLIP_BYTES = 50 * 2**20
MAX_REFERENCE_BYTES = max(MAX_IMAGE_BYTES, MAX_CLIP_BYTES)

EXPECTED = "a PNG, JPEG or WebP image, or an MP4, MOV or WebM clip"

_STILLS_IN_MP4 = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
"""Brands of HEIF and AVIF images, which are boxes as MP4 is."""

_PACKAGE_HOME = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class ReferenceLimits:
    """What is refused. Bytes of the file; pixels of the image and of one frame; the clip's length; what the child may use.

    kept_pixels: a larger image is made smaller (only Stable Video Diffusion wants more than the film's own size).
    """

    image_bytes: int = MAX_IMAGE_BYTES
    clip_bytes: int = MAX_CLIP_BYTES
    image_pixels: int = 50_000_000
    clip_pixels: int = 3840 * 2160
    clip_s: float = 60.0
    clip_frames: int = 4_000
    kept_pixels: int = 2**23
    memory_bytes: int = 2 * 2**30
    processor_s: int = 60
    wall_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the child is asked for: clips at the film's size and rate, their first frame and the last `frames`."""

    kind: str
    width: int
    height: int
    fps: int
    frames: int
    limits: ReferenceLimits


def read_reference(
    content: bytes, spec: StreamSpec, *, limits: ReferenceLimits | None = None, param: str = "input_reference"
) -> Reference:
    """An image as it is (upright, transparency on white), or a clip as a film of `spec` continues it. Blocking: seconds.

    A clip comes at the film's size (covering, the middle kept) and, if it has more frames per second than the film, at the
    film's rate, so that it plays as fast as it did; of more than a first chunk its first frame and its last ones.

    Raises `InvalidRequest` (naming `param`) for everything that is no such file, or too much of it.
    """
    limits = limits or ReferenceLimits()
    kind = kind_of(content, param)
    most = limits.clip_bytes if is_clip(kind) else limits.image_bytes
    if len(content) > most:
        raise InvalidRequest(
            f"the {kind} file is too large", expected=f"at most {most} bytes", received=f"{len(content)} bytes", param=param
        )
    wanted = Wanted(kind, spec.width, spec.height, spec.fps, spec.first_chunk_frames, limits)
    return Reference(_decode_in_child(content, wanted, param))


def read_reference_file(path: Path, spec: StreamSpec, *, param: str = "image") -> Reference:
    """The same from a file on this machine; its size is looked at before it is read. Raises `InvalidRequest`."""
    try:
        size = path.stat().st_size
        if not path.is_file() or size > MAX_REFERENCE_BYTES:
            received = f"{size} bytes" if path.is_file() else "no file"
            expected = f"{EXPECTED} of at most {MAX_REFERENCE_BYTES} bytes"
            raise InvalidRequest(f"{path} cannot be used", expected=expected, received=received, param=param)
        content = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read", expected=EXPECTED, received=error.strerror, param=param) from error
    return read_reference(content, spec, param=param)


def kind_of(content: bytes, param: str = "input_reference") -> str:
    """PNG, JPEG, WEBP, MP4 or WEBM by the first bytes. Raises `InvalidRequest` for everything else."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp" and content[8:12] not in _STILLS_IN_MP4:
        return "MP4"
    if content.startswith(b"\x1a\x45\xdf\xa3") and b"webm" in content[:64]:
        return "WEBM"
    received = f"{len(content)} bytes that begin with {content[:12]!r}" if content else "nothing"
    raise InvalidRequest("this is no image and no clip", expected=EXPECTED, received=received, param=param)


def is_clip(kind: str) -> bool:
    """Whether a kind is decoded as a clip."""
    return kind in ("MP4", "WEBM")


# ---------------------------------------------------------------- the child


def _decode_in_child(content: bytes, wanted: Wanted, param: str) -> Frames:
    command = [sys.executable, "-P", "-m", "st2v_stream.media.decoding", json.dumps(asdict(wanted))]
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as complaints:
        try:
            done = subprocess.run(
                command,
                input=content,
                stdout=answer,
                stderr=complaints,
                timeout=wanted.limits.wall_s,
                env=_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:  # run() has killed it
            raise _too_long(wanted, wanted.limits.wall_s, param) from None
        if done.returncode:
            complaints.seek(0)
            raise _broken(done.returncode, complaints.read()[-2000:].decode(errors="replace"), wanted, param)
        return _read_answer(answer, param)


def _broken(status: int, complaints: str, wanted: Wanted, param: str) -> St2vError:
    """Why it gave no answer. It answers even when the file is bad, so a status above 0 is ours to mend."""
    if status > 0:
        last = complaints.strip().rpartition("\n")[2]
        return St2vError("the decoder did not start", expected="exit status 0", received=last)
    if -status == signal.SIGXCPU:
        return _too_long(wanted, wanted.limits.processor_s, param)
    return InvalidRequest(  # a library that found no memory, or worse
        f"the {wanted.kind} file broke its decoder",
        expected=f"a whole file that needs at most {wanted.limits.memory_bytes} bytes of memory",
        received=f"signal {-status}",
        param=param,
    )


def _too_long(wanted: Wanted, limit_s: float, param: str) -> InvalidRequest:
    expected = f"a file that is decoded within {limit_s:g} s"
    return InvalidRequest(f"decoding the {wanted.kind} file takes too long", expected=expected, received="no end", param=param)


def _environment() -> dict[str, str]:
    """The package, one thread, and nothing of ours: no token, no proxy, no home."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "LANG") if name in os.environ}
    search = os.pathsep.join([str(_PACKAGE_HOME), *(path for path in sys.path if path)])
    return kept | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _read_answer(answer: IO[bytes], param: str) -> Frames:
    """One line of JSON: the shape, and behind it the pixels; or what was wrong."""
    answer.seek(0)
    said: dict[str, Any] = json.loads(answer.readline(10_000))
    if "shape" not in said:
        error = InvalidRequest(said["message"], expected=said["expected"], param=param)
        error.received = said["received"]  # shortened and quoted over there
        raise error
    pixels = np.frombuffer(answer.read(), np.uint8)
    return pixels.reshape(said["shape"]).copy()
