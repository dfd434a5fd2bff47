"""A stored segment as the packets WebRTC sends: taken apart once, shared by every viewer, never encoded again.

A segment is one group of pictures (GOP): a key frame, then frames that need those before them. In the file its units stand
behind their lengths and the parameter sets are in the init segment; on the wire units stand behind start codes and the
parameter sets before the key frame (ISO/IEC 14496-15 section 5, 14496-10 annex B).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from st2v_stream.media.boxes import DamagedMedia, Sample, read_init, read_segment
from st2v_stream.media.nal import split_sample
from st2v_stream.types import Director, SegmentRef

_START_CODE = b"\x00\x00\x00\x01"
_COUNT_MASKS = (0x1F, 0xFF)
"""Bits of the bytes in an avcC that say how many SPS, then how many PPS follow."""


@dataclass(frozen=True, slots=True)
class Gop:
    """One chunk of the film: `frames[t]` is frame `start + t` as an Annex-B access unit; `frames[0]` can be decoded alone."""

    index: int
    start: int
    frames: tuple[bytes, ...] = field(repr=False)

    @property
    def end(self) -> int:
        """The frame after the last."""
        return self.start + len(self.frames)


def read_gop(segment: SegmentRef, init: bytes, data: bytes) -> Gop:
    """The packets of a segment. Raises `DamagedMedia`."""
    parameters = b"".join(_START_CODE + unit for unit in parameter_sets(read_init(init).avcc))
    samples = read_segment(data).samples
    if len(samples) != segment.frames:
        raise DamagedMedia("a segment has another length than its log entry", expected=segment.frames, received=len(samples))
    return Gop(segment.index, segment.start, tuple(_access_unit(sample, parameters) for sample in samples))


def parameter_sets(avcc: bytes) -> tuple[bytes, ...]:
    """SPS and PPS units of a decoder configuration record. Raises `DamagedMedia`."""
    units: list[bytes] = []
    rest = avcc[5:]
    for mask in _COUNT_MASKS:
        count, rest = (rest[0] & mask if rest else 0), rest[1:]
        for _ in range(count):
            size = int.from_bytes(rest[:2], "big")
            units.append(rest[2 : 2 + size])
            rest = rest[2 + size :]
    if len(units) < len(_COUNT_MASKS) or not all(units):
        raise DamagedMedia("damaged decoder configuration", expected="an SPS and a PPS", received=avcc.hex())
    return tuple(units)


def _access_unit(sample: Sample, parameters: bytes) -> bytes:
    units = b"".join(_START_CODE + unit for unit in split_sample(sample.data))
    return parameters + units if sample.is_key else units


class GopShelf:
    """The GOPs used last, so that a thousand viewers of a chunk cost one reading of it."""

    def __init__(self, director: Director, *, max_gops: int = 32) -> None:
        self._director = director
        self._max_gops = max_gops
        self._known: OrderedDict[str, Gop] = OrderedDict()

    async def get(self, segment: SegmentRef) -> Gop:
        """The packets of a segment. Raises `NotFound` when it is gone, `DamagedMedia`."""
        known = self._known.get(segment.hash)
        if known is None:
            init = await self._director.read_blob(segment.init)
            data = await self._director.read_blob(segment.hash)
            known = self._known.setdefault(segment.hash, read_gop(segment, init, data))
        self._known.move_to_end(segment.hash)
        while len(self._known) > self._max_gops:
            self._known.popitem(last=False)
        return known
