"""The WebSocket protocol `st2v.v1`, decided without I/O (docs/protocol.md says it for people).

A `Conversation` is one socket's state machine: which messages are legal next, which init segments the viewer already has,
how many segments are on their way. `websocket.py` does the reading and sending.

    connected --hello--> watching --(ack | want | live)*--> closed
"""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from st2v_stream.delivery.resource import cue_note_json, has_ended, progress_json, video_json
from st2v_stream.errors import InvalidRequest
from st2v_stream.types import LogEntry, Progress, Rendition, SegmentRef, Snapshot, VideoView

SUBPROTOCOL = "st2v.v1"
VERSION = 1
HEADER = struct.Struct(">BBBBIIII")
"""20 bytes, big-endian: version, kind, rendition, flags, index, revision, init id, seq."""

MAX_IN_FLIGHT = 8
MAX_CURSOR = 2**32 - 1
RENDITIONS: tuple[Rendition, ...] = get_args(Rendition)

Json: TypeAlias = dict[str, Any]
Phase = Literal["connected", "watching", "closed"]


class Kind(IntEnum):
    """What follows the binary header."""

    INIT = 1
    SEGMENT = 2


class CloseCode(IntEnum):
    """Why a socket is closed. The viewer reconnects after 1001, 1006, 1011, 1012 and 1013, never after 4xxx."""

    DONE = 1000
    FAILED = 1011
    RESTARTING = 1012
    TRY_LATER = 1013
    DELETED = 4001
    NOT_ALLOWED = 4003
    UNKNOWN_VIDEO = 4004
    WRONG_PROTOCOL = 4009
    BAD_MESSAGE = 4400


class BadMessage(InvalidRequest):
    """The viewer sent something the protocol does not allow now."""

    code = "bad_message"


@dataclass(frozen=True, slots=True)
class Hello:
    """First message: where to go on (0 = from a snapshot), which renditions are wanted, whether to stay at the live edge."""

    cursor: int
    renditions: frozenset[Rendition]
    live: bool = False


@dataclass(frozen=True, slots=True)
class Ack:
    """Everything up to and including `seq` has arrived."""

    seq: int


@dataclass(frozen=True, slots=True)
class Want:
    """The viewer asks for chunks from `from_index` up to, but not including, `to_index`."""

    from_index: int
    to_index: int


@dataclass(frozen=True, slots=True)
class Live:
    """From now on the viewer is at the live edge and may be skipped ahead (True), or looks at the past (False)."""

    live: bool


Incoming: TypeAlias = Hello | Ack | Want | Live


@dataclass(frozen=True, slots=True)
class BinaryHeader:
    """The 20 bytes before an init segment or a segment."""

    kind: Kind
    rendition: Rendition
    index: int
    revision: int
    init_id: int
    seq: int
    flags: int = 0

    def pack(self) -> bytes:
        """As sent."""
        place = RENDITIONS.index(self.rendition)
        return HEADER.pack(VERSION, self.kind, place, self.flags, self.index, self.revision, self.init_id, self.seq)

    @staticmethod
    def unpack(message: bytes) -> tuple[BinaryHeader, bytes]:
        """Header and payload of a binary message. Raises `BadMessage`."""
        if len(message) < HEADER.size or message[0] != VERSION:
            raise BadMessage("not a binary message of this protocol", expected=f"version {VERSION}", received=message[:1].hex())
        _, kind, place, flags, index, revision, init_id, seq = HEADER.unpack_from(message)
        if kind not in tuple(Kind) or place >= len(RENDITIONS):
            expected = f"kind 1 or 2, rendition 0 to {len(RENDITIONS) - 1}"
            raise BadMessage("not a binary message of this protocol", expected=expected, received=f"{kind}, {place}")
        return BinaryHeader(Kind(kind), RENDITIONS[place], index, revision, init_id, seq, flags), message[HEADER.size :]


class Conversation:
    """One viewer's side of the protocol. Pure: takes messages and log entries, gives messages to send."""

    LEGAL: ClassVar[Mapping[Phase, tuple[str, ...]]] = {
        "connected": ("hello",),
        "watching": ("ack", "want", "live"),
        "closed": (),
    }

    def __init__(self, *, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self.phase: Phase = "connected"
        self.renditions: frozenset[Rendition] = frozenset(RENDITIONS)
        self.live = False
        self._max_in_flight = max_in_flight
        self._in_flight: deque[int] = deque()
        self._newest_seq = 0
        self._init_ids: dict[str, int] = {}
        self._inits_sent: set[str] = set()

    # ------------------------------------------------------------ from the viewer

    def receive(self, text: str | None) -> Incoming:
        """What a message says (None = it was binary). Raises `BadMessage` with what was expected and what came."""
        message = _parse_object(text)
        legal = self.LEGAL[self.phase]
        if message.get("type") not in legal:
            raise BadMessage(
                "this message is not legal now", expected=" or ".join(legal), received=message.get("type"), param="type"
            )
        incoming = _READERS[message["type"]](message)
        if isinstance(incoming, Hello):
            self.phase = "watching"
            self.renditions, self.live = incoming.renditions, incoming.live
        elif isinstance(incoming, Live):
            self.live = incoming.live
        elif isinstance(incoming, Ack):
            self._acknowledge(incoming.seq)
        return incoming

    @property
    def has_room(self) -> bool:
        """Whether one more segment may be sent now."""
        return len(self._in_flight) < self._max_in_flight

    def _acknowledge(self, seq: int) -> None:
        if seq > self._newest_seq:
            raise BadMessage(
                "acknowledged what was never sent", expected=f"at most {self._newest_seq}", received=seq, param="seq"
            )
        while self._in_flight and self._in_flight[0] <= seq:
            self._in_flight.popleft()

    # ------------------------------------------------------------ to the viewer

    def welcome(self, view: VideoView, cursor: int, entries: Iterable[LogEntry] = ()) -> Json:
        """The answer to hello: the video as it is, and the init segments that the entries at hand will need."""
        self._newest_seq = max(self._newest_seq, cursor)
        segments = [entry.segment for entry in entries if self.wants(entry) and entry.segment is not None]
        inits = {segment.init: self._init_json(segment) for segment in segments}
        return {
            "type": "welcome",
            "protocol": SUBPROTOCOL,
            "cursor": cursor,
            "video": video_json(view),
            "init": list(inits.values()),
        }

    def wants(self, entry: LogEntry) -> bool:
        """False for a segment of a rendition the viewer did not ask for."""
        return entry.segment is None or entry.segment.rendition in self.renditions

    def new_init(self, segment: SegmentRef) -> Json | None:
        """The announcement of the segment's init segment, None when this socket has it already."""
        if segment.init in self._inits_sent:
            return None
        self._inits_sent.add(segment.init)
        described = self._init_json(segment)
        del described["hash"]
        return {"type": "init", **described}

    def init_header(self, segment: SegmentRef) -> bytes:
        """What comes before the init segment in its binary message."""
        header = BinaryHeader(Kind.INIT, segment.rendition, segment.index, segment.revision, self._init_id(segment), 0)
        return header.pack()

    def segment_header(self, seq: int, segment: SegmentRef) -> bytes:
        """What comes before the segment in its binary message; it counts as in flight until acknowledged."""
        self._in_flight.append(seq)
        self._newest_seq = max(self._newest_seq, seq)
        header = BinaryHeader(Kind.SEGMENT, segment.rendition, segment.index, segment.revision, self._init_id(segment), seq)
        return header.pack()

    def note(self, item: LogEntry | Progress) -> None:
        """The `texts` of this item are being sent."""
        if isinstance(item, LogEntry):
            self._newest_seq = max(self._newest_seq, item.seq)

    def texts(self, item: LogEntry | Progress) -> list[Json]:
        """The text messages that a log entry (other than a segment) or a progress report becomes."""
        self.note(item)
        return texts(item)

    def skipped(self, seq: int, indexes: range) -> Json:
        """Segments of these chunks were left out for a viewer that wants the live edge; `seq`: of the last of them."""
        self._newest_seq = max(self._newest_seq, seq)
        return {"type": "skipped", "seq": seq, "from_index": indexes.start, "to_index": indexes.stop}

    def _init_json(self, segment: SegmentRef) -> Json:
        return {
            "id": self._init_id(segment),
            "hash": segment.init,
            "codec": segment.codec,
            "rendition": segment.rendition,
            "width": segment.width,
            "height": segment.height,
        }

    def _init_id(self, segment: SegmentRef) -> int:
        return self._init_ids.setdefault(segment.init, len(self._init_ids) + 1)


def texts(item: LogEntry | Progress) -> list[Json]:
    """The text messages that a log entry (other than a segment) or a progress report becomes, for every viewer the same."""
    if isinstance(item, Progress):
        return [{"type": "progress", **progress_json(item)}]
    if item.kind == "state" and item.view is not None:
        state: Json = {"type": "state", "seq": item.seq, "video": video_json(item.view)}
        return [state, ended_message(item.seq, item.view)] if has_ended(item) else [state]
    if item.kind == "reset":
        return [{"type": "reset", "seq": item.seq, "from_index": item.index}]
    if item.kind == "cue":
        return [{"type": "cue", **cue_note_json(item)}]
    return []


def ended_message(seq: int, view: VideoView) -> Json:
    """The film has ended; it may go on later, the socket stays open."""
    return {"type": "ended", "seq": seq, "ended_by": view.ended_by}


def error_message(code: str, message: str) -> Json:
    """An error in words; whether the socket stays open depends on the error."""
    return {"type": "error", "code": code, "message": message}


WANT_ANSWER = error_message(
    "use_http", "chunks are not sent again over this socket: use segment URLs over HTTP (GET .../chunks)"
)


def covers(renditions: frozenset[Rendition], snapshot: Snapshot) -> bool:
    """Whether a snapshot (best rendition per chunk) shows this viewer every chunk; else the log must be read from its start."""
    return all(entry.segment is None or entry.segment.rendition in renditions for entry in snapshot.entries)


# ---------------------------------------------------------------- reading messages


def _parse_object(text: str | None) -> Json:
    if text is None:
        raise BadMessage("viewers send text only", expected="a JSON object as text", received="a binary message")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise BadMessage("not valid JSON", expected="a JSON object", received=text) from None
    if not isinstance(message, dict):
        raise BadMessage("not a JSON object", expected="a JSON object", received=text)
    return message


def _whole(message: Json, name: str, default: int | None = None) -> int:
    value = message.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_CURSOR:
        raise BadMessage(f"{name} is not usable", expected=f"a whole number from 0 to {MAX_CURSOR}", received=value, param=name)
    return value


def _yes_or_no(message: Json, name: str, *, default: bool | None = None) -> bool:
    value = message.get(name, default)
    if not isinstance(value, bool):
        raise BadMessage(f"{name} is not usable", expected="true or false", received=value, param=name)
    return value


def _read_hello(message: Json) -> Hello:
    renditions = message.get("renditions", list(RENDITIONS))
    if not isinstance(renditions, list) or not renditions or any(name not in RENDITIONS for name in renditions):
        expected = "a list with " + " and/or ".join(RENDITIONS)
        raise BadMessage("renditions are not usable", expected=expected, received=renditions, param="renditions")
    return Hello(_whole(message, "cursor", 0), frozenset(renditions), _yes_or_no(message, "live", default=False))


def _read_ack(message: Json) -> Ack:
    return Ack(_whole(message, "seq"))


def _read_want(message: Json) -> Want:
    return Want(_whole(message, "from_index"), _whole(message, "to_index"))


def _read_live(message: Json) -> Live:
    return Live(_yes_or_no(message, "live"))


_READERS: Mapping[str, Callable[[Json], Incoming]] = {
    "hello": _read_hello,
    "ack": _read_ack,
    "want": _read_want,
    "live": _read_live,
}
