"""The process that decodes a foreign file (see reference.py): `python -m st2v_stream.media.decoding WANTED < file`.

It limits itself first. It answers on stdout with one line of JSON and the pixels, or with one line that says what is wrong.
"""

from __future__ import annotations

import io
import json
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

from st2v_stream.chunk import Frames
from st2v_stream.errors import InvalidRequest
from st2v_stream.media.reference import EXPECTED, ReferenceLimits, Wanted, is_clip

_DEMUXERS = {"MP4": "mov,mp4,m4a,3gp,3g2,mj2", "WEBM": "matroska,webm"}
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4")
_JITTER = 0.01
"""Of a frame of the film: containers round times to milliseconds."""


def main(argument: str) -> int:
    """Decode stdin; the exit status is 0 also when the file is bad."""
    wanted = wanted_from_json(argument)
    limit_process(wanted.limits)
    try:
        frames = decode(sys.stdin.buffer.read(), wanted)
    except InvalidRequest as error:
        return _answer({"message": error.message, "expected": error.expected, "received": error.received})
    except MemoryError:
        expected = f"a file that is decoded in {wanted.limits.memory_bytes} bytes"
        return _answer({"message": "decoding needs too much memory", "expected": expected, "received": "more"})
    except ImportError:
        raise
    except Exception as error:  # whatever a library makes of a foreign file: it is the file's fault
        received = f"{type(error).__name__}: {error}"[:200]
        return _answer({"message": f"the {wanted.kind} file cannot be decoded", "expected": EXPECTED, "received": received})
    return _answer({"shape": frames.shape}, frames.tobytes())


def wanted_from_json(text: str) -> Wanted:
    """What `reference.py` asks for."""
    fields = json.loads(text)
    return Wanted(**{**fields, "limits": ReferenceLimits(**fields["limits"])})


def limit_process(limits: ReferenceLimits) -> None:
    """From here on the system refuses more memory, more processor time, more than a few files, and any core dump."""
    import resource

    for kind, most, spare in (
        (resource.RLIMIT_AS, limits.memory_bytes, 0),
        (resource.RLIMIT_CPU, limits.processor_s, 5),  # SIGXCPU, and SIGKILL for one that takes no notice
        (resource.RLIMIT_NOFILE, 64, 0),
        (resource.RLIMIT_FSIZE, 4 * limits.kept_pixels + 2**26, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        bound = most + spare if hard == resource.RLIM_INFINITY else min(most + spare, hard)
        resource.setrlimit(kind, (min(most, bound), bound))


def decode(content: bytes, wanted: Wanted) -> Frames:
    """The frames, (T, H, W, 3) uint8. Raises `InvalidRequest`, MemoryError."""
    return _decode_clip(content, wanted) if is_clip(wanted.kind) else _decode_image(content, wanted)


def _decode_image(content: bytes, wanted: Wanted) -> Frames:
    import numpy as np
    from PIL import Image

    from st2v_stream.media.image import read_image

    limits = wanted.limits
    frames = read_image(content, max_bytes=limits.image_bytes, max_pixels=limits.image_pixels)
    height, width = frames.shape[1:3]
    scale = (limits.kept_pixels / (height * width)) ** 0.5
    if scale >= 1:
        return frames
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.asarray(Image.fromarray(frames[0]).resize(size, Image.Resampling.LANCZOS))[None]


# ---------------------------------------------------------------- clips


def _decode_clip(content: bytes, wanted: Wanted) -> Frames:
    import av
    import numpy as np

    first: list[Any] = []
    last: deque[Any] = deque(maxlen=wanted.frames)
    try:
        with av.open(io.BytesIO(content), format=_DEMUXERS[wanted.kind]) as container:
            stream = _video_stream(container, wanted.limits)
            for frame in _at_film_rate(container.decode(stream), wanted):
                if len(last) == last.maxlen and not first:
                    first.append(last[0])
                last.append(frame)
    except av.FFmpegError as error:
        raise InvalidRequest("the clip cannot be decoded", expected=EXPECTED, received=error.strerror) from error
    if not last:
        raise InvalidRequest("the clip holds no frame", expected="at least one frame", received="none")
    return np.stack([_pixels(frame, wanted) for frame in (*first, *last)])


def _video_stream(container: Any, limits: ReferenceLimits) -> Any:
    """The first video stream, if what its header says is within the limits; on one thread."""
    if not container.streams.video:
        raise InvalidRequest("the clip has no pictures", expected="a video stream", received="none")
    stream = container.streams.video[0]
    codec = stream.codec_context
    if codec is None or codec.codec.canonical_name not in CODECS:
        received = "an unknown one" if codec is None else codec.codec.canonical_name
        raise InvalidRequest("the clip's codec is not read", expected="one of " + ", ".join(CODECS), received=received)
    _require_pixels(codec.width, codec.height, limits)
    durations = [float(stream.duration * stream.time_base)] if stream.duration is not None else []
    if container.duration is not None:
        durations.append(container.duration / 1_000_000)
    _require_length(max(durations, default=0.0), stream.frames, limits)
    codec.thread_count = 1
    return stream


def _at_film_rate(frames: Iterator[Any], wanted: Wanted) -> Iterator[Any]:
    """Those frames that a film of this rate shows, while what is decoded stays within the limits."""
    begin_s, shown = None, -1
    for number, frame in enumerate(frames):
        _require_pixels(frame.width, frame.height, wanted.limits)
        time_s = number / wanted.fps if frame.time is None else frame.time
        begin_s = time_s if begin_s is None else begin_s
        _require_length(time_s - begin_s, number + 1, wanted.limits)
        due = int((time_s - begin_s) * wanted.fps + _JITTER)
        if due > shown:
            shown = due
            yield frame


def _pixels(frame: Any, wanted: Wanted) -> Frames:
    """RGB (H, W, 3) at the film's size, upright."""
    import numpy as np
    from av.video.reformatter import ColorRange, Colorspace

    from st2v_stream.media.image import fit_image

    colours = Colorspace.ITU709 if _is_bt709(frame) else Colorspace.ITU601
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=colours,
        dst_colorspace=colours,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    ).to_ndarray()
    quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, as numpy turns
    upright = np.ascontiguousarray(np.rot90(rgb, quarter_turns))
    fitted: Frames = fit_image(upright[None], wanted.width, wanted.height)[0]
    return fitted


def _is_bt709(frame: Any) -> bool:
    """What the clip says; unmarked ones are BT.709 from 720 lines on, as players take them."""
    marked = int(frame.colorspace)
    return marked == 1 or (marked not in (4, 5, 6, 7) and min(frame.width, frame.height) >= 720)


def _require_pixels(width: int, height: int, limits: ReferenceLimits) -> None:
    if not 0 < width * height <= limits.clip_pixels:
        expected = f"frames of 1 to {limits.clip_pixels} pixels"
        raise InvalidRequest("the clip's frames are too large", expected=expected, received=f"{width}x{height}")


def _require_length(duration_s: float, frames: int, limits: ReferenceLimits) -> None:
    if duration_s > limits.clip_s:
        raise InvalidRequest(
            "the clip is too long", expected=f"at most {limits.clip_s:g} s", received=f"{duration_s:.1f} s or more"
        )
    if frames > limits.clip_frames:
        raise InvalidRequest(
            "the clip has too many frames", expected=f"at most {limits.clip_frames}", received=f"{frames} or more"
        )


def _answer(said: dict[str, Any], pixels: bytes = b"") -> int:
    sys.stdout.buffer.write(json.dumps(said).encode() + b"\n" + pixels)
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
