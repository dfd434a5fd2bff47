"""`WS /v1/videos/{id}/watch` over real sockets, against a Director whose log the tests write by hand."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import websockets

from server.running import TOKEN, Running, Viewer, in_loop, running, viewer
from server.standin import INIT, Standin, sha
from st2v_stream.delivery.grants import Grant, GrantKey
from st2v_stream.delivery.protocol import Kind
from st2v_stream.delivery.websocket import WatchLimits
from st2v_stream.types import Progress


@in_loop
async def test_golden_messages(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(2)
    async with running(director, tmp_path) as server, viewer(server.watch_url(video)) as seen:
        await seen.until_segments(2)
        director.step(video, Progress(2, 1, 4, 9.5))
        await seen.until("progress")
        director.reset(video, 1)
        director.segment(video, 1, revision=1)
        director.state(video, state="stopped", ended_by="stopped")
        await seen.until("ended")
        expected = ["welcome", "init", "binary init", "binary segment", "binary segment"]
        assert seen.order == [*expected, "progress", "reset", "binary segment", "state", "ended"]
        welcome, init, progress, reset, state, ended = seen.texts
        assert (welcome["protocol"], welcome["cursor"], welcome["video"]["id"]) == ("st2v.v1", 3, video)
        described = {"id": 1, "codec": "avc1.42C00B", "rendition": "preview", "width": 256, "height": 192}
        assert welcome["init"] == [described | {"hash": sha(INIT)}]
        assert init == {"type": "init", **described}
        step = {"index": 2, "step": 1, "steps": 4, "frames_per_second": 9.5, "rendition": "preview"}
        assert progress == {"type": "progress", **step}
        assert reset == {"type": "reset", "seq": 4, "from_index": 1}
        assert (state["seq"], state["video"]["state"], state["video"]["cursor"]) == (6, "stopped", 6)
        assert ended == {"type": "ended", "seq": 6, "ended_by": "stopped"}
        assert seen.inits == {1: INIT}
        header, payload = seen.segments[2]
        assert (header.kind, header.index, header.revision, header.init_id, header.seq) == (Kind.SEGMENT, 1, 1, 1, 5)
        assert payload.startswith(b"v000/1/preview/1;")
        assert seen.socket.subprotocol == "st2v.v1"


@in_loop
async def test_reconnecting_from_every_cursor_leaves_no_gap_and_no_duplicate(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(4)
    director.segment(video, 0, rendition="enhanced")
    director.segment(video, 4)
    director.segment(video, 1, rendition="enhanced")
    director.state(video, state="completed", ended_by="length")
    all_seqs = [entry.seq for entry in director.shelves[video].log if entry.segment is not None]
    async with running(director, tmp_path) as server:
        for cursor in range(1, director.shelves[video].view.seq + 1):
            async with viewer(server.watch_url(video), hello={"cursor": cursor}) as seen:
                await seen.until("ended")
                assert [header.seq for header, _ in seen.segments] == [seq for seq in all_seqs if seq > cursor]
        async with viewer(server.watch_url(video)) as seen:  # a newcomer gets the best of each, once
            await seen.until("ended")
            best = [(h.index, h.rendition) for h, _ in seen.segments]
            assert best == [(2, "preview"), (3, "preview"), (0, "enhanced"), (4, "preview"), (1, "enhanced")]


@in_loop
async def test_who_comes_back_after_the_end_is_told_of_it_once(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(2)
    director.state(video, state="completed", ended_by="length")
    for index in range(2):
        director.segment(video, index, rendition="enhanced")
    newest = director.shelves[video].log[-1].seq
    async with running(director, tmp_path) as server:
        for cursor in range(newest + 1):
            async with viewer(server.watch_url(video), hello={"cursor": cursor}) as seen:
                await seen.until("ended")
                director.segment(video, 0, rendition="enhanced", revision=cursor + 1)
                await seen.until_segments(len(seen.segments) + 1)
                assert [text["type"] for text in seen.texts].count("ended") == 1, cursor


@in_loop
async def test_cut_off_within_the_snapshot_goes_on_from_the_last_seq(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(5)
    director.segment(video, 1, rendition="enhanced")
    async with running(director, tmp_path) as server:
        for cut in range(1, 6):
            got: dict[int, str] = {}
            async with viewer(server.watch_url(video)) as first:
                await first.until_segments(cut)
                got |= {header.index: header.rendition for header, _ in first.segments}
            director.segment(video, 0, revision=cut)
            async with viewer(server.watch_url(video), hello={"cursor": first.cursor}) as second:
                while second.cursor < director.shelves[video].view.seq:
                    await second.next()
                got |= {header.index: header.rendition for header, _ in second.segments}
                assert not {h.seq for h, _ in first.segments} & {h.seq for h, _ in second.segments}
            assert got == {0: "preview", 1: "enhanced", 2: "preview", 3: "preview", 4: "preview"}


@in_loop
async def test_a_viewer_of_previews_sees_every_chunk(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(3)
    director.segment(video, 1, rendition="enhanced")
    director.state(video, state="completed", ended_by="length")
    async with (
        running(director, tmp_path) as server,
        viewer(server.watch_url(video), hello={"renditions": ["preview"]}) as seen,
    ):
        await seen.until("ended")
        assert [(h.index, h.rendition) for h, _ in seen.segments] == [(0, "preview"), (1, "preview"), (2, "preview")]


@in_loop
async def test_at_most_eight_segments_are_on_their_way(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(12)
    async with running(director, tmp_path) as server, viewer(server.watch_url(video)) as seen:
        for _ in range(11):  # welcome, init, binary init, 8 segments
            await seen.next(ack=False)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(seen.next(ack=False), 0.2)
        await seen.send(type="ack", seq=seen.segments[2][0].seq)
        for _ in range(3):
            await seen.next(ack=False)
        assert len(seen.segments) == 11
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(seen.next(ack=False), 0.1)
        await seen.send(type="want", from_index=0, to_index=2)
        await seen.until("error", ack=False)
        assert seen.texts[-1]["code"] == "use_http"


@in_loop
async def test_closes_with_a_reason(tmp_path: Path) -> None:
    director = Standin()
    video, deleted = director.add(1), director.add(1)
    async with running(director, tmp_path, limits=WatchLimits(hello_s=0.2)) as server:
        url = server.watch_url(video)
        async with viewer(url, say_hello=False) as silent:
            assert await silent.closed() == 4400
            assert "hello within 0.2 s" in silent.texts[0]["message"]
        async with viewer(url) as chatty:
            await chatty.until_segments(1)
            await chatty.socket.send("{")
            assert await chatty.closed() == 4400
            assert chatty.texts[-1]["code"] == "bad_message"
        async with viewer(url) as binary:
            await binary.socket.send(b"\0")
            assert await binary.closed() == 4400
        async with viewer(url, hello={"cursor": 99}) as ahead:
            assert await ahead.closed() == 4400
        async with viewer(server.watch_url("nobody")) as lost:
            assert await lost.closed() == 4004
        async with viewer(server.watch_url("x" * 65)) as odd:
            assert await odd.closed() == 4004
        async with viewer(url, token=None) as stranger:
            assert await stranger.closed() == 4003
        async with viewer(url, token="wrong-token-wrong-token") as liar:
            assert await liar.closed() == 4003
            assert liar.socket.subprotocol == "st2v.v1"
        async with viewer(server.watch_url(deleted)) as late:
            await late.until_segments(1)
            await director.delete(deleted)
            assert await late.closed() == 4001
        async with websockets.connect(url, subprotocols=["st2v.v9", f"bearer.{TOKEN}"]) as other:  # type: ignore[list-item]
            with pytest.raises(websockets.ConnectionClosed):
                await other.recv()
            assert other.close_code == 4009
        async with viewer(url) as big:
            await big.socket.send("x" * 70_000)
            assert await big.closed() == 1009
    assert server.app.state.metrics.viewers == 0
    assert director.followers == 0


@in_loop
async def test_viewers_over_the_limit_are_asked_to_come_later(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(1)
    async with running(director, tmp_path, max_viewers=1) as server, viewer(server.watch_url(video)) as first:
        await first.until_segments(1)
        async with viewer(server.watch_url(video)) as second:
            assert await second.closed() == 1013


@in_loop
async def test_a_grant_watches_its_video_until_it_expires(tmp_path: Path) -> None:
    director = Standin()
    mine, other = director.add(1), director.add(1)
    grants = GrantKey(TOKEN)
    async with running(director, tmp_path) as server:
        grant = grants.sign(Grant(mine, "watch", int(time.time()) + 2))
        async with viewer(server.watch_url(mine, f"/g/{grant}"), token=None) as seen:
            await seen.until_segments(1)
            async with viewer(server.watch_url(other, f"/g/{grant}"), token=None) as curious:
                assert await curious.closed() == 4003
            assert await seen.closed() == 4003


@in_loop
async def test_a_segment_that_is_gone_is_no_deleted_video(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(2)
    lost = director.shelves[video].log[2].segment
    assert lost is not None
    del director.blobs[lost.hash]
    async with running(director, tmp_path) as server, viewer(server.watch_url(video)) as seen:
        assert await seen.closed() == 1011
        assert len(seen.segments) == 1


@in_loop
async def test_shutdown_sends_1012_to_everybody(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(1)
    async with running(director, tmp_path) as server, viewer(server.watch_url(video)) as seen:
        await seen.until_segments(1)
        server.server.should_exit = True
        assert await seen.closed() == 1012


@in_loop
async def test_a_viewer_that_never_reads_is_cut_off_and_nobody_else_notices(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(0)
    limits = WatchLimits(send_s=0.5, max_in_flight=1000)
    async with running(director, tmp_path, limits=limits) as server, viewer(server.watch_url(video)) as healthy:
        await healthy.until("welcome")
        aborted = asyncio.Event()
        server.app.state.metrics.viewer_aborted = aborted.set
        stuck = await asyncio.to_thread(connect_and_never_read, server.port, video)
        for index in range(12):
            director.segment(video, index, size=2**20)
            await asyncio.wait_for(healthy.until_segments(index + 1), 2)
        await asyncio.wait_for(aborted.wait(), 3)
        await asyncio.sleep(0.05)
        assert server.app.state.metrics.viewers == 1
        assert len(server.server.server_state.connections) == 1, "the stuck connection is freed at once"
        assert [header.index for header, _ in healthy.segments] == list(range(12))
        stuck.close()


def connect_and_never_read(port: int, video: str) -> socket.socket:
    """A WebSocket client by hand that says hello and then takes nothing from a tiny buffer."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16)).decode()
    handshake = [
        f"GET /v1/videos/{video}/watch HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        f"Sec-WebSocket-Protocol: st2v.v1, bearer.{TOKEN}",
    ]
    sock.sendall(("\r\n".join(handshake) + "\r\n\r\n").encode())
    assert sock.recv(4096).startswith(b"HTTP/1.1 101")
    payload = json.dumps({"type": "hello", "cursor": 0}).encode()
    sock.sendall(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
    return sock


@in_loop
async def test_stuck_viewers_hold_a_message_each_however_long_the_film_grows(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(0)
    stuck, size = 8, 2**18

    def held() -> int:
        """Bytes of Python's memory besides the film itself."""
        return tracemalloc.get_traced_memory()[0] - sum(len(blob) for blob in director.blobs.values())

    async with running(director, tmp_path, limits=WatchLimits(send_s=60, max_in_flight=1000)) as server:
        sockets = [await asyncio.to_thread(connect_and_never_read, server.port, video) for _ in range(stuck)]
        await eventually(lambda: director.followers == stuck)
        tracemalloc.start()
        try:
            before = held()
            for index in range(16):  # the kernel takes the first megabytes
                director.segment(video, index, size=size)
            await eventually(lambda: stuck_writing(server) == stuck)
            early = held() - before
            for index in range(16, 80):
                director.segment(video, index, size=size)
                await asyncio.sleep(0)
            await asyncio.sleep(0.1)
            late = held() - before
        finally:
            tracemalloc.stop()
        print(f"per stuck viewer: {early // stuck} bytes after 16 chunks of {size}, {late // stuck} after 80")
        assert late < stuck * 2.5 * size, "a message on its way and its rest in the transport, no queue"
        assert late - early < stuck * size, "64 chunks more changed nothing"
        for sock in sockets:
            sock.close()


def stuck_writing(server: Running) -> int:
    """Connections whose transport holds bytes that nobody takes."""
    return sum(connection.transport.get_write_buffer_size() > 0 for connection in server.server.server_state.connections)


async def eventually(comes_true: Callable[[], bool]) -> None:
    """Wait for it, as long as the test may take."""
    while not comes_true():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


# ---------------------------------------------------------------- the live edge

QUICK = WatchLimits(max_in_flight=4, skip_behind=4, slow_chunks=0.01)
"""So that a hundredth of a second of silence makes a slow viewer (a chunk plays 1 s)."""


async def fall_behind(director: Standin, video: str, seen: Viewer, chunks: int) -> None:
    """Take nothing while so many chunks are made, and a little longer."""
    made = director.shelves[video].view.chunks
    for index in range(made, made + chunks):
        director.segment(video, index)
    await asyncio.sleep(0.25)


async def take_all(director: Standin, video: str, seen: Viewer) -> tuple[list[int], list[range]]:
    """Take and acknowledge all there is: indexes received in all, and what was skipped."""
    if seen.segments:
        await seen.send(type="ack", seq=seen.segments[-1][0].seq)
    while seen.cursor < director.shelves[video].view.seq:
        await seen.next()
    skips = [text for text in seen.texts if text["type"] == "skipped"]
    return [header.index for header, _ in seen.segments], [range(skip["from_index"], skip["to_index"]) for skip in skips]


@in_loop
async def test_a_slow_live_viewer_is_skipped_to_the_edge_and_told(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(2)
    async with (
        running(director, tmp_path, limits=QUICK) as server,
        viewer(server.watch_url(video), hello={"live": True}) as seen,
    ):
        await seen.until_segments(2)
        await fall_behind(director, video, seen, 20)
        indexes, skipped = await take_all(director, video, seen)
        print(indexes, skipped)
        (gap,) = skipped
        assert gap.stop == 20, "the two newest are sent"
        assert sorted([*indexes, *gap]) == list(range(22)), "every chunk was sent or named, none twice"
        assert len(gap) >= 12
        assert server.app.state.metrics.viewer_skips == 1
        # from its cursor on nothing is missing: what was skipped is behind it
        director.segment(video, 22)
        async with viewer(server.watch_url(video), hello={"cursor": seen.cursor, "live": True}) as again:
            await again.until_segments(1)
            assert [header.index for header, _ in again.segments] == [22]


@in_loop
async def test_who_looks_at_the_past_is_never_skipped(tmp_path: Path) -> None:
    director = Standin()
    async with running(director, tmp_path, limits=QUICK) as server:
        for hello, then in (({}, None), ({"live": True}, False), ({"live": False}, None)):
            video = director.add(2)
            async with viewer(server.watch_url(video), hello=hello) as seen:
                await seen.until_segments(2)
                if then is not None:
                    await seen.send(type="live", live=then)
                await fall_behind(director, video, seen, 20)
                assert await take_all(director, video, seen) == (list(range(22)), [])


@in_loop
async def test_a_viewer_that_goes_live_is_skipped_from_then_on(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(2)
    async with running(director, tmp_path, limits=QUICK) as server, viewer(server.watch_url(video)) as seen:
        await seen.until_segments(2)
        await seen.send(type="live", live=True)
        await fall_behind(director, video, seen, 12)
        indexes, skipped = await take_all(director, video, seen)
        assert len(skipped) == 1
        assert sorted([*indexes, *skipped[0]]) == list(range(14))


@in_loop
async def test_a_fast_viewer_that_comes_back_after_long_is_not_skipped(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(2)
    async with running(director, tmp_path, limits=WatchLimits(skip_behind=4)) as server:
        async with viewer(server.watch_url(video), hello={"live": True}) as first:
            await first.until_segments(2)
        for index in range(2, 60):
            director.segment(video, index)
        async with viewer(server.watch_url(video), hello={"cursor": first.cursor, "live": True}) as second:
            await second.until_segments(58)
            assert [header.index for header, _ in second.segments] == list(range(2, 60))
            assert "skipped" not in second.order


@in_loop
async def test_what_is_no_segment_is_never_left_out(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(2)
    async with (
        running(director, tmp_path, limits=QUICK) as server,
        viewer(server.watch_url(video), hello={"live": True}) as seen,
    ):
        await seen.until_segments(2)
        await fall_behind(director, video, seen, 10)
        director.segment(video, 1, rendition="enhanced")
        director.reset(video, 8)
        director.state(video, title="Another")
        for index in range(8, 12):
            director.segment(video, index, revision=1)
        await take_all(director, video, seen)
        seqs = [text["seq"] for text in seen.texts if "seq" in text]
        assert seqs == sorted(seqs)
        kinds = [kind for kind in seen.order if kind in ("skipped", "reset", "state")]
        assert kinds == ["skipped", "skipped", "reset", "state", "skipped"], "previews, a sharp one, then those made anew"
        assert [header.index for header, _ in seen.segments][-2:] == [10, 11]
        assert (seen.texts[-1]["type"], seen.texts[-1]["from_index"], seen.texts[-1]["to_index"]) == ("skipped", 8, 10)


@in_loop
async def test_an_ended_film_has_no_live_edge(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(2)
    async with (
        running(director, tmp_path, limits=QUICK) as server,
        viewer(server.watch_url(video), hello={"live": True}) as seen,
    ):
        await seen.until_segments(2)
        await fall_behind(director, video, seen, 20)
        director.state(video, state="completed", ended_by="length")
        assert await take_all(director, video, seen) == (list(range(22)), [])


@in_loop
async def test_fifty_viewers_get_everything(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(2)

    async def see(url: str) -> Viewer:
        async with viewer(url) as seen:
            await seen.until("ended")
            return seen

    async with running(director, tmp_path) as server:
        watching = [asyncio.create_task(see(server.watch_url(video))) for _ in range(50)]
        for index in range(2, 10):
            director.segment(video, index)
            await asyncio.sleep(0)
        director.state(video, state="completed", ended_by="length")
        for seen in await asyncio.gather(*watching):
            assert [header.index for header, _ in seen.segments] == list(range(10))
