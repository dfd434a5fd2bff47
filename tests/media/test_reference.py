"""What people send to start a film from: what is read of it, and what is refused before it can do harm."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import clip_of, grey_frames, picture_of, sound_of
from PIL import Image

from media.test_image import png_header
from st2v_stream.chunk import Frames, StreamSpec
from st2v_stream.errors import InvalidRequest, St2vError
from st2v_stream.media import reference as reference_module
from st2v_stream.media.decoding import decode
from st2v_stream.media.reference import ReferenceLimits, Wanted, kind_of, read_reference, read_reference_file

SPEC = StreamSpec(width=64, height=64, fps=8, first_chunk_frames=16, chunk_frames=8)


def decoded(content: bytes, **limits: Any) -> Frames:
    """What the child does, without the child."""
    return decode(content, Wanted(kind_of(content), 64, 64, 8, 16, ReferenceLimits(**limits)))


def brightness(frames: Frames) -> list[int]:
    return [round((float(frame.mean()) - 10) / 5) for frame in frames]


def refused(content: bytes, **limits: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decoded(content, **limits)
    assert caught.value.expected
    assert caught.value.received
    return str(caught.value)


# ---------------------------------------------------------------- clips


def test_a_clip_at_the_films_rate_is_kept_frame_by_frame() -> None:
    frames = decoded(clip_of(grey_frames(5)))
    assert (frames.shape, frames.dtype) == ((5, 64, 64, 3), np.uint8)
    assert brightness(frames) == [0, 1, 2, 3, 4]


def test_of_a_longer_clip_the_first_frame_and_the_last_are_kept() -> None:
    assert brightness(decoded(clip_of(grey_frames(16)))) == list(range(16))
    assert brightness(decoded(clip_of(grey_frames(40)))) == [0, *range(24, 40)]


def test_a_clip_with_more_frames_per_second_plays_as_fast_as_it_did() -> None:
    assert brightness(decoded(clip_of(grey_frames(20), fps=24))) == [0, 3, 6, 9, 12, 15, 18]


def test_a_clip_with_fewer_frames_per_second_loses_none() -> None:
    assert brightness(decoded(clip_of(grey_frames(6), fps=3))) == list(range(6))


def test_webm_rounds_times_to_milliseconds_and_loses_no_frame() -> None:
    assert brightness(decoded(clip_of(grey_frames(12), container="webm", codec="libvpx"))) == list(range(12))


def test_a_clip_is_cut_to_the_films_shape_and_turned_upright() -> None:
    halves = grey_frames(2, width=128)
    halves[:, :, :64], halves[:, :, 64:] = 30, 220
    wide = decoded(clip_of(halves))
    assert wide.shape == (2, 64, 64, 3)
    assert wide[0, 32, 5].mean() < 60
    assert wide[0, 32, 58].mean() > 190
    lying = decoded(clip_of(halves, rotation=-90))  # show it turned clockwise: what was left is at the top
    assert lying[0, 5, 32].mean() < 60
    assert lying[0, 58, 32].mean() > 190


@pytest.mark.parametrize(
    ("content", "limits", "words"),
    [
        (sound_of(), {}, "expected a video stream"),
        (clip_of(grey_frames(2), container="mov", codec="mjpeg", pixels="yuvj420p"), {}, "expected one of h264"),
        (clip_of(grey_frames(20)), {"clip_s": 2.0}, "the clip is too long: expected at most 2 s, received '2.5 s or more'"),
        (clip_of(grey_frames(20)), {"clip_frames": 10}, "too many frames: expected at most 10"),
        (clip_of(grey_frames(2)), {"clip_pixels": 4000}, "expected frames of 1 to 4000 pixels, received '64x64'"),
        (clip_of(grey_frames(9))[:300], {}, "the clip cannot be decoded"),
        (b"\0\0\0\x18ftypisom" + bytes(500), {}, "the clip cannot be decoded"),
        (b"\x1a\x45\xdf\xa3" + b"\x42\x82\x84webm" + bytes(500), {}, "the clip cannot be decoded"),
    ],
    ids=["sound", "codec", "long", "frames", "pixels", "cut", "empty mp4", "empty webm"],
)
def test_clips_that_are_none_or_too_much(content: bytes, limits: dict[str, Any], words: str) -> None:
    assert words in refused(content, **limits)


def test_a_clip_whose_header_lies_about_its_length_is_caught_while_it_is_decoded() -> None:
    content = bytearray(clip_of(grey_frames(24)))
    for box in (b"mvhd", b"mdhd", b"tkhd"):  # version 0: the duration is 16 (mvhd, mdhd) or 20 bytes behind the name
        at = content.index(box) + (24 if box == b"tkhd" else 20)
        content[at : at + 4] = (1).to_bytes(4, "big")
    assert "too long" in refused(bytes(content), clip_s=2.0)


# ---------------------------------------------------------------- images


def test_an_image_keeps_its_size_unless_it_is_very_large() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    assert np.array_equal(decoded(picture_of(picture))[0], picture)
    assert decoded(picture_of(picture), kept_pixels=400).shape == (1, 15, 25, 3)


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture", b"GIF89a" + bytes(50), b"<svg/>", b"%PDF-1.4", b"\0\0\0\x18ftypheic" + bytes(50), b"RIFF....WAVE"],
)
def test_other_formats_reach_no_decoder(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_module, "_decode_in_child", None)
    with pytest.raises(InvalidRequest, match="this is no image and no clip: expected a PNG, JPEG or WebP image, or an MP4"):
        read_reference(content, SPEC)


def test_large_files_reach_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_module, "_decode_in_child", None)
    small = ReferenceLimits(image_bytes=100, clip_bytes=1000)
    for content, expected in ((picture_of(grey_frames(1)[0]), 100), (clip_of(grey_frames(2)), 1000)):
        words = rf"too large: expected at most {expected} bytes, received '{len(content)} bytes'"
        with pytest.raises(InvalidRequest, match=words):
            read_reference(content, SPEC, limits=small)


# ---------------------------------------------------------------- the child


def test_the_child_gives_what_is_in_the_file() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    assert np.array_equal(read_reference(picture_of(picture), SPEC).frames, picture[None])


def test_the_child_says_what_is_wrong_and_for_which_field() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_reference(png_header(100_000, 100_000), SPEC, param="image")
    assert caught.value.param == "image"
    assert "too large: expected at most 50000000 pixels, received" in str(caught.value)
    assert '\\"' not in str(caught.value)


def test_a_file_that_needs_more_memory_than_allowed_ends_the_child_alone() -> None:
    """7,000 x 7,000 in black and white: a few kB on the way, 49 MB when read, 196 MB as colours, more when handed on."""
    small = ReferenceLimits(memory_bytes=300 * 2**20)
    file = io.BytesIO()
    Image.new("1", (7000, 7000)).save(file, "PNG")
    with pytest.raises(InvalidRequest, match=r"memory"):
        read_reference(file.getvalue(), SPEC, limits=small)
    assert read_reference(picture_of(grey_frames(1)[0]), SPEC, limits=small).frames.shape == (1, 64, 64, 3)


def test_a_child_that_does_not_end_is_killed() -> None:
    with pytest.raises(InvalidRequest, match="takes too long: expected a file that is decoded within"):
        read_reference(picture_of(grey_frames(1)[0]), SPEC, limits=ReferenceLimits(wall_s=0.05))


def test_the_childs_end_is_explained() -> None:
    wanted = Wanted("MP4", 64, 64, 8, 16, ReferenceLimits())
    explain = reference_module._broken
    assert "decoded within 60 s" in str(explain(-24, "", wanted, "image"))
    assert isinstance(explain(-11, "", wanted, "image"), InvalidRequest)
    ours = explain(1, "Traceback\nModuleNotFoundError: No module named 'av'\n", wanted, "image")
    assert not isinstance(ours, InvalidRequest)
    assert isinstance(ours, St2vError)
    assert "No module named 'av'" in str(ours)


def test_the_child_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ST2V_TOKEN", "secret")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert not {"ST2V_TOKEN", "HOME"} & set(reference_module._environment())


def test_files_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, words in ((tmp_path / "none.png", "No such file"), (tmp_path, "received 'no file'")):
        with pytest.raises(InvalidRequest, match=words):
            read_reference_file(path, SPEC)
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(reference_module.MAX_REFERENCE_BYTES + 1)
    with pytest.raises(InvalidRequest, match=f"received '{reference_module.MAX_REFERENCE_BYTES + 1} bytes'"):
        read_reference_file(large, SPEC)
    (tmp_path / "small.png").write_bytes(picture_of(grey_frames(1)[0]))
    monkeypatch.setattr(reference_module, "_decode_in_child", lambda content, wanted, param: grey_frames(1))
    assert read_reference_file(tmp_path / "small.png", replace(SPEC, width=32)).frames.shape == (1, 64, 64, 3)
