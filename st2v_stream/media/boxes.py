"""Fragmented MP4, written and read by hand: an init segment (ftyp+moov) and segments (moof+mdat) for one H.264 track.

`write_init`/`read_init` and `write_segment`/`read_segment` are inverses. Reading a segment is strict: it accepts only the
layout the writer writes and raises `DamagedMedia` for everything else, so it doubles as a check of what was stored or sent
(every size, offset and NAL length; flipped picture bits are the hash's business).

Why by hand: libavformat hands a fragment out one chunk late and cannot be told otherwise through PyAV; own boxes are also
smaller and the same bytes under every FFmpeg version. Source: ISO/IEC 14496-12 (boxes), 14496-15 (avc1, avcC).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from st2v_stream.errors import St2vError
from st2v_stream.media import nal

TIMESCALE = 90_000
"""Ticks per second: divides 8, 9, 10, 12, 15, 16, 24, 25 and 30 fps exactly, and is the RTP clock of video."""

_TRACK_ID = 1
_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_BT709_LIMITED = b"nclx" + struct.pack(">HHHB", 1, 1, 1, 0)
_UNDETERMINED_LANGUAGE = 0x55C4
_KEY, _NOT_KEY = 0x02000000, 0x01010000
_BASE_IS_MOOF = 0x020000
_TRUN_FIELDS = 0x000701  # data offset; per sample: duration, size, flags
_TFDT_64_BIT = 0x01000000


class DamagedMedia(St2vError):
    """Stored or received media bytes are not what our writer writes: cut off, altered, or another file."""

    code = "damaged_media"


@dataclass(frozen=True, slots=True)
class Track:
    """What a decoder must know before the first segment: picture size and decoder configuration (an avcC payload)."""

    width: int
    height: int
    avcc: bytes = field(repr=False)

    @property
    def codec(self) -> str:
        """MIME codecs string."""
        return nal.codec_string(self.avcc)


@dataclass(frozen=True, slots=True)
class Sample:
    """One encoded frame: length-prefixed NAL units, how long it is shown (ticks), whether decoding can begin here."""

    data: bytes = field(repr=False)
    duration: int
    is_key: bool


@dataclass(frozen=True, slots=True)
class Fragment:
    """A segment taken apart. sequence: number in the moof, from 1. start: time of the first sample (ticks)."""

    sequence: int
    start: int
    samples: tuple[Sample, ...]

    @property
    def end(self) -> int:
        """Time after the last sample (ticks)."""
        return self.start + sum(sample.duration for sample in self.samples)


# ---------------------------------------------------------------- writing


def write_init(track: Track) -> bytes:
    """ftyp+moov without samples and without a duration: the film grows."""
    empty_tables = b"".join(full_box(kind, 0, 0, bytes(4)) for kind in ("stts", "stsc")) + full_box("stsz", 0, 0, bytes(8))
    empty_tables += full_box("stco", 0, 0, bytes(4))
    trex = full_box("trex", 0, 0, struct.pack(">5I", _TRACK_ID, 1, 0, 0, 0))
    brands = box("ftyp", b"iso6", bytes(4), b"iso6cmfcmp41")
    return brands + movie(track, duration=0, tables=empty_tables, extra=box("mvex", trex))


def write_segment(fragment: Fragment) -> bytes:
    """moof+mdat; times are absolute (64-bit tfdt), offsets count from the moof."""
    moof_bytes = len(_moof(fragment, data_offset=0))
    payload = b"".join(sample.data for sample in fragment.samples)
    return _moof(fragment, data_offset=moof_bytes + 8) + box("mdat", payload)


def movie(track: Track, *, duration: int, tables: bytes, extra: bytes = b"") -> bytes:
    """A moov with one video track. duration in ticks (0 = unknown), tables: stts, stsc, ..., extra: boxes after the trak."""
    rate_volume_matrix = struct.pack(">IH10x", 0x10000, 0x100) + _MATRIX
    mvhd = full_box("mvhd", 1, 0, struct.pack(">QQIQ", 0, 0, TIMESCALE, duration), rate_volume_matrix, bytes(24), b"\0\0\0\2")
    return box("moov", mvhd, _trak(track, duration, tables), extra)


def box(kind: str, *payload: bytes) -> bytes:
    """A box: its size, its four-letter name, its payload."""
    body = b"".join(payload)
    return struct.pack(">I", 8 + len(body)) + kind.encode("latin-1") + body


def full_box(kind: str, version: int, flags: int, *payload: bytes) -> bytes:
    """A box whose payload begins with a version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *payload)


def _trak(track: Track, duration: int, tables: bytes) -> bytes:
    size = struct.pack(">II", track.width << 16, track.height << 16)
    tkhd = full_box("tkhd", 1, 3, struct.pack(">QQI4xQ8x8x", 0, 0, _TRACK_ID, duration), _MATRIX, size)
    mdhd = full_box("mdhd", 1, 0, struct.pack(">QQIQHH", 0, 0, TIMESCALE, duration, _UNDETERMINED_LANGUAGE, 0))
    hdlr = full_box("hdlr", 0, 0, bytes(4), b"vide", bytes(12), b"video\0")
    dref = full_box("dref", 0, 0, struct.pack(">I", 1), full_box("url ", 0, 1))
    minf = box("minf", full_box("vmhd", 0, 1, bytes(8)), box("dinf", dref), box("stbl", _stsd(track), tables))
    return box("trak", tkhd, box("mdia", mdhd, hdlr, minf))


def _stsd(track: Track) -> bytes:
    picture = struct.pack(">6xH16xHHII4xH32xHh", 1, track.width, track.height, 72 << 16, 72 << 16, 1, 24, -1)
    square_pixels = box("pasp", struct.pack(">II", 1, 1))
    avc1 = box("avc1", picture, box("avcC", track.avcc), box("colr", _BT709_LIMITED), square_pixels)
    return full_box("stsd", 0, 0, struct.pack(">I", 1), avc1)


def _moof(fragment: Fragment, data_offset: int) -> bytes:
    rows = b"".join(_trun_row(sample) for sample in fragment.samples)
    trun = full_box("trun", 0, _TRUN_FIELDS, struct.pack(">Ii", len(fragment.samples), data_offset), rows)
    tfhd = full_box("tfhd", 0, _BASE_IS_MOOF, struct.pack(">I", _TRACK_ID))
    tfdt = full_box("tfdt", 1, 0, struct.pack(">Q", fragment.start))
    mfhd = full_box("mfhd", 0, 0, struct.pack(">I", fragment.sequence))
    return box("moof", mfhd, box("traf", tfhd, tfdt, trun))


def _trun_row(sample: Sample) -> bytes:
    return struct.pack(">III", sample.duration, len(sample.data), _KEY if sample.is_key else _NOT_KEY)


# ---------------------------------------------------------------- reading


def read_init(data: bytes) -> Track:
    """The track of an init segment. Raises `DamagedMedia`."""
    top = _named_boxes(data, "an init segment", "ftyp", "moov")
    mdia = _descend(top["moov"], "trak", "mdia")
    stsd = _descend(mdia, "minf", "stbl", "stsd")
    (timescale,) = _unpack_from(">I", _descend(mdia, "mdhd"), 20, "mdhd")
    _require(timescale == TIMESCALE, "wrong timescale in the init segment", TIMESCALE, timescale)
    avc1 = _descend(stsd[8:], "avc1")
    width, height = _unpack_from(">HH", avc1, 24, "avc1")
    avcc = _descend(avc1[78:], "avcC")
    _require(len(avcc) > 7 and avcc[0] == 1, "damaged decoder configuration", "an avcC of version 1", avcc[:8].hex())
    return Track(width, height, avcc)


def read_segment(data: bytes) -> Fragment:
    """The samples of a segment, every size and offset checked. Raises `DamagedMedia`."""
    top = _named_boxes(data, "a segment", "moof", "mdat")
    moof = _named_boxes(top["moof"], "a moof", "mfhd", "traf")
    traf = _named_boxes(moof["traf"], "a traf", "tfhd", "tfdt", "trun")
    mfhd_kind, sequence = _unpack(">II", moof["mfhd"], "mfhd")
    _require(mfhd_kind == 0, "unknown mfhd", "version 0", hex(mfhd_kind))
    tfhd = _unpack(">II", traf["tfhd"], "tfhd")
    _require(tfhd == (_BASE_IS_MOOF, _TRACK_ID), "unknown tfhd", (_BASE_IS_MOOF, _TRACK_ID), tfhd)
    tfdt_kind, start = _unpack(">IQ", traf["tfdt"], "tfdt")
    _require(tfdt_kind == _TFDT_64_BIT, "unknown tfdt", "version 1 (64 bit)", hex(tfdt_kind))
    rows = _read_trun(traf["trun"], data_offset=len(top["moof"]) + 16)
    fragment = Fragment(sequence, start, _cut_samples(top["mdat"], rows))
    _require(fragment.samples[0].is_key, "a segment must begin with a key frame", "is_key", fragment.samples[0])
    return fragment


def _read_trun(trun: bytes, data_offset: int) -> list[tuple[int, int, int]]:
    """(duration, size, flags) of every sample."""
    fields, count, offset = _unpack_from(">IIi", trun, 0, "trun")
    _require(fields == _TRUN_FIELDS, "unknown trun", hex(_TRUN_FIELDS), hex(fields))
    _require(offset == data_offset, "wrong data offset in trun", data_offset, offset)
    _require(count > 0 and len(trun) == 12 + 12 * count, "wrong size of trun", f"12 + 12 * {count} bytes", len(trun))
    return list(struct.iter_unpack(">III", trun[12:]))


def _cut_samples(payload: bytes, rows: list[tuple[int, int, int]]) -> tuple[Sample, ...]:
    total = sum(size for _, size, _ in rows)
    _require(total == len(payload), "wrong size of mdat", f"{total} bytes", f"{len(payload)} bytes")
    samples, position = [], 0
    for duration, size, flags in rows:
        _require(flags in (_KEY, _NOT_KEY), "unknown sample flags in trun", f"{_KEY:#x} or {_NOT_KEY:#x}", hex(flags))
        sample = Sample(payload[position : position + size], duration, flags == _KEY)
        _check_units(sample)
        samples.append(sample)
        position += size
    return tuple(samples)


def _check_units(sample: Sample) -> None:
    try:
        kinds = {nal.nal_type(unit) for unit in nal.split_sample(sample.data)}
    except ValueError as error:
        raise DamagedMedia("damaged sample", expected="NAL units that fill it", received=str(error)) from error
    expected = nal.IDR if sample.is_key else nal.SLICE
    _require(kinds == {expected}, "damaged sample", f"NAL units of type {expected}", f"types {sorted(kinds)}")


def _named_boxes(data: bytes, what: str, *expected: str) -> Mapping[str, bytes]:
    """The payloads of exactly these boxes in this order."""
    boxes = split_boxes(data)
    kinds = tuple(kind for kind, _ in boxes)
    _require(kinds == expected, f"this is not {what}", " ".join(expected), " ".join(kinds))
    return dict(boxes)


def _descend(data: bytes, *path: str) -> bytes:
    """The payload of the first box on the way down `path`."""
    for kind in path:
        boxes = split_boxes(data)
        found = [payload for name, payload in boxes if name == kind]
        _require(bool(found), "a box is missing", kind, " ".join(name for name, _ in boxes))
        data = found[0]
    return data


def split_boxes(data: bytes) -> list[tuple[str, bytes]]:
    """(kind, payload) of the boxes that fill `data`; 32-bit sizes only. Raises `DamagedMedia`."""
    boxes, position = [], 0
    while position < len(data):
        size, kind = _unpack_from(">I4s", data, position, "box header")
        whole = 8 <= size <= len(data) - position
        _require(whole, "a box does not fit", f"8 to {len(data) - position} bytes", f"{kind.decode('latin-1')} of {size} bytes")
        boxes.append((kind.decode("latin-1"), data[position + 8 : position + size]))
        position += size
    return boxes


def _unpack(layout: str, payload: bytes, kind: str) -> tuple[Any, ...]:
    size = struct.calcsize(layout)
    _require(len(payload) == size, f"wrong size of {kind}", f"{size} bytes", f"{len(payload)} bytes")
    return struct.unpack(layout, payload)


def _unpack_from(layout: str, payload: bytes, offset: int, kind: str) -> tuple[Any, ...]:
    size = struct.calcsize(layout)
    _require(len(payload) >= offset + size, f"cut off in {kind}", f"{offset + size} bytes", f"{len(payload)} bytes")
    return struct.unpack_from(layout, payload, offset)


def _require(holds: bool, message: str, expected: object, received: object) -> None:
    if not holds:
        raise DamagedMedia(message, expected=expected, received=received)
