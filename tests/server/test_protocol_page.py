"""docs/protocol.md is what pages are written against: its examples are held against what the server says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from server.standin import INIT, Standin
from st2v_stream.delivery.protocol import WANT_ANSWER, BinaryHeader, CloseCode, Conversation, Kind
from st2v_stream.delivery.resource import VideoJson
from st2v_stream.types import LogEntry, Progress

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text()
EXAMPLES = {example["type"]: example for example in map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL))}
TO_SERVER = ("hello", "ack", "want", "live")


def said() -> dict[str, dict[str, Any]]:
    """One real message of every type."""
    director, spoken = Standin(), Conversation()
    spoken.receive(json.dumps(EXAMPLES["hello"]))
    video = director.add()
    segment = director.segment(video, 0)
    assert segment.segment is not None
    view = director.shelves[video].view
    ended = director.state(video, state="stopped", ended_by="stopped")
    messages = [spoken.welcome(view, 2, [segment]), spoken.new_init(segment.segment), WANT_ANSWER]
    messages.append(spoken.skipped(3, range(1, 3)))
    for item in (ended, LogEntry(4, "reset", 1), LogEntry(5, "cue", 5), Progress(2, 1, 4, 9.5)):
        messages += spoken.texts(item)
    assert INIT
    return {message["type"]: message for message in messages if message is not None}


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else None


def test_every_message_has_an_example() -> None:
    assert set(EXAMPLES) == {*said(), *TO_SERVER}


@pytest.mark.parametrize("kind", sorted(set(EXAMPLES) - {*TO_SERVER, "state"}))
def test_examples_have_the_fields_that_are_sent(kind: str) -> None:
    assert shape(EXAMPLES[kind]) == shape(said()[kind])


def test_the_example_video_is_whole() -> None:
    assert list(EXAMPLES["welcome"]["video"]) == list(get_type_hints(VideoJson))
    assert list(EXAMPLES["state"]) == list(said()["state"])


@pytest.mark.parametrize("kind", TO_SERVER)
def test_examples_are_understood(kind: str) -> None:
    spoken = Conversation()
    if kind != "hello":
        spoken.receive(json.dumps(EXAMPLES["hello"]))
        spoken.texts(LogEntry(9, "reset", 0))
    spoken.receive(json.dumps(EXAMPLES[kind]))


def test_binary_example() -> None:
    (packed,) = re.findall(r"^ {4}((?:[0-9a-f]{2} +){19}[0-9a-f]{2})$", PAGE, flags=re.MULTILINE)
    expected = BinaryHeader(Kind.SEGMENT, "preview", index=2, revision=0, init_id=1, seq=5)
    assert BinaryHeader.unpack(bytes.fromhex(packed)) == (expected, b"")


def test_every_close_code_is_explained() -> None:
    table = PAGE[PAGE.index("## Close codes") :]
    for code in CloseCode:
        assert re.search(rf"\b{int(code)}\b", table), code
