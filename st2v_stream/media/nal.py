"""H.264 NAL units: what libx264 writes (Annex B) turned into what MP4 holds (length-prefixed units and an avcC).

Source: ISO/IEC 14496-10 annex B, ISO/IEC 14496-15 section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

SLICE, IDR, SEI, SPS, PPS, DELIMITER = 1, 5, 6, 7, 8, 9

IN_INIT_OR_NEEDLESS = frozenset({SEI, SPS, PPS, DELIMITER})
"""Types kept out of samples: the init segment carries the parameter sets, and a sample border is a delimiter."""

_HAS_CHROMA_FIELDS = frozenset({100, 110, 122, 144})
_CHROMA_420_8_BIT = bytes([0xFD, 0xF8, 0xF8, 0x00])


def nal_type(unit: bytes) -> int:
    """The nal_unit_type of a unit without its start code."""
    return unit[0] & 0x1F


def split_annexb(packet: bytes) -> list[bytes]:
    """The units of an Annex-B packet, start codes removed. No unit ends in a zero byte, so trailing ones are padding."""
    return [unit.rstrip(b"\x00") for unit in packet.split(b"\x00\x00\x01")[1:]]


def to_sample(units: Iterable[bytes]) -> bytes:
    """An MP4 sample: every picture unit behind its length in 4 bytes."""
    kept = (unit for unit in units if nal_type(unit) not in IN_INIT_OR_NEEDLESS)
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in kept)


def split_sample(sample: bytes) -> Iterator[bytes]:
    """The units of an MP4 sample. Raises `ValueError` when the lengths do not add up."""
    position = 0
    while position < len(sample):
        start = position + 4
        position = start + int.from_bytes(sample[position:start], "big")
        if position == start or position > len(sample):
            raise ValueError(f"a unit of {position - start} bytes in {len(sample) - start}")
        yield sample[start:position]


def avcc(sps: bytes, pps: bytes) -> bytes:
    """The decoder configuration record for one SPS and one PPS, 4-byte lengths, 8-bit 4:2:0."""
    record = bytes([1, *sps[1:4], 0xFF, 0xE1]) + len(sps).to_bytes(2, "big") + sps
    record += bytes([1]) + len(pps).to_bytes(2, "big") + pps
    return record + _CHROMA_420_8_BIT if sps[1] in _HAS_CHROMA_FIELDS else record


def codec_string(record: bytes) -> str:
    """The MIME codecs string of an avcC: `avc1.` and profile, constraints, level in hex."""
    return f"avc1.{record[1:4].hex().upper()}"
