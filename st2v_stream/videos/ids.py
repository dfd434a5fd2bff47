"""Names of videos: `video_` and 26 lower-case base32 characters that sort by time."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's: no i, l, o, u; in the order of ASCII, so that text sorts like numbers."""


def new_video_id(now_ns: int | None = None) -> str:
    """64 bits of time in nanoseconds, then 66 random ones."""
    moment = time.time_ns() if now_ns is None else now_ns
    number = moment << 66 | secrets.randbits(66)
    return "video_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
