from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from st2v_stream.chunk import Chunk, StreamSpec
from st2v_stream.errors import InvalidRequest, St2vError
from st2v_stream.media import nal
from st2v_stream.media.boxes import read_init, read_segment
from st2v_stream.media.decode import decode_frames
from st2v_stream.media.encode import encode_segment
from st2v_stream.media.segment import EncodeSpec, Segment

from .conftest import STREAM, make_chunk
from .h264 import read_sps

SPEC = EncodeSpec.for_stream(STREAM, "preview")
TEN_HOURS = 10 * 3600 * STREAM.fps


def sps_of(segment: Segment) -> dict[str, int]:
    record = read_init(segment.init).avcc
    return read_sps(record[8 : 8 + int.from_bytes(record[6:8], "big")])


def test_equal_frames_and_spec_give_equal_bytes_in_every_thread(film: list[Segment]) -> None:
    chunks = [make_chunk(index) for index in range(4)] * 3
    with ThreadPoolExecutor(3) as pool:
        again = list(pool.map(encode_segment, chunks, [SPEC] * len(chunks)))
    assert again == film[:4] * 3


def test_bytes_do_not_depend_on_what_was_encoded_before_or_on_memory_layout(film: list[Segment]) -> None:
    chunk = make_chunk(5)
    strided = np.zeros((8, 64, 128, 3), np.uint8)[:, :, ::2]
    strided[...] = chunk.frames
    assert encode_segment(replace(chunk, frames=strided), SPEC) == film[5]


@pytest.mark.parametrize(("index", "start"), [(0, 0), (1, 16), (44_999, 16 + 44_998 * 8), (None, TEN_HOURS)])
def test_times_are_exact_from_the_beginning_to_ten_hours(index: int | None, start: int) -> None:
    chunk = replace(make_chunk(1), index=1 + (start - 16) // 8, start=start) if index is None else make_chunk(index)
    fragment = read_segment(encode_segment(chunk, SPEC).data)
    assert chunk.start == start
    assert fragment.start == start * 90_000 // STREAM.fps
    assert {sample.duration for sample in fragment.samples} == {9_000}
    assert fragment.end == (start + len(chunk.frames)) * 90_000 // STREAM.fps


def test_a_rendition_has_one_init_segment(film: list[Segment]) -> None:
    assert len({segment.init_hash for segment in film}) == 1


def test_only_the_first_frame_is_a_key_frame(film: list[Segment]) -> None:
    for segment in film:
        assert [sample.is_key for sample in read_segment(segment.data).samples] == [True] + [False] * (segment.frames - 1)


def test_samples_hold_one_slice_and_nothing_else(film: list[Segment]) -> None:
    kinds = [[nal.nal_type(unit) for unit in nal.split_sample(sample.data)] for sample in read_segment(film[1].data).samples]
    assert kinds == [[nal.IDR]] + [[nal.SLICE]] * 7


@pytest.mark.parametrize(("rendition", "profile", "constraints"), [("preview", 66, 0xC0), ("enhanced", 100, 0)])
def test_the_sps_says_what_decoders_need(rendition: str, profile: int, constraints: int) -> None:
    segment = encode_segment(make_chunk(1), EncodeSpec.for_stream(STREAM, rendition))  # type: ignore[arg-type]
    facts = sps_of(segment)
    assert (facts["profile"], facts["constraints"]) == (profile, constraints)
    assert segment.codec == f"avc1.{profile:02X}{constraints:02X}{facts['level']:02X}"
    assert (facts["primaries"], facts["transfer"], facts["matrix"], facts["full_range"]) == (1, 1, 1, 0)
    assert facts["max_num_reorder_frames"] == 0
    assert facts["max_dec_frame_buffering"] <= 1
    assert facts["time_scale"] == 2 * STREAM.fps * facts["num_units"]


def test_another_profile_than_asked_for_is_noticed() -> None:
    with pytest.raises(St2vError, match="expected 6400, received '42c0'"):  # ultrafast uses no tool of High
        encode_segment(make_chunk(1), EncodeSpec(10, profile="high", preset="ultrafast"))


@pytest.mark.parametrize("rendition", ["preview", "enhanced"])
def test_flat_colours_survive(rendition: str) -> None:
    chunk = make_chunk(0)
    segment = encode_segment(chunk, EncodeSpec.for_stream(STREAM, rendition))  # type: ignore[arg-type]
    error = middles(decode_frames(segment.init, [segment.data]), 256) - middles(chunk.frames, 64)
    assert np.abs(error).max() <= 12


@pytest.mark.parametrize("level", [0, 16, 128, 235, 255])
def test_greys_stay_grey(level: int) -> None:
    grey = np.full((8, 64, 64, 3), level, np.uint8)
    segment = encode_segment(make_chunk(1, grey), SPEC)
    decoded = decode_frames(segment.init, [segment.data])
    assert np.abs(decoded.astype(int) - level).max() <= 2


def test_primary_colours_survive() -> None:
    corners = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)] * 2, np.uint8).reshape(1, 4, 4, 3)
    frames = corners.repeat(16, 1).repeat(16, 2).repeat(8, 0)
    segment = encode_segment(make_chunk(1, frames), SPEC)
    assert np.abs(middles(decode_frames(segment.init, [segment.data]), 256) - middles(frames, 64)).max() <= 12


def middles(frames: np.ndarray, size: int) -> np.ndarray:
    """The centre pixel of each of the 4x4 patches, as int."""
    step = size // 4
    return frames[:, step // 2 :: step, step // 2 :: step].astype(int)


@pytest.mark.parametrize("shape", [(8, 65, 64, 3), (8, 64, 65, 3)])
def test_odd_sizes_are_refused(shape: tuple[int, ...], chunk_at: Callable[..., Chunk]) -> None:
    with pytest.raises(InvalidRequest, match="expected even width and height"):
        encode_segment(chunk_at(1, np.zeros(shape, np.uint8)), EncodeSpec(fps=10))


@pytest.mark.parametrize(
    "frames", [np.zeros((0, 64, 64, 3), np.uint8), np.zeros((8, 64, 64), np.uint8), np.zeros((8, 64, 64, 3))]
)
def test_what_is_no_run_of_frames_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(InvalidRequest, match=r"expected \(T, H, W, 3\) uint8"):
        encode_segment(make_chunk(1, frames), SPEC)


@pytest.mark.parametrize(("width", "height"), [(66, 64), (100, 84), (320, 192)])
def test_sizes_off_the_macroblock_grid_keep_their_size(width: int, height: int) -> None:
    stream = StreamSpec(width, height, 10, 16, 8)
    frames = np.random.default_rng(0).integers(0, 256, (8, height, width, 3), dtype=np.uint8)
    spec = EncodeSpec.for_stream(stream)
    segment = encode_segment(make_chunk(1, frames), spec)
    assert (segment.width, segment.height) == (width * spec.enlarge, height * spec.enlarge)
    assert decode_frames(segment.init, [segment.data]).shape == (8, segment.height, segment.width, 3)


def test_importing_media_imports_no_torch() -> None:
    modules = ["boxes", "decode", "encode", "image", "nal", "remux", "scaling", "segment", "thumbnail"]
    program = (
        "import sys\n" + "".join(f"import st2v_stream.media.{name}\n" for name in modules) + "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"


def test_speed_is_printed() -> None:
    chunk, times = make_chunk(1), []
    for _ in range(5):
        begin = time.perf_counter()
        encode_segment(chunk, SPEC)
        times.append(time.perf_counter() - begin)
    print(f"encode: 8 frames 64 -> 256 in {1000 * min(times):.1f} ms (best of 5)")
