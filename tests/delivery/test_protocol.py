"""The protocol as a state machine, without a socket."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.standin import Standin

from delivery import golden_messages
from st2v_stream.delivery.protocol import (
    Ack,
    BadMessage,
    BinaryHeader,
    Conversation,
    Hello,
    Kind,
    Want,
    covers,
)
from st2v_stream.errors import St2vError
from st2v_stream.types import Progress


def conversation(**options: Any) -> Conversation:
    spoken = Conversation(**options)
    spoken.receive('{"type":"hello","cursor":0}')
    return spoken


def test_header_is_twenty_bytes_big_endian() -> None:
    header = BinaryHeader(Kind.SEGMENT, "enhanced", index=0x01020304, revision=5, init_id=6, seq=0xFFFFFFFE)
    packed = header.pack()
    assert packed.hex(" ") == "01 02 01 00 01 02 03 04 00 00 00 05 00 00 00 06 ff ff ff fe"
    assert BinaryHeader.unpack(packed + b"rest") == (header, b"rest")


GOLDEN = json.loads(golden_messages.FILE.read_text())


@pytest.mark.parametrize("section", ["to_server", "from_server", "not_from_a_server", "binary"])
def test_messages_are_what_the_page_is_tested_with(section: str) -> None:
    """tests/web/protocol.test.mjs reads the same file; how to write it anew stands in golden_messages.py."""
    assert golden_messages.record()[section] == GOLDEN[section]


def test_golden_binary_messages_are_packed_as_they_are_read() -> None:
    for message in GOLDEN["binary"]:
        if "read" in message:
            read = message["read"]
            header = BinaryHeader(
                Kind[read["kind"].upper()], read["rendition"], read["index"], read["revision"], read["init"], read["seq"]
            )
            assert header.pack().hex() + read["payload"] == message["hex"]


def test_hello_comes_first_and_once() -> None:
    spoken = Conversation()
    with pytest.raises(BadMessage, match="expected hello, received 'ack'"):
        spoken.receive('{"type":"ack","seq":0}')
    assert spoken.receive('{"type":"hello","cursor":7,"renditions":["preview"]}') == Hello(7, frozenset({"preview"}))
    with pytest.raises(BadMessage, match="expected ack or want or live, received 'hello'"):
        spoken.receive('{"type":"hello","cursor":7}')


def test_reads_ack_and_want() -> None:
    spoken = conversation()
    assert spoken.receive('{"type":"ack","seq":0}') == Ack(0)
    assert spoken.receive('{"type":"want","from_index":1,"to_index":4}') == Want(1, 4)


@pytest.mark.parametrize(
    "text",
    [None, "", "[]", "{", "7", '{"type":[]}', '{"type":"ack"}', '{"type":"ack","seq":-1}', '{"type":"ack","seq":1.5}',
     '{"type":"ack","seq":true}', '{"type":"ack","seq":4294967296}', '{"type":"ack","seq":1}', '{"type":"want","from_index":0}',
     "[" * 5000, '{"type":"ack","seq":' + "9" * 6000 + "}"],
)  # fmt: skip
def test_bad_messages_are_explained(text: str | None) -> None:
    with pytest.raises(BadMessage) as caught:
        conversation().receive(text)
    assert "expected" in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("renditions", [[], ["sharp"], "preview", [[]], 3])
def test_unknown_renditions_are_refused(renditions: object) -> None:
    with pytest.raises(BadMessage, match="renditions"):
        Conversation().receive(json.dumps({"type": "hello", "cursor": 0, "renditions": renditions}))


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(["preview"])
NEARLY = st.dictionaries(
    st.sampled_from(["type", "seq", "cursor", "renditions", "from_index"]), VALUES | st.sampled_from(["ack", "want"])
)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20) | NEARLY.map(json.dumps))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(St2vError):
        conversation().receive(text)


def test_window_closes_at_eight_and_acks_are_cumulative() -> None:
    director, spoken = Standin(), conversation()
    video = director.add()
    entries = [director.segment(video, index) for index in range(9)]
    for entry in entries[:8]:
        assert spoken.has_room
        assert entry.segment is not None
        spoken.segment_header(entry.seq, entry.segment)
    assert not spoken.has_room
    spoken.receive(json.dumps({"type": "ack", "seq": entries[0].seq}))
    assert spoken.has_room
    spoken.receive(json.dumps({"type": "ack", "seq": entries[7].seq}))
    spoken.receive(json.dumps({"type": "ack", "seq": entries[3].seq}))  # late and out of order: nothing to say
    with pytest.raises(BadMessage, match="never sent"):
        spoken.receive(json.dumps({"type": "ack", "seq": entries[8].seq}))


def test_init_is_announced_once_per_socket() -> None:
    director, spoken = Standin(), conversation()
    video = director.add(2)
    first, second = (entry.segment for entry in asyncio.run(director.snapshot(video)).entries)
    sharp = director.segment(video, 0, rendition="enhanced").segment
    assert first is not None
    assert second is not None
    assert sharp is not None
    announced = {"type": "init", "id": 1, "codec": "avc1.42C00B", "rendition": "preview", "width": 256, "height": 192}
    assert spoken.new_init(first) == announced
    assert spoken.new_init(second) is None
    assert spoken.new_init(sharp) == announced | {"id": 2, "rendition": "enhanced"}
    header, payload = BinaryHeader.unpack(spoken.init_header(first) + b"ftyp")
    assert (header.kind, header.init_id, header.seq, payload) == (Kind.INIT, 1, 0, b"ftyp")


def test_what_log_entries_become() -> None:
    director, spoken = Standin(), conversation()
    video = director.add()
    ended = director.state(video, state="stopped", ended_by="stopped")
    state, end = spoken.texts(ended)
    assert (state["type"], state["seq"], state["video"]["state"]) == ("state", 2, "stopped")
    assert end == {"type": "ended", "seq": 2, "ended_by": "stopped"}
    assert spoken.texts(director.reset(video, 4)) == [{"type": "reset", "seq": 3, "from_index": 4}]
    assert spoken.texts(Progress(3, 2, 6, 9.5)) == [
        {"type": "progress", "index": 3, "step": 2, "steps": 6, "frames_per_second": 9.5, "rendition": "preview"}
    ]


def test_a_snapshot_covers_only_who_takes_its_renditions() -> None:
    director = Standin()
    video = director.add(2)
    director.segment(video, 0, rendition="enhanced")
    snapshot = asyncio.run(director.snapshot(video))
    assert covers(frozenset({"preview", "enhanced"}), snapshot)
    assert not covers(frozenset({"preview"}), snapshot)
