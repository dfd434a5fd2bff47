"""Reading a viewer's SDP offer before anything acts on it: what it can decode, and which of its addresses we believe.

Pure text in, pure text out; aiortc sees only what is left. Two things are taken out of every offer:

- candidates that would make this server send packets into a network of somebody's choosing (private, loopback, link-local,
  multicast ranges, names, TCP). Nothing is lost by it: the viewer checks *our* addresses, and aioice answers to where a check
  with the right password came from (a peer-reflexive candidate, RFC 8445 section 7.3.1.3).
- "end of candidates": with no candidate left it would make aioice give up before the viewer's first check arrives.

Source: RFC 8866 (SDP), RFC 8839 (candidates), RFC 6184 section 8.1 (H.264 parameters), draft-ietf-wish-whep-03.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from st2v_stream.errors import InvalidRequest
from st2v_stream.media.segment import Profile

Network: TypeAlias = IPv4Network | IPv6Network
Section: TypeAlias = list[str]

MAX_OFFER_BYTES = 32 * 1024
"""Four times what Chromium sends for picture and sound."""

MAX_SECTIONS = 4
MAX_CANDIDATES = 16
"""Per section; each one believed is sent up to seven checks."""

_TRANSLATED = tuple(ip_network(text) for text in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
"""IPv6 ranges that carry an IPv4 address, which may be a private one: IPv4-compatible, NAT64, 6to4, Teredo."""

_PROFILES: dict[str, Profile] = {"42": "baseline", "64": "high"}
_NEEDED = ("ice-ufrag", "ice-pwd", "fingerprint")


class TooLarge(InvalidRequest):
    """The offer is longer than any that a viewer needs."""

    status = 413
    code = "offer_too_large"


@dataclass(frozen=True, slots=True)
class Offer:
    """A viewer's offer without what is not believed. h264: profiles it decodes. codecs: all it named, for messages."""

    sdp: str = field(repr=False)
    h264: frozenset[Profile]
    codecs: tuple[str, ...]
    refused_candidates: int = 0


def read_offer(body: bytes, believed: Sequence[Network] = ()) -> Offer:
    """Check an offer. believed: networks whose addresses are accepted besides public ones. Raises `InvalidRequest`."""
    session, sections = _split(_decode(body))
    video = _require_watchable(session, sections)
    kept = [[line for line in section if _is_kept(line, believed)] for section in sections]
    refused = sum(_is_candidate(line) for section in sections for line in section)
    refused -= sum(_is_candidate(line) for section in kept for line in section)
    session = [line for line in session if not line.startswith("a=end-of-candidates")]
    lines = [*session, *(line for section in kept for line in section)]
    return Offer("\r\n".join(lines) + "\r\n", frozenset(_h264_profiles(video)), tuple(_codecs(video)), refused)


def first_video_codec(sdp: str) -> str:
    """Name of the codec that the video section puts first, in capitals; empty when there is none."""
    _, sections = _split(sdp)
    video = [section for section in sections if section[0].startswith("m=video ")]
    return next(_codecs(video[0]), "") if video else ""


def is_believed(host: str, believed: Sequence[Network] = ()) -> bool:
    """Whether a viewer's word is enough to send packets to `host`: a public address, or one in a configured network."""
    try:
        address: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:  # a name: resolving it for a stranger is a request made for a stranger
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in network for network in believed):
        return True
    return address.is_global and not address.is_multicast and not any(address in network for network in _TRANSLATED)


# ---------------------------------------------------------------- the text


def _decode(body: bytes) -> str:
    if len(body) > MAX_OFFER_BYTES:
        raise TooLarge("the offer is too large", expected=f"at most {MAX_OFFER_BYTES} bytes", received=f"{len(body)} bytes")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise _unusable("UTF-8 text", "other bytes") from None
    if not text.startswith("v=0"):
        raise _unusable("an SDP offer, which begins with v=0", text[:20] or "nothing")
    return text


def _split(text: str) -> tuple[Section, list[Section]]:
    """The session's lines, and those of every media section.

    Lines end where aiortc sees them end (a lone CR, U+2028 and more): what is one line here must not be two of them there.
    """
    session: Section = []
    sections: list[Section] = []
    for line in text.strip().splitlines():
        if line.startswith("m="):
            sections.append([])
        (sections[-1] if sections else session).append(line)
    return session, sections


def _require_watchable(session: Section, sections: list[Section]) -> Section:
    """The one video section, in an offer that only wants to receive. Raises `InvalidRequest`."""
    kinds = [section[0][2:].partition(" ")[0] for section in sections]
    if kinds.count("video") != 1 or not set(kinds) <= {"video", "audio"} or len(kinds) > MAX_SECTIONS:
        raise _unusable("one video section, and audio at most", ", ".join(kinds[:8]) or "no section")
    for section in sections:
        if any(line.strip() == "a=sendonly" for line in section):
            raise _unusable("a=recvonly", "a=sendonly")
        if sum(map(_is_candidate, section)) > MAX_CANDIDATES:
            raise _unusable(f"at most {MAX_CANDIDATES} candidates", sum(map(_is_candidate, section)))
    video = sections[kinds.index("video")]
    for name in _NEEDED:
        if not any(line.startswith(f"a={name}:") for line in [*session, *video]):
            raise _unusable(f"a line a={name}", "none")
    return video


def _unusable(expected: str, received: object) -> InvalidRequest:
    return InvalidRequest("this offer is not usable", expected=expected, received=received)


# ---------------------------------------------------------------- candidates


def _is_candidate(line: str) -> bool:
    return line.startswith("a=candidate:")


def _is_kept(line: str, believed: Sequence[Network]) -> bool:
    if line.startswith("a=end-of-candidates"):
        return False
    if not _is_candidate(line):
        return True
    fields = line.removeprefix("a=candidate:").split()  # foundation, component, transport, priority, address, port, typ, type
    return len(fields) >= 8 and fields[2].lower() == "udp" and is_believed(fields[4], believed)


# ---------------------------------------------------------------- codecs


def _codecs(section: Section) -> Iterator[str]:
    """Names of the section's codecs in its order of preference, in capitals."""
    names = dict(_attributes(section, "rtpmap"))
    for payload_type in section[0].split()[3:]:
        if payload_type in names:
            yield names[payload_type].partition("/")[0].upper()


def _h264_profiles(section: Section) -> Iterator[Profile]:
    """Profiles of H.264 that may come cut into pieces (packetization-mode 1), which a key frame has to."""
    formats = dict(_attributes(section, "fmtp"))
    for payload_type, name in _attributes(section, "rtpmap"):
        if name.upper() == "H264/90000":
            said = dict(_parameters(formats.get(payload_type, "")))
            profile = _PROFILES.get(said.get("profile-level-id", "42e01f")[:2].lower())
            if profile is not None and said.get("packetization-mode") == "1":
                yield profile


def _attributes(section: Iterable[str], name: str) -> Iterator[tuple[str, str]]:
    """(payload type, value) of every `a=<name>:<payload type> <value>`."""
    prefix = f"a={name}:"
    for line in section:
        if line.startswith(prefix):
            payload_type, _, value = line.removeprefix(prefix).partition(" ")
            yield payload_type, value.strip()


def _parameters(text: str) -> Iterator[tuple[str, str]]:
    for parameter in text.split(";"):
        name, _, value = parameter.strip().partition("=")
        yield name.lower(), value
