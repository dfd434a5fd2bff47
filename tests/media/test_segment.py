from __future__ import annotations

import hashlib

import pytest

from st2v_stream.chunk import StreamSpec
from st2v_stream.errors import InvalidRequest
from st2v_stream.media.segment import EncodeSpec, Segment


def stream(width: int, height: int) -> StreamSpec:
    return StreamSpec(width, height, fps=10, first_chunk_frames=16, chunk_frames=8)


@pytest.mark.parametrize(("size", "factor"), [(32, 4), (64, 4), (96, 2), (128, 2), (190, 2), (192, 1), (256, 1), (720, 1)])
def test_small_pictures_are_enlarged(size: int, factor: int) -> None:
    assert EncodeSpec.for_stream(stream(size, size)).enlarge == factor
    assert EncodeSpec.for_stream(stream(size * 2, size)).enlarge == factor


def test_renditions_differ_in_profile() -> None:
    assert EncodeSpec.for_stream(stream(256, 256), "preview").profile == "baseline"
    assert EncodeSpec.for_stream(stream(256, 256), "enhanced").profile == "high"


def test_odd_sizes_are_refused_before_anything_is_made() -> None:
    with pytest.raises(InvalidRequest, match="expected even width and height, received '255x256'"):
        EncodeSpec.for_stream(stream(255, 256))
    assert EncodeSpec.for_stream(stream(65, 65)).enlarge == 4  # enlarged, it is even


@pytest.mark.parametrize(("field", "value"), [("fps", 0), ("enlarge", 3)])
def test_impossible_settings_are_refused(field: str, value: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        EncodeSpec(**{"fps": 10, field: value})
    assert refused.value.param == field


def test_times_never_drift() -> None:
    spec = EncodeSpec(fps=7)
    assert spec.ticks(7 * 36_000) == 36_000 * 90_000
    assert all(abs(spec.ticks(frame) - frame * 90_000 / 7) < 1 for frame in range(1000))


def test_hashes_address_the_bytes() -> None:
    segment = Segment(b"data", b"init", "avc1.42C00B", 0, 16, 256, 256)
    assert segment.hash == hashlib.sha256(b"data").hexdigest()
    assert segment.init_hash == hashlib.sha256(b"init").hexdigest()
