"""One message for many viewers: put into words, copied and framed once, then handed to every socket as it is.

What differs from viewer to viewer is in the 20 bytes of the binary header, and for viewers who came the same way those are the
same, too. (Measured: docs/log.md, 23 November 2026.)
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from st2v_stream.delivery.protocol import Json, texts
from st2v_stream.types import LogEntry, Progress

MAX_BYTES = 8 * 2**20
"""Frames kept for the next viewer: some hundred segments of a preview. One that is larger than all of it is not kept."""

MAX_ITEMS = 64
"""Log entries and progress reports whose words are kept."""

_TEXT, _BINARY = 0x81, 0x82
"""First byte of a frame that is a whole message (RFC 6455 section 5.2)."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message as it goes over the wire: one unmasked WebSocket frame."""

    frame: bytes = field(repr=False)

    def message(self) -> dict[str, Any]:
        """The same for `send` of ASGI."""
        payload = self.frame[{126: 4, 127: 10}.get(self.frame[1], 2) :]
        said = {"text": payload.decode()} if self.frame[0] == _TEXT else {"bytes": payload}
        return {"type": "websocket.send", **said}


def text(message: Json) -> Outgoing:
    """A JSON object."""
    return Outgoing(_frame(_TEXT, json.dumps(message, separators=(",", ":")).encode()))


def binary(header: bytes, payload: bytes) -> Outgoing:
    """An init segment or a segment behind its header."""
    return Outgoing(_frame(_BINARY, header, payload))


def _frame(first: int, *pieces: bytes) -> bytes:
    size = sum(map(len, pieces))
    if size < 126:
        length = bytes([size])
    elif size < 2**16:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    return b"".join([bytes([first]), length, *pieces])


class Outbox:
    """What was sent last, for the next who needs the same. Used on the event loop only."""

    def __init__(self, *, max_bytes: int = MAX_BYTES, max_items: int = MAX_ITEMS) -> None:
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._texts: OrderedDict[int, tuple[LogEntry | Progress, tuple[Outgoing, ...]]] = OrderedDict()
        self._frames: OrderedDict[tuple[bytes, str], Outgoing] = OrderedDict()
        self.size_bytes = 0

    def texts(self, item: LogEntry | Progress) -> tuple[Outgoing, ...]:
        """The text messages that an item of the log becomes. All followers of a film are given the same object."""
        known = self._texts.get(id(item))
        if known is None:  # (an item that is kept keeps its id to itself)
            known = self._texts[id(item)] = item, tuple(text(message) for message in texts(item))
            if len(self._texts) > self._max_items:
                self._texts.popitem(last=False)
        return known[1]

    async def binary(self, header: bytes, sha256: str, read: Callable[[str], Awaitable[bytes]]) -> Outgoing:
        """A blob behind a header. Raises whatever `read` raises."""
        known = self._frames.get((header, sha256))
        if known is None:
            payload = await read(sha256)
            known = self._frames.get((header, sha256))  # somebody else may have been faster
        if known is None:
            known = self._keep((header, sha256), binary(header, payload))
        self._frames.move_to_end((header, sha256))
        while self.size_bytes > self._max_bytes:
            _, oldest = self._frames.popitem(last=False)
            self.size_bytes -= len(oldest.frame)
        return known

    def _keep(self, key: tuple[bytes, str], made: Outgoing) -> Outgoing:
        self._frames[key] = made
        self.size_bytes += len(made.frame)
        return made
