"""Our boxes, and the same packets through libavformat (a muxer per chunk), say the same."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import pytest

from st2v_stream.media import nal
from st2v_stream.media.boxes import DamagedMedia, Fragment, Sample, Track, read_init, read_segment, write_init, write_segment
from st2v_stream.media.encode import _encode, encode_segment
from st2v_stream.media.scaling import enlarge
from st2v_stream.media.segment import EncodeSpec, Segment

from .conftest import STREAM, make_chunk

SPEC = EncodeSpec.for_stream(STREAM, "preview")


def sample(payload: bytes, *, is_key: bool, duration: int = 9000) -> Sample:
    unit = bytes([0x65 if is_key else 0x41]) + payload
    return Sample(len(unit).to_bytes(4, "big") + unit, duration, is_key)


def test_segments_round_trip() -> None:
    samples = (sample(b"first", is_key=True), sample(b"x", is_key=False, duration=1), sample(b"yy", is_key=False))
    fragment = Fragment(sequence=7, start=2**40, samples=samples)
    assert read_segment(write_segment(fragment)) == fragment
    assert fragment.end == 2**40 + 18_001


def test_init_segments_round_trip() -> None:
    track = Track(720, 406, nal.avcc(bytes.fromhex("6764001facd9"), bytes.fromhex("68ebe3")))
    assert read_init(write_init(track)) == track
    assert track.codec == "avc1.64001F"


def test_our_own_segments_are_what_the_reader_accepts(film: list[Segment]) -> None:
    for number, segment in enumerate(film, 1):
        fragment = read_segment(segment.data)
        assert (fragment.sequence, len(fragment.samples)) == (number, segment.frames)
        assert write_segment(fragment) == segment.data
    assert write_init(read_init(film[0].init)) == film[0].init


# ---------------------------------------------------------------- libavformat as the witness


def libavformat_segment(index: int) -> bytes:
    """ftyp+moov+moof+mdat of one chunk by libavformat: one muxer per chunk (transport.md, variant B)."""
    chunk = make_chunk(index)
    ticks = [SPEC.ticks(chunk.start + t) for t in range(len(chunk.frames) + 1)]
    packets = _encode(enlarge(chunk.frames, SPEC.enlarge), ticks, SPEC)
    flags = "empty_moov+default_base_moof+frag_custom+frag_discont+skip_trailer"
    options = {"movflags": flags, "use_editlist": "0", "avoid_negative_ts": "disabled", "video_track_timescale": "90000"}
    options["fragment_index"] = str(index + 1)
    init, file = io.BytesIO(encode_segment(chunk, SPEC).init), io.BytesIO()
    with av.open(init, format="mp4") as template, av.open(file, "w", format="mp4", options=options) as container:
        stream = container.add_stream_from_template(template.streams.video[0])
        for number, data in enumerate(packets):
            packet = av.Packet(nal_lengths(data))
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 90_000), number == 0
            packet.pts = packet.dts = ticks[number]
            packet.duration = ticks[number + 1] - ticks[number]
            container.mux_one(packet)
    return file.getvalue()


def nal_lengths(annexb: bytes) -> bytes:
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in nal.split_annexb(annexb))


def demuxed(file: bytes) -> list[tuple[int, int, int, bool, bytes]]:
    with av.open(io.BytesIO(file), format="mp4") as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return [(p.pts, p.dts, p.duration, p.is_keyframe, nal.to_sample(nal.split_sample(bytes(p)))) for p in packets]


@pytest.mark.parametrize("index", [0, 1, 45_000])
def test_libavformat_writes_the_same_samples_and_times(index: int) -> None:
    segment = encode_segment(make_chunk(index), SPEC)
    ours, theirs = demuxed(segment.init + segment.data), demuxed(libavformat_segment(index))
    assert ours == theirs
    assert ours[0][0] == STREAM.start_of(index) * 9000
    assert len(segment.data) < len(libavformat_segment(index)) - len(segment.init)


# ---------------------------------------------------------------- damage


def test_cut_off_segments_are_damaged(film: list[Segment]) -> None:
    data = film[1].data
    for length in [*range(300), len(data) // 2, len(data) - 1]:
        with pytest.raises(DamagedMedia):
            read_segment(data[:length])
    with pytest.raises(DamagedMedia):
        read_segment(data + b"\0")


def test_altered_headers_are_damaged_or_say_something_else(film: list[Segment]) -> None:
    """Every byte of the moof: changing it is an error, or changes only a value that any film may have."""
    data = film[1].data
    original = read_segment(data)
    accepted = 0
    for position in range(len(data) - sum(len(sample.data) for sample in original.samples)):
        altered = bytearray(data)
        altered[position] ^= 0x5A
        try:
            fragment = read_segment(bytes(altered))
        except DamagedMedia:
            continue
        accepted += 1
        assert [s.data for s in fragment.samples] == [s.data for s in original.samples]
    assert accepted == 4 + 8 + 4 * len(original.samples)  # sequence, start, durations


def test_damage_is_told_in_words(film: list[Segment]) -> None:
    with pytest.raises(DamagedMedia, match="this is not a segment: expected moof mdat, received 'ftyp moov'"):
        read_segment(film[0].init)
    with pytest.raises(DamagedMedia, match="this is not an init segment: expected ftyp moov, received 'moof mdat'"):
        read_init(film[0].data)
    with pytest.raises(DamagedMedia, match=r"a box does not fit: expected .*, received 'mdat of \d+ bytes'"):
        read_segment(film[0].data[:-1])


def test_altered_init_segments_never_raise_anything_else(film: list[Segment]) -> None:
    for position in range(len(film[0].init)):
        altered = bytearray(film[0].init)
        altered[position] ^= 0x5A
        for data in (bytes(altered), film[0].init[:position]):
            try:
                read_init(data)
            except DamagedMedia:
                continue
