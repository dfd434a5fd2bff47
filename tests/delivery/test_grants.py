from __future__ import annotations

import asyncio
import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from server.running import BEARER, TOKEN, Running, Viewer, in_loop, running
from server.standin import Standin
from starlette.testclient import TestClient

from st2v_stream.config import Config
from st2v_stream.delivery.grants import LONGEST_S, Grant, GrantKey, Revocations, new_link_id, require_readable
from st2v_stream.delivery.protocol import SUBPROTOCOL
from st2v_stream.errors import Forbidden, NotFound, StoreError, Unauthorized
from st2v_stream.server.app import create_app

KEY = GrantKey("a-token-for-tests-0123456789")
GRANT = Grant("v1_a-B", "watch", 1000, new_link_id())


def test_round_trip() -> None:
    text = KEY.sign(GRANT)
    assert "/" not in text
    assert KEY.read(text, now_s=999) == GRANT


def test_expires_to_the_second() -> None:
    with pytest.raises(Unauthorized, match="expired"):
        KEY.read(KEY.sign(GRANT), now_s=1000)


def test_every_changed_character_is_noticed() -> None:
    text = KEY.sign(GRANT)
    for place in range(len(text)):
        changed = text[:place] + ("a" if text[place] != "a" else "b") + text[place + 1 :]
        with pytest.raises(Unauthorized):
            KEY.read(changed, now_s=0)


@pytest.mark.parametrize(
    "text", ["", "v1", "v1.a.watch.1.x.y", "v1.a.watch.9999." + "0" * 19 + ".00000000." + "A" * 43, "é" * 80, "v1\n"]
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(Unauthorized):
        KEY.read(text, now_s=0)


def test_another_token_ends_every_grant() -> None:
    with pytest.raises(Unauthorized):
        GrantKey("another-token-for-tests-012").read(KEY.sign(GRANT), now_s=0)


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "/content",
        "/chunks",
        "/cues",
        "/events",
        "/watch",
        "/thumbnails/0.jpg",
        "/segments/ab.m4s",
        "/init/ab.mp4",
        "/index.m3u8",
        "/preview.m3u8",
        "/enhanced.m3u8",
    ],
)
def test_reads_its_own_video(rest: str) -> None:
    require_readable(GRANT, "GET", "/v1/videos/v1_a-B" + rest)
    require_readable(GRANT, "HEAD", "/v1/videos/v1_a-B" + rest)


@pytest.mark.parametrize(
    ("method", "rest"),
    [("POST", "/whep"), ("OPTIONS", "/whep"), ("DELETE", "/whep/abc"), ("PATCH", "/whep/abc"), ("OPTIONS", "/whep/abc")],
)
def test_watching_by_webrtc_is_watching(method: str, rest: str) -> None:
    require_readable(GRANT, method, "/v1/videos/v1_a-B" + rest)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v1/videos/v1_a-B/whep"),
        ("POST", "/v1/videos/v1_a-B/whep/abc"),
        ("POST", "/v1/videos/other/whep"),
        ("DELETE", "/v1/videos/v1_a-B/whep/abc/def"),
        ("DELETE", "/v1/videos/v1_a-B/links"),
        ("DELETE", "/v1/videos/v1_a-B/links/abc"),
        ("GET", "/v1/videos/v1_a-B/other.m3u8"),
        ("GET", "/v1/videos/other/content"),
        ("GET", "/v1/videos/v1_a-Bx/content"),
        ("GET", "/v1/videos"),
        ("GET", "/v1/videos/v1_a-B/manifest"),
        ("GET", "/v1/videos/v1_a-B/content/../../other/content"),
        ("GET", "/v1/videos/v1_a-B/segments/../../../other"),
        ("GET", "/v1/models"),
        *(("POST", f"/v1/videos/v1_a-B/{verb}") for verb in ("stop", "continue", "cues", "branch", "redo", "remix", "verify")),
        ("POST", "/v1/videos/v1_a-B/undelete"),
        ("DELETE", "/v1/videos/v1_a-B/cues/3"),
        ("GET", "/v1/videos/v1_a-B/bundle"),
        ("POST", "/v1/videos/bundles"),
        ("POST", "/v1/videos/screenplays"),
        ("POST", "/v1/videos/extensions"),
        ("POST", "/v1/videos/v1_a-B/links"),
        ("DELETE", "/v1/videos/v1_a-B"),
        ("PATCH", "/v1/videos/v1_a-B"),
    ],
)
def test_allows_nothing_else(method: str, path: str) -> None:
    with pytest.raises(Forbidden):
        require_readable(GRANT, method, path)


def test_an_unknown_view_allows_nothing() -> None:
    with pytest.raises(Forbidden):
        require_readable(Grant("v", "edit", 1000), "GET", "/v1/videos/v/content")


# ---------------------------------------------------------------- links taken back


def made(key: GrantKey, video_id: str = "v000", lives_s: int = 60) -> str:
    return key.sign(key.new(video_id, lives_s))


def require_open(key: GrantKey, text: str) -> Grant:
    return key.read(text, now_s=time.time())


def require_taken_back(key: GrantKey, text: str) -> None:
    with pytest.raises(Unauthorized, match="taken back"):
        key.read(text, now_s=time.time())


def test_no_link_lives_longer_than_what_is_remembered() -> None:
    assert KEY.new("v", 10 * LONGEST_S).expires_at_s <= time.time() + LONGEST_S


def test_two_links_of_one_second_are_two() -> None:
    assert len({KEY.new("v", 60).link_id for _ in range(50)}) == 50


def test_one_link_is_taken_back_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "revoked"
    key = GrantKey(TOKEN, Revocations.open(file))
    first, second = made(key), made(key)
    asyncio.run(key.revocations.revoke("v000", require_open(key, first).link_id))
    for known in (key, GrantKey(TOKEN, Revocations.open(file))):  # at once, and after a restart
        require_taken_back(known, first)
        require_open(known, second)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_links_id_says_nothing_about_another_video() -> None:
    key = GrantKey(TOKEN)
    mine = made(key, "mine")
    asyncio.run(key.revocations.revoke("other", require_open(key, mine).link_id))
    require_open(key, mine)


def test_all_links_of_a_video_are_taken_back_and_new_ones_are_good(tmp_path: Path) -> None:
    file = tmp_path / "revoked"
    key = GrantKey(TOKEN, Revocations.open(file))
    old, other = [made(key) for _ in range(3)], made(key, "other")
    asyncio.run(key.revocations.revoke_all("v000"))
    new = made(key)  # in the same millisecond, perhaps
    for known in (key, GrantKey(TOKEN, Revocations.open(file))):
        for text in old:
            require_taken_back(known, text)
        require_open(known, new)
        require_open(known, other)


def test_what_has_expired_anyway_is_forgotten_at_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "revoked"
    long_ago_ms = int((time.time() - LONGEST_S - 60) * 1000)
    ancient, recent = f"{long_ago_ms:011x}00000000", new_link_id()
    lines = [{"video": "v", "link": ancient}, {"video": "v", "before_ms": long_ago_ms}, {"video": "v", "link": recent}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    Revocations.open(file)
    assert [json.loads(line) for line in file.read_text().splitlines()] == [lines[2]]


def test_a_line_cut_short_by_a_crash_harms_no_other(tmp_path: Path) -> None:
    file = tmp_path / "revoked"
    key = GrantKey(TOKEN, Revocations.open(file))
    first, second = made(key), made(key)
    asyncio.run(key.revocations.revoke("v000", require_open(key, first).link_id))
    with file.open("a") as opened:
        opened.write('{"video": "v000", "li')
    asyncio.run(key.revocations.revoke("v000", require_open(key, second).link_id))
    known = GrantKey(TOKEN, Revocations.open(file))
    require_taken_back(known, first)
    require_taken_back(known, second)


def test_a_list_that_cannot_be_kept_is_said_and_holds_all_the_same(tmp_path: Path) -> None:
    key = GrantKey(TOKEN, Revocations.open(tmp_path / "revoked"))
    text = made(key)
    (tmp_path / "revoked").mkdir()
    with pytest.raises(StoreError, match="cannot be kept"):
        asyncio.run(key.revocations.revoke("v000", require_open(key, text).link_id))
    require_taken_back(key, text)
    with pytest.raises(StoreError, match="cannot be kept"):
        Revocations.open(tmp_path / "revoked")


@pytest.mark.parametrize("link_id", ["", "abc", "0" * 18, "0" * 18 + "\n", "G" * 19])
def test_nonsense_is_no_link(link_id: str) -> None:
    with pytest.raises(NotFound, match="no such link"):
        asyncio.run(Revocations().revoke("v000", link_id))


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[tuple[TestClient, Standin]]:
    director = Standin()
    app = create_app(Config(data_dir=tmp_path, token=TOKEN, model="testcard"), director)
    with TestClient(app, base_url="http://127.0.0.1:8000", headers=BEARER) as client:
        yield client, director


def test_a_link_serves_page_playlist_and_download_until_it_is_taken_back(owner: tuple[TestClient, Standin]) -> None:
    client, director = owner
    video = director.add(1)
    link: dict[str, Any] = client.post(f"/v1/videos/{video}/links", json={"expires_in_s": 60}).json()
    assert link["video_id"] == video
    assert link["page_url"] == f"/#grant={link['url'].split('/')[2]}&/video/{video}"
    stranger = httpx.Headers()
    opened = (link["url"], link["playlist_url"], link["url"] + "/chunks", link["url"] + "/thumbnails/0.jpg")
    del client.headers["authorization"]
    for address in opened:
        assert client.get(address, headers=stranger).status_code == 200, address
    assert client.delete(f"{link['url']}/links/{link['id']}").status_code == 403
    assert client.delete(f"/v1/videos/{video}/links/{link['id']}").status_code == 401
    answer = client.delete(f"/v1/videos/{video}/links/{link['id']}", headers=BEARER).json()
    assert answer == {"id": link["id"], "object": "video.link.revoked", "video_id": video, "revoked": True}
    for address in opened:
        response = client.get(address)
        assert response.status_code == 401
        assert "taken back" in response.json()["error"]["message"]


def test_all_links_at_once_over_rest(owner: tuple[TestClient, Standin]) -> None:
    client, director = owner
    video = director.add(1)
    urls = [client.post(f"/v1/videos/{video}/links", json={}).json()["url"] for _ in range(2)]
    assert client.delete(f"/v1/videos/{video}/links").json()["id"] is None
    assert [client.get(url).status_code for url in urls] == [401, 401]
    assert client.get(client.post(f"/v1/videos/{video}/links", json={}).json()["url"]).status_code == 200
    assert client.delete("/v1/videos/nonsense/links").status_code == 404
    assert client.delete(f"/v1/videos/{video}/links/nonsense").status_code == 404


async def share(server: Running, http: httpx.AsyncClient, video: str) -> dict[str, Any]:
    answer = await http.post(f"{server.url}/v1/videos/{video}/links", json={}, headers=BEARER)
    link: dict[str, Any] = answer.json()
    return link


@in_loop
async def test_who_is_watching_is_shown_out(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(1)
    async with running(director, tmp_path) as server, httpx.AsyncClient() as http:
        link = await share(server, http, video)
        address = f"ws://127.0.0.1:{server.port}{link['url']}/watch"
        async with websockets.connect(address, subprotocols=[websockets.Subprotocol(SUBPROTOCOL)]) as socket:
            seen = Viewer(socket)
            await seen.send(type="hello")
            await seen.until_segments(1)
            await http.delete(f"{server.url}/v1/videos/{video}/links/{link['id']}", headers=BEARER)
            await socket.wait_closed()
            assert socket.close_code == 4003
            assert socket.close_reason == "this link was taken back"
        async with asyncio.timeout(5):
            while server.app.state.metrics.viewers or director.followers:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@in_loop
async def test_events_end_with_the_link(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(1)
    async with running(director, tmp_path) as server, httpx.AsyncClient() as http:
        link = await share(server, http, video)
        async with http.stream("GET", f"{server.url}{link['url']}/events") as events:
            lines = events.aiter_lines()
            while await anext(lines) != "event: state":
                pass
            await http.delete(f"{server.url}/v1/videos/{video}/links", headers=BEARER)
            director.segment(video, 1)
            rest = [line async for line in lines]
    assert not [line for line in rest if line == "event: segment"], "nothing that came after is told"
