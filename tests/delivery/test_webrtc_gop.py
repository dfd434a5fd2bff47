"""From a stored segment to packets, without touching a picture."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import av
import pytest
from server.standin import SPEC

from delivery.webrtc_viewers import Filmed, encoded
from st2v_stream.delivery.webrtc_gop import GopShelf, parameter_sets, read_gop
from st2v_stream.generators.testcard import read_frame_number
from st2v_stream.media.boxes import DamagedMedia, read_init
from st2v_stream.media.nal import IDR, PPS, SLICE, SPS, nal_type, split_annexb
from st2v_stream.types import SegmentRef


def reference(director: Filmed, video: str, index: int) -> SegmentRef:
    (segment,) = (e.segment for e in asyncio.run(director.snapshot(video)).entries if e.segment and e.index == index)
    return segment


def numbers(frames: tuple[bytes, ...]) -> list[int]:
    decoder = av.CodecContext.create("h264", "r")
    pictures = [picture for frame in frames for picture in decoder.decode(av.Packet(frame))] + decoder.decode(None)
    return [read_frame_number(picture.to_ndarray(format="rgb24")) for picture in pictures]


def test_packets_decode_to_the_frames_of_the_chunk() -> None:
    director = Filmed()
    video = director.add(2)
    made = encoded(1)
    gop = read_gop(reference(director, video, 1), made.init, made.data)
    assert (gop.index, gop.start, gop.end) == (1, 16, 24)
    assert numbers(gop.frames) == list(range(16, 24))


def test_parameter_sets_come_before_the_key_frame_and_say_constrained_baseline() -> None:
    director = Filmed()
    video = director.add(1)
    made = encoded(0)
    gop = read_gop(reference(director, video, 0), made.init, made.data)
    units = [split_annexb(frame) for frame in gop.frames]
    assert [nal_type(unit) for unit in units[0]] == [SPS, PPS, IDR]
    assert {nal_type(unit) for frame in units[1:] for unit in frame} == {SLICE}
    assert units[0][0][1:3] == b"\x42\xc0"
    assert units[0][0][3] <= 31, "level 3.1 is what 42e01f in an answer promises"
    assert parameter_sets(read_init(made.init).avcc) == tuple(units[0][:2])


@pytest.mark.parametrize("cut", [5, 6, 7, 9, -1])
def test_a_damaged_configuration_is_said(cut: int) -> None:
    avcc = read_init(encoded(0).init).avcc
    damaged = avcc[:5] + b"\xe0\x00" if cut == -1 else avcc[:cut]
    with pytest.raises(DamagedMedia, match="an SPS and a PPS"):
        parameter_sets(damaged)


def test_another_length_than_the_log_says_is_an_error() -> None:
    director = Filmed()
    segment = reference(director, director.add(1), 0)
    with pytest.raises(DamagedMedia, match="expected 99, received 16"):
        read_gop(replace(segment, frames=99), encoded(0).init, encoded(0).data)


def test_a_chunk_is_read_once_for_everybody_and_forgotten_in_time() -> None:
    reads: list[str] = []

    class Counted(Filmed):
        async def read_blob(self, sha256: str) -> bytes:
            reads.append(sha256)
            return await super().read_blob(sha256)

    director = Counted()
    video = director.add(3)
    refs = [reference(director, video, index) for index in range(3)]

    async def ask() -> None:
        shelf = GopShelf(director, max_gops=2)
        first = await shelf.get(refs[0])
        assert await shelf.get(refs[0]) is first
        assert reads.count(refs[0].hash) == 1
        for ref in refs[1:]:
            await shelf.get(ref)
        assert await shelf.get(refs[0]) is not first
        assert reads.count(refs[0].hash) == 2

    asyncio.run(ask())
    assert SPEC.first_chunk_frames == 16
