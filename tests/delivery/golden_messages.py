"""Messages of `st2v.v1` written down once, read by the Python and the JavaScript tests (`golden_messages.json`).

After a change of the protocol: `.venv/bin/python -m delivery.golden_messages` in tests/ writes the file anew; look at what
changed, then make docs/protocol.md, docs/asyncapi.yaml and web/protocol.js say the same.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from server.standin import Standin

from st2v_stream.delivery.protocol import (
    WANT_ANSWER,
    BadMessage,
    BinaryHeader,
    Conversation,
    Incoming,
    Kind,
    error_message,
)
from st2v_stream.types import LogEntry, Progress

FILE = Path(__file__).with_name("golden_messages.json")

FIRST = (
    '{"type":"hello","cursor":0,"renditions":["preview","enhanced"],"live":false}',
    '{"type":"hello","cursor":7,"renditions":["preview","enhanced"],"live":true}',
    '{"type":"hello"}',
    '{"type":"hello","cursor":4294967295,"renditions":["enhanced"],"live":true}',
    '{"type":"hello","cursor":-1}',
    '{"type":"hello","renditions":["sharp"]}',
    '{"type":"hello","renditions":[]}',
    '{"type":"hello","live":1}',
    '{"type":"ack","seq":0}',
    '{"type":"goodbye"}',
    "[]",
    "hello",
)
"""What a viewer says first."""
LATER = (
    '{"type":"ack","seq":9}',
    '{"type":"ack","seq":0,"further":"fields are passed over"}',
    '{"type":"want","from_index":0,"to_index":4}',
    '{"type":"live","live":true}',
    '{"type":"live","live":false}',
    '{"type":"ack","seq":10}',
    '{"type":"ack","seq":"9"}',
    '{"type":"ack","seq":true}',
    '{"type":"ack"}',
    '{"type":"want","from_index":0}',
    '{"type":"want","from_index":0.5,"to_index":4}',
    '{"type":"live"}',
    '{"type":"hello","cursor":0}',
    '{"type":["ack"]}',
    "null",
)
"""What it says after that, when log entry 9 was the last it was sent."""
NOT_FROM_A_SERVER = ("{}", '{"type":7}', '{"seq":3}', "[]", "null", "7", '"state"', "{", "")
BINARY = (
    "01020000000000020000000000000001000000056d6f6f66",
    "0102010001020304000000050000000600fffffe",
    "01010000000000000000000000000001000000006674797000",
    "01020100ffffffffffffffffffffffffffffffff",
    "",
    "01020000000000020000000000000001000000",
    "0202000000000002000000000000000100000005",
    "0100000000000002000000000000000100000005",
    "0103000000000002000000000000000100000005",
    "0102020000000002000000000000000100000005",
)
"""Hexadecimal. The 20 bytes of the header, and some after it."""


def record() -> dict[str, list[Any]]:
    """What the code says today, as plain JSON."""
    return {
        "to_server": [_heard("connected", text) for text in FIRST] + [_heard("watching", text) for text in LATER],
        "from_server": [json.dumps(message, separators=(",", ":")) for message in said()],
        "not_from_a_server": list(NOT_FROM_A_SERVER),
        "binary": [_unpacked(text) for text in BINARY],
    }


def conversation(phase: str) -> Conversation:
    """One in that phase; while watching, log entry 9 was sent."""
    spoken = Conversation()
    if phase == "watching":
        spoken.receive('{"type":"hello"}')
        spoken.texts(LogEntry(9, "reset", 0))
    return spoken


def said() -> list[dict[str, Any]]:
    """At least one message of every type, as a server says them."""
    director, spoken = Standin(), conversation("watching")
    video = director.add()
    segment = director.segment(video, 0)
    sharp = director.segment(video, 0, rendition="enhanced")
    assert segment.segment is not None
    assert sharp.segment is not None
    view = director.shelves[video].view
    failed = director.state(video, state="failed", ended_by="error", error="the model gave up")
    messages = [spoken.welcome(view, view.seq, [segment, sharp]), spoken.welcome(view, view.seq)]
    messages += [spoken.new_init(segment.segment), spoken.new_init(sharp.segment)]
    for item in (
        director.state(video, state="running", ended_by=None, error=None),
        Progress(0, 0, 6),
        Progress(3, 2, 6, 9.5),
        LogEntry(14, "reset", 4),
        LogEntry(15, "cue", 5),
        failed,
    ):
        messages += spoken.texts(item)
    refused = error_message("bad_message", 'renditions are not usable: expected a list, received "größer"')
    messages += [spoken.skipped(31, range(14, 28)), WANT_ANSWER, refused]
    return [message for message in messages if message is not None]


def as_json(incoming: Incoming) -> dict[str, Any]:
    """What a message of a viewer was read as."""
    fields = dataclasses.asdict(incoming)
    if "renditions" in fields:
        fields["renditions"] = sorted(fields["renditions"], reverse=True)
    return {"type": type(incoming).__name__.lower(), **fields}


def _heard(phase: str, text: str) -> dict[str, Any]:
    try:
        return {"phase": phase, "text": text, "read": as_json(conversation(phase).receive(text))}
    except BadMessage as error:
        return {"phase": phase, "text": text, "refused": str(error)}


def _unpacked(text: str) -> dict[str, Any]:
    try:
        header, payload = BinaryHeader.unpack(bytes.fromhex(text))
    except BadMessage as error:
        return {"hex": text, "refused": str(error)}
    kind = "init" if header.kind == Kind.INIT else "segment"
    named = {"kind": kind, "rendition": header.rendition, "index": header.index, "revision": header.revision}
    return {"hex": text, "read": named | {"init": header.init_id, "seq": header.seq, "payload": payload.hex()}}


def as_text(recorded: dict[str, list[Any]]) -> str:
    """JSON with one message per line, so that a change is seen at once."""
    sections = []
    for name, entries in recorded.items():
        lines = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
        sections.append(f' "{name}": [\n  {lines}\n ]')
    return "{\n" + ",\n".join(sections) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(as_text(record()))
