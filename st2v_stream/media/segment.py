"""An encoded chunk, `Segment`, and the settings it is made with, `EncodeSpec`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from st2v_stream.chunk import StreamSpec
from st2v_stream.errors import InvalidRequest
from st2v_stream.media.boxes import TIMESCALE
from st2v_stream.media.scaling import FACTORS, enlarge_factor
from st2v_stream.types import Rendition

Profile = Literal["baseline", "high"]


@dataclass(frozen=True, slots=True)
class EncodeSpec:
    """How chunks become segments. Equal specs and equal frames give equal bytes.

    enlarge: whole factor applied before encoding. crf: x264's constant quality (lower is better); one value per
    rendition, because it is written into the PPS and so into the init segment. profile: `baseline` (Constrained
    Baseline, what every WebRTC stack decodes) or `high` (7 % fewer bits). preset: x264's speed.
    """

    fps: int
    enlarge: int = 1
    crf: int = 20
    profile: Profile = "baseline"
    preset: str = "veryfast"

    def __post_init__(self) -> None:
        if self.fps < 1:
            raise InvalidRequest("fps is out of range", expected="1 or more", received=self.fps, param="fps")
        if self.enlarge not in FACTORS:
            raise InvalidRequest(
                "enlarge is out of range", expected=f"one of {FACTORS}", received=self.enlarge, param="enlarge"
            )

    @staticmethod
    def for_stream(stream: StreamSpec, rendition: Rendition = "preview") -> EncodeSpec:
        """The settings for a rendition whose frames have `stream`'s size. Raises `InvalidRequest` for odd sizes."""
        factor = enlarge_factor(stream.width, stream.height)
        require_even(stream.width * factor, stream.height * factor)
        if rendition == "preview":
            return EncodeSpec(stream.fps, factor, crf=20, profile="baseline")
        return EncodeSpec(stream.fps, factor, crf=18, profile="high")

    def ticks(self, frame: int) -> int:
        """Time of `frame`, counted from the film's beginning, in 1/90000 s; exact where fps divides 90000, else floored.

        Always computed from the beginning, so segments abut and no error adds up.
        """
        return frame * TIMESCALE // self.fps


@dataclass(frozen=True)
class Segment:
    """One chunk as moof+mdat, and the init segment (ftyp+moov) it needs. Immutable, addressed by `hash`.

    codec: MIME codecs string, e.g. avc1.42C00D. start: its first frame, counted from the film's beginning.
    frames: how many. width, height: of the encoded picture.
    """

    data: bytes = field(repr=False)
    init: bytes = field(repr=False)
    codec: str
    start: int
    frames: int
    width: int
    height: int

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) of `data`."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def init_hash(self) -> str:
        """sha256 (hex) of `init`: another hash is another init segment, whatever the reason."""
        return hashlib.sha256(self.init).hexdigest()


def require_even(width: int, height: int) -> None:
    """Raise `InvalidRequest` unless both sides are even and above 0: 4:2:0 has one chroma sample for 2x2 pixels."""
    if width < 2 or height < 2 or width % 2 or height % 2:
        raise InvalidRequest(
            "pictures of this size cannot be encoded", expected="even width and height", received=f"{width}x{height}"
        )
