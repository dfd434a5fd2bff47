"""The whole way by WebRTC on loopback: aiortc as a viewer, numbers read off the decoded pictures."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aioice.ice
import psutil
import pytest
from aiortc import RTCPeerConnection, RTCRtpSender
from aiortc.codecs.h264 import H264Encoder
from server.running import BEARER, TOKEN, in_loop, running
from server.standin import SPEC
from videos.living import living

from delivery.webrtc_viewers import LOOPBACK, Filmed, caller, eventually, make_offer, only, post_offer, rtc_viewer
from st2v_stream.config import Config, read_config
from st2v_stream.delivery import webrtc
from st2v_stream.delivery.grants import Grant, GrantKey
from st2v_stream.delivery.webrtc import ice_links
from st2v_stream.errors import InvalidRequest
from st2v_stream.generators.testcard import TestCard
from st2v_stream.types import CreateVideo

pytestmark = pytest.mark.slow

QUICK = {"spec": type(SPEC)(256, 192, fps=40, first_chunk_frames=16, chunk_frames=8)}


def without_high(sdp: str) -> str:
    """The offer, with Main where it says High (aiortc's table is one for both sides of these tests)."""
    return re.sub("profile-level-id=64....", "profile-level-id=4d001f", sdp)


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The viewer's side: aioice never uses loopback by itself, and tests have nothing to look for elsewhere.

    And nothing is ever encoded for a viewer.
    """
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
    monkeypatch.setattr(H264Encoder, "encode", None)


# ---------------------------------------------------------------- watching


@in_loop
async def test_every_frame_comes_in_order_and_the_picture_is_held_while_the_model_thinks(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1, **QUICK)
    async with running(director, tmp_path, **LOOPBACK) as server, rtc_viewer(server, f"{video}/whep") as seen:
        await seen.until(14)  # 15 is shown by browsers, but aiortc hands a frame out when the next one begins
        await asyncio.sleep(0.6)
        director.segment(video, 1)
        director.segment(video, 2)
        await seen.until(30)
        assert seen.numbers == list(range(31))
        stamps = [after - before for before, after in zip(seen.stamps, seen.stamps[1:])]
        assert stamps[15] > 0.5 * 90_000, "the stamps follow the sender's clock, so the pause is in them"
        assert sum(stamps[16:]) / len(stamps[16:]) > 90_000 / 40 / 1.2, "two chunks at once are played, not poured out"


@in_loop
async def test_a_film_that_is_made_meanwhile_is_watched_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = TestCard(fps=40, steps=2, seconds_per_step=0.12)
    monkeypatch.setattr("st2v_stream.delivery.webrtc_playback.LINGER_S", 0.2)
    async with living(tmp_path, card, real=True) as live, running(live, tmp_path, **LOOPBACK) as server:
        video = (await live.create(CreateVideo("a numbered film", num_frames=48))).id
        async with rtc_viewer(server, f"{video}/whep") as seen:
            await asyncio.wait_for(seen.ended.wait(), 15)
        assert seen.numbers == list(range(seen.numbers[0], 47))
        assert seen.numbers[0] < 16
        assert (await live.get(video)).ended_by == "length"


@in_loop
async def test_a_late_joiner_sees_the_current_chunk_at_once(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(3)  # 8 frames/s: at the film's speed these six steps take 0.75 s
    async with running(director, tmp_path, **LOOPBACK) as server, rtc_viewer(server, f"{video}/whep") as early:
        await early.until(30)
        await asyncio.sleep(0.3)  # the model thinks; nothing is due
        async with rtc_viewer(server, f"{video}/whep") as late:
            assert (await late.until(30))[0] == 24
            assert late.seen_s[-1] - late.seen_s[0] < 0.6, "not at the film's speed"
            director.segment(video, 3)
            await late.until(38)
            await early.until(38)
        assert early.numbers == list(range(early.numbers[0], 39))


@in_loop
async def test_a_lost_picture_is_repaired_from_the_current_chunk(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(2, **QUICK)
    async with running(director, tmp_path, **LOOPBACK) as server, rtc_viewer(server, f"{video}/whep") as seen:
        await seen.until(22)
        (receiver,) = seen.connection.getReceivers()
        (source,) = receiver.getSynchronizationSources()
        await receiver._send_rtcp_pli(source.source)
        await eventually(lambda: seen.numbers.count(22) == 2)
        assert seen.numbers[-7:] == list(range(16, 23))


@in_loop
async def test_enhanced_plays_from_the_moment_asked_for(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(4, **QUICK)
    for index in (0, 1):
        director.segment(video, index, rendition="enhanced")
    async with running(director, tmp_path, **LOOPBACK) as server:
        async with rtc_viewer(server, f"{video}/whep?rendition=enhanced&t=0.45", edit=without_high) as seen:  # frame 18
            assert "profile-level-id=64" not in seen.answer.text, "this viewer does not name High, and decodes it"
            await seen.until(22)
            assert seen.numbers == list(range(16, 23))
            assert min(seen.blues) > 40, "pictures of the enhanced rendition"
            director.segment(video, 2, rendition="enhanced")
            await seen.until(30)
        late = await post_offer(server, f"{video}/whep?rendition=enhanced&t=60", await _sdp())
        assert (late.status_code, late.json()["error"]["code"]) == (409, "not_there_yet")
        for query in ("t=1", "t=nan&rendition=enhanced", "t=-1&rendition=enhanced", "rendition=best", "x=1"):
            assert (await post_offer(server, f"{video}/whep?{query}", await _sdp())).status_code == 400


@in_loop
async def test_a_viewer_that_names_high_gets_enhanced_under_that_name(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1)
    director.segment(video, 0, rendition="enhanced")
    sdp = (await _sdp()).replace("profile-level-id=42e01f", "profile-level-id=640c1f")
    async with running(director, tmp_path, **LOOPBACK) as server:
        answer = (await post_offer(server, f"{video}/whep?rendition=enhanced", sdp)).text
        first = answer.partition("m=video ")[2].split()[2]
        assert f"a=fmtp:{first} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=640c1f" in answer


@in_loop
async def test_connections_end_with_the_film(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1, **QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("st2v_stream.delivery.webrtc_playback.LINGER_S", 0.1)
        async with running(director, tmp_path, **LOOPBACK) as server, rtc_viewer(server, f"{video}/whep") as seen:
            await seen.until(3)
            director.segment(video, 1)
            director.state(video, state="completed", ended_by="length")
            await asyncio.wait_for(seen.ended.wait(), 5)
            assert seen.numbers[-1] >= 22
            assert seen.numbers == list(range(seen.numbers[0], seen.numbers[-1] + 1))
            assert server.app.state.metrics.viewers == 0


@in_loop
async def test_connections_end_when_the_film_is_deleted(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1)
    async with running(director, tmp_path, **LOOPBACK) as server, rtc_viewer(server, f"{video}/whep") as seen:
        await seen.until(1)
        assert (await seen.client.delete(f"/v1/videos/{video}")).status_code == 200
        await asyncio.wait_for(seen.ended.wait(), 10)
        await eventually(lambda: server.app.state.metrics.viewers == 0)


@in_loop
async def test_a_connection_that_cannot_say_goodbye_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    director = Filmed()
    video = director.add(1)

    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    async with running(director, tmp_path, **LOOPBACK) as server, rtc_viewer(server, f"{video}/whep") as seen:
        await seen.until(1)
        monkeypatch.setattr("st2v_stream.delivery.webrtc_peer.CLOSE_S", 0.2)
        ports = [int(port) for port in re.findall(r"a=candidate:.* 127\.0\.0\.1 (\d+) ", seen.answer.text)]
        assert ports
        with monkeypatch.context() as patch:
            patch.setattr(RTCRtpSender, "stop", never)
            assert (await seen.delete()).status_code == 200
        for port in ports:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
                free.bind(("127.0.0.1", port))  # nobody answers there any more


# ---------------------------------------------------------------- who may, and how many


@in_loop
async def test_location_is_unguessable_and_delete_ends_it(tmp_path: Path) -> None:
    director = Filmed()
    video, other = director.add(1), director.add(1)
    async with running(director, tmp_path, **LOOPBACK) as server, rtc_viewer(server, f"{video}/whep") as seen:
        await seen.until(1)
        path = seen.answer.headers["location"]
        assert path.startswith(f"/v1/videos/{video}/whep/")
        assert len(path.rpartition("/")[2]) >= 32
        assert (await seen.client.delete(path[:-1])).status_code == 404
        assert (await seen.client.delete(path.replace(video, other))).status_code == 404
        assert (await seen.client.patch(path)).status_code == 405
        async with caller(server) as stranger:
            assert (await stranger.delete(path)).status_code == 401
        assert (await seen.delete()).status_code == 200
        await asyncio.wait_for(seen.ended.wait(), 5)
        assert (await seen.delete()).status_code == 404


@in_loop
async def test_a_grant_watches_and_only_it_or_the_owner_ends_that(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1)
    async with running(director, tmp_path, **LOOPBACK) as server:
        grants = GrantKey(TOKEN)
        mine, others = (f"/g/{grants.sign(grants.new(video, 60))}" for _ in range(2))
        async with rtc_viewer(server, f"{video}/whep", prefix=mine) as seen:
            await seen.until(1)
            path = seen.answer.headers["location"]
            assert path.startswith(f"{mine}/v1/videos/{video}/whep/")
            assert (await seen.client.delete(path.replace(mine, others))).status_code == 403
            assert (await seen.delete()).status_code == 200
        async with rtc_viewer(server, f"{video}/whep", prefix=mine) as seen:
            path = seen.answer.headers["location"].removeprefix(mine)
            assert (await seen.client.delete(path, headers=BEARER)).status_code == 200


@in_loop
async def test_a_link_that_expires_or_is_taken_back_ends_the_connection(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1)
    async with (
        running(director, tmp_path, **LOOPBACK) as server,
        caller(server, headers=BEARER) as owner,
    ):
        link = (await owner.post(f"/v1/videos/{video}/links", json={"expires_in_s": 60})).json()
        prefix = link["url"].removesuffix(f"/v1/videos/{video}")
        async with rtc_viewer(server, f"{video}/whep", prefix=prefix) as seen:
            await seen.until(1)
            assert (await owner.delete(f"/v1/videos/{video}/links/{link['id']}")).status_code == 200
            await asyncio.wait_for(seen.ended.wait(), 5)
        short = Grant(video, "watch", int(time.time()) + 2)
        prefix = "/g/" + GrantKey(TOKEN).sign(short)
        async with rtc_viewer(server, f"{video}/whep", prefix=prefix) as seen:
            await asyncio.wait_for(seen.ended.wait(), 5)


@in_loop
async def test_so_many_and_no_more(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1)
    async with running(director, tmp_path, max_webrtc_viewers=1, **LOOPBACK) as server:
        async with rtc_viewer(server, f"{video}/whep") as seen:
            await seen.until(1)
            refused = await post_offer(server, f"{video}/whep", await _sdp())
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_viewers")
            assert int(refused.headers["retry-after"]) > 0
            await seen.delete()
        assert (await post_offer(server, f"{video}/whep", await _sdp())).status_code == 201


@in_loop
async def test_an_offer_that_never_arrives_holds_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webrtc, "OFFER_S", 0.3)
    director = Filmed()
    video = director.add(1)
    async with running(director, tmp_path, max_webrtc_viewers=1, **LOOPBACK) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = [f"POST /v1/videos/{video}/whep HTTP/1.1", f"Host: 127.0.0.1:{server.port}", f"Authorization: Bearer {TOKEN}"]
        head += ["Content-Type: application/sdp", "Content-Length: 3000", "", "v=0"]
        writer.write("\r\n".join(head).encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
        writer.close()
        assert (await post_offer(server, f"{video}/whep", await _sdp())).status_code == 201


@in_loop
async def test_who_has_an_answer_and_never_connects_is_let_go(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webrtc, "CONNECT_S", 0.2)
        async with running(director, tmp_path, **LOOPBACK) as server:
            connection = await make_offer()
            answer = await post_offer(server, f"{video}/whep", connection.localDescription.sdp)
            await connection.close()
            assert answer.status_code == 201
            assert server.app.state.metrics.viewers == 1
            await eventually(lambda: server.app.state.metrics.viewers == 0)
            assert director.followers == 0


# ---------------------------------------------------------------- refusals


async def _sdp(*kinds: str) -> str:
    connection = await make_offer(*kinds)
    sdp: str = connection.localDescription.sdp
    await connection.close()
    return sdp


@in_loop
async def test_a_film_that_has_ended_says_where_it_is(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1, ended=True)
    async with running(director, tmp_path, **LOOPBACK) as server:
        refused = await post_offer(server, f"{video}/whep", await _sdp())
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "film_ended")
        playlist = f"/v1/videos/{video}/index.m3u8"
        assert refused.headers["link"] == f'<{playlist}>; rel="alternate"; type="application/vnd.apple.mpegurl"'
        assert playlist in refused.json()["error"]["message"]
        grants = GrantKey(TOKEN)
        prefix = f"/g/{grants.sign(grants.new(video, 60))}"
        refused = await post_offer(server, f"{video}/whep", await _sdp(), prefix=prefix)
        assert f"<{prefix}{playlist}>" in refused.headers["link"], "a link leads to a link"


@in_loop
async def test_without_a_common_codec_the_answer_is_415(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1)
    async with running(director, tmp_path, **LOOPBACK) as server:
        refused = await post_offer(server, f"{video}/whep", only(await _sdp(), "VP8"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (415, "no_common_codec")
        assert "VP8" in refused.json()["error"]["message"]
        assert server.app.state.metrics.viewers == 0
        assert (await post_offer(server, f"{video}/whep", only(await _sdp(), "H264"))).status_code == 201


@in_loop
async def test_an_offer_of_sound_and_picture_is_answered_with_the_picture(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1)
    async with running(director, tmp_path, **LOOPBACK) as server:
        answer = await post_offer(server, f"{video}/whep", await _sdp("audio", "video"))
        sections = answer.text.split("m=")[1:]
        assert [section.split()[0] for section in sections] == ["audio", "video"]
        assert ["a=inactive" in sections[0], "a=sendonly" in sections[1]] == [True, True]


@pytest.mark.parametrize("expected", ["no such video", "application/sdp", "v=0", "sendonly"])
def test_wrong_requests_are_told_what_was_expected(tmp_path: Path, expected: str) -> None:
    @in_loop
    async def ask() -> None:
        director = Filmed()
        video = director.add(1)
        sdp = await _sdp()
        asked: dict[str, tuple[str, str, dict[str, str]]] = {
            "no such video": ("nobody", sdp, {}),
            "application/sdp": (video, sdp, {"Content-Type": "text/plain"}),
            "v=0": (video, "{}", {}),
            "sendonly": (video, sdp.replace("recvonly", "sendonly"), {}),
        }
        path, body, headers = asked[expected]
        async with running(director, tmp_path, **LOOPBACK) as server:
            refused = await post_offer(server, f"{path}/whep", body, headers=headers)
            assert refused.status_code in (400, 404)
            assert expected in refused.json()["error"]["message"]

    ask()


BROKEN = ["a=fingerprint:", "a=setup:", "a=mid:", "a=rtpmap:", "a=extmap:", "m=video", "a=fmtp:", "a=ice-pwd:"]


@pytest.mark.parametrize("start", BROKEN)
def test_broken_offers_break_nothing(tmp_path: Path, start: str) -> None:
    @in_loop
    async def ask() -> None:
        director = Filmed()
        video = director.add(1)
        lines = (await _sdp()).split("\r\n")
        async with running(director, tmp_path, **LOOPBACK) as server:
            for instead in (f"{start} \0 x/y", f"{start}{'9' * 400}", start[:4]):
                sdp = "\r\n".join(instead if line.startswith(start) else line for line in lines)
                response = await post_offer(server, f"{video}/whep", sdp)
                assert response.status_code in (201, 400, 415), response.text
            assert (await post_offer(server, f"{video}/whep", "\r\n".join(lines))).status_code == 201

    ask()


@in_loop
async def test_private_addresses_of_viewers_are_not_called(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1)
    called: list[bytes] = []

    class Printer(asyncio.DatagramProtocol):
        """Something on a private network that a stranger names as its own address."""

        def datagram_received(self, data: bytes, addr: Any) -> None:
            called.append(data)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Printer, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    sdp = (await _sdp()).replace("a=ice-ufrag", f"a=candidate:9 1 udp 2130706431 127.0.0.1 {port} typ host\r\na=ice-ufrag")
    for networks, expected in (((), False), (("127.0.0.0/8",), True)):
        async with running(director, tmp_path, **{**LOOPBACK, "ice_networks": networks}) as server:
            assert (await post_offer(server, f"{video}/whep", sdp)).status_code == 201
            await asyncio.sleep(0.3)
            assert bool(called) is expected
    transport.close()


@in_loop
async def test_viewers_connect_though_their_addresses_are_not_believed(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1)
    settings = {**LOOPBACK, "ice_networks": ()}
    async with running(director, tmp_path, **settings) as server, rtc_viewer(server, f"{video}/whep") as seen:
        await seen.until(1)


@in_loop
async def test_without_the_extra_the_route_says_how_to_get_it(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1)
    sdp = await _sdp()
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "st2v_stream.delivery.webrtc_peer", raising=False)
        patch.setitem(sys.modules, "aiortc", None)
        async with running(director, tmp_path, **LOOPBACK) as server:
            refused = await post_offer(server, f"{video}/whep", sdp)
            assert (refused.status_code, refused.json()["error"]["code"]) == (501, "webrtc_not_installed")
            assert "st2v_stream[webrtc]" in refused.json()["error"]["message"]
            async with caller(server, headers=BEARER) as client:
                assert (await client.options(f"/v1/videos/{video}/whep")).status_code == 501


# ---------------------------------------------------------------- ICE servers


@in_loop
async def test_no_server_is_asked_unless_configured(tmp_path: Path) -> None:
    director = Filmed()
    video = director.add(1)
    made: list[dict[str, Any]] = []
    original = aioice.ice.Connection.__init__

    def spy(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(kwargs)
        original(self, *args, **kwargs)

    sdp = await _sdp()
    turn = {"ice_servers": ("turn:127.0.0.1:9?transport=udp",), "ice_username": 'a"b', "ice_credential": "c"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aioice.ice.Connection, "__init__", spy)
        async with running(director, tmp_path, **LOOPBACK) as server:
            answer = await post_offer(server, f"{video}/whep", sdp)
            assert "link" not in answer.headers
            assert all("stun_server" not in kwargs and "turn_server" not in kwargs for kwargs in made)
            assert made
    async with running(director, tmp_path, **LOOPBACK, **turn) as server:
        async with caller(server, headers=BEARER) as client:
            said = await client.options(f"/v1/videos/{video}/whep")
        assert said.status_code == 204
        assert said.headers["accept-post"] == "application/sdp"
        assert said.headers["link"] == (
            '<turn:127.0.0.1:9?transport=udp>; rel="ice-server"; username="a\\"b"; credential="c"; credential-type="password"'
        )


def test_stun_servers_are_told_without_a_password() -> None:
    config = Config(ice_servers=("stun:stun.example:3478",), ice_username="u", ice_credential="c")
    assert ice_links(config) == ['<stun:stun.example:3478>; rel="ice-server"']
    assert ice_links(Config()) == []


def test_ice_settings_are_checked_where_they_are_read(tmp_path: Path) -> None:
    environ = {"ST2V_ICE_SERVERS": "stun:a.example, turns:[::1]:5349?transport=tcp", "ST2V_ICE_NETWORKS": "10.0.0.0/8"}
    config = read_config({}, environ=environ, toml=tmp_path / "none")
    assert config.ice_servers == ("stun:a.example", "turns:[::1]:5349?transport=tcp")
    assert config.ice_networks == ("10.0.0.0/8",)
    assert "secret" not in repr(Config(ice_credential="secret"))
    for name, value in (
        ("ICE_SERVERS", "http://a"), ("ICE_SERVERS", 'stun:a>; rel="x"'), ("ICE_NETWORKS", "10.0.0.1/8"),
        ("ICE_ADDRESSES", "localhost"), ("MAX_WEBRTC_VIEWERS", "0"),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest, match=name.lower()):
            read_config({}, environ={f"ST2V_{name}": value}, toml=tmp_path / "none")


# ---------------------------------------------------------------- leaks


@pytest.mark.parametrize("count", [15, pytest.param(50, marks=pytest.mark.long)])
def test_connects_and_disconnects_leave_nothing_behind(tmp_path: Path, count: int) -> None:
    async def connect(server: Any, video: str) -> None:
        async with rtc_viewer(server, f"{video}/whep") as seen:
            await seen.until(1)
            assert (await seen.delete()).status_code == 200

    async def test() -> None:
        director = Filmed()
        video = director.add(1)
        process = psutil.Process(os.getpid())
        async with running(director, tmp_path, **LOOPBACK) as server:
            for _ in range(10):
                await connect(server, video)
            before = await _left(process)
            for _ in range(count):
                await connect(server, video)
            after = await _left(process, before)
            print(f"{before.resident_bytes / 2**20:.1f} MiB, then {after.resident_bytes / 2**20:.1f} MiB; {after}")
            assert after.tasks <= before.tasks
            assert after.descriptors <= before.descriptors
            assert after.connections == 0
            assert after.resident_bytes - before.resident_bytes < 8 * 2**20
            assert director.followers == 0
            assert server.app.state.metrics.viewers == 0

    asyncio.run(asyncio.wait_for(test(), 240))


@dataclass(frozen=True)
class Left:
    """What is there when nobody watches."""

    resident_bytes: int
    tasks: int
    descriptors: int
    connections: int


async def _left(process: psutil.Process, known: Left | None = None) -> Left:
    """Once what was closed is gone: until two looks half a second apart agree, and are no more than `known`."""
    looks: list[Left] = []
    async with asyncio.timeout(60):
        while len(looks) < 2 or not _is_settled(looks[-2], looks[-1], known):
            await asyncio.sleep(0.5)
            looks.append(_look(process))
            if len(looks) > 20:  # what is still there after ten seconds was leaked
                break
    return looks[-1]


def _is_settled(earlier: Left, later: Left, known: Left | None) -> bool:
    counts = [(left.tasks, left.descriptors, left.connections) for left in (earlier, later, known or later)]
    return counts[0] == counts[1] and all(now <= then for now, then in zip(counts[1], counts[2]))


def _look(process: psutil.Process) -> Left:
    gc.collect()
    # type(), not isinstance(): that asks every object for its __class__, and some modules' objects warn when asked anything
    connections = sum(issubclass(type(thing), RTCPeerConnection) for thing in gc.get_objects())
    return Left(process.memory_info().rss, len(asyncio.all_tasks()), process.num_fds(), connections)
