"""One message for many viewers is made once; and the bench of many viewers, in small: it runs, and it counts what was lost."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from server.running import in_loop, running, viewer
from server.standin import Standin
from websockets.frames import Frame, Opcode

from st2v_stream.delivery.fanout import Outbox, binary, text
from st2v_stream.errors import NotFound
from st2v_stream.server.listen import DirectWebSocket
from st2v_stream.types import Progress

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("size", [0, 5, 105, 106, 65_515, 65_516, 70_000])
def test_frames_are_what_websockets_would_send(size: int) -> None:
    header, payload = bytes(range(20)), b"x" * size
    outgoing = binary(header, payload)
    assert outgoing.frame == Frame(Opcode.BINARY, header + payload).serialize(mask=False)
    assert outgoing.message() == {"type": "websocket.send", "bytes": header + payload}
    said = text({"type": "x", "é": "y" * size})
    words = json.dumps({"type": "x", "é": "y" * size}, separators=(",", ":"))
    assert said.frame == Frame(Opcode.TEXT, words.encode()).serialize(mask=False)
    assert said.message() == {"type": "websocket.send", "text": words}


def test_words_are_made_once_and_not_kept_for_ever() -> None:
    outbox = Outbox(max_items=3)
    items = [Progress(index, 1, 4) for index in range(5)]
    first = outbox.texts(items[0])
    assert outbox.texts(items[0]) is first
    assert outbox.texts(Progress(0, 1, 4)) == first, "what is equal says the same"
    for item in items:
        (said,) = outbox.texts(item)
        assert json.loads(said.message()["text"])["index"] == item.index
    assert outbox.texts(items[0]) is not first


@in_loop
async def test_segments_are_framed_once_and_so_many_bytes_are_kept() -> None:
    read: list[str] = []

    async def read_blob(sha256: str) -> bytes:
        read.append(sha256)
        await asyncio.sleep(0)
        if sha256 == "gone":
            raise NotFound("no such segment")
        return b"x" * (5000 if sha256 == "large" else 1000)

    outbox = Outbox(max_bytes=3500)
    at_once = await asyncio.gather(*(outbox.binary(b"header", "a", read_blob) for _ in range(5)))
    assert all(outgoing is at_once[0] for outgoing in at_once)
    read.clear()
    assert await outbox.binary(b"header", "a", read_blob) is at_once[0]
    assert read == []
    assert (await outbox.binary(b"another", "a", read_blob)).message()["bytes"].startswith(b"another")
    for sha256 in ("b", "c", "d"):
        await outbox.binary(b"header", sha256, read_blob)
        assert outbox.size_bytes <= 3500
    assert await outbox.binary(b"header", "a", read_blob) is not at_once[0], "the oldest goes first"
    assert len((await outbox.binary(b"header", "large", read_blob)).frame) > 5000
    assert outbox.size_bytes == 0, "what is larger than all of it is not kept"
    with pytest.raises(NotFound):
        await outbox.binary(b"header", "gone", read_blob)


@pytest.mark.parametrize("ways", ["direct", "plain"])
def test_viewers_see_the_same_whether_or_not_the_server_writes_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ways: str
) -> None:
    if ways == "plain":
        monkeypatch.delattr(DirectWebSocket, "handle_connect")

    @in_loop
    async def watch() -> None:
        director = Standin()
        video = director.add(2, size=70_000)
        async with (
            running(director, tmp_path) as server,
            viewer(server.watch_url(video)) as seen,
            viewer(server.watch_url(video)) as other,
        ):
            for one in (seen, other):
                await one.until_segments(2)
            director.step(video, Progress(2, 1, 4))
            for one in (seen, other):
                await one.until("progress")
            director.segment(video, 2)
            director.state(video, state="completed", ended_by="length")
            for one in (seen, other):
                await one.until("ended")
                came = [(header.index, len(payload)) for header, payload in one.segments]
                assert came == [(0, 70_000), (1, 70_000), (2, 100)]
                assert "state" in one.order

    watch()


@pytest.mark.slow
def test_everybody_who_reads_gets_everything_once_beside_some_who_do_not() -> None:
    small = ["--viewers", "3", "--stalled", "2", "--among", "5", "--chunks", "6", "--pace", "0.1"]
    command = [sys.executable, str(ROOT / "bench" / "fanout.py"), *small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [(row["viewers"], row["stalled"]) for row in rows] == [(3, 0), (5, 2)]
    for row in rows:
        assert (row["expected"], row["delivered"], row["lost"], row["twice_or_unordered"]) == (18, 18, 0, 0)
        assert row["kilobytes"] > 10
        assert row["cpu_s"] > 0
        assert row["chunk_gap_median_s"] > 0
