"""`/manifest` and `/verify` on the real server, by the client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import av
import httpx
import pytest

from server.running import BEARER, TOKEN, in_loop
from server.test_serving import live_server
from st2v_stream.client import Client
from st2v_stream.errors import InvalidRequest, NotFound
from st2v_stream.server import provenance
from st2v_stream.store import fsck
from st2v_stream.videos import bundles
from st2v_stream.videos.provenance import check_chain


@in_loop
async def test_manifest_and_verify_by_the_client(tmp_path: Path) -> None:
    async with live_server(tmp_path) as (server, _):
        client = Client(server.url, TOKEN)
        film = await client.create("a numbered film", num_frames=40)
        async for _chunk in client.watch(film["id"]):
            pass
        manifest = await client.manifest(film["id"])
        path = await client.download(film["id"], tmp_path / "film.mp4")
        with av.open(path) as file:
            record = json.loads(file.metadata["comment"])
        assert (record["video"], record["chunks"], record["manifest_head"]) == (film["id"], 4, manifest["head"])
        check_chain(manifest)
        assert len(manifest["chunks"]) == 4
        found = [each async for each in client.verify(film["id"], 1, 2)]
        assert [(each["index"], each["verdict"]) for each in found] == [(1, "same"), (2, "same")]
        assert found[0]["frames_sha256"] == found[0]["made_frames_sha256"] == manifest["chunks"][1]["frames_sha256"]
        with pytest.raises(InvalidRequest, match="no such chunks"):
            [each async for each in client.verify(film["id"], 3, 9)]
        with pytest.raises(NotFound):
            await client.manifest("video_nobody")


@in_loop
async def test_it_says_that_it_still_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "HEARTBEAT_S", 0.02)
    async with live_server(tmp_path, seconds_per_step=0.02) as (server, http):
        client = Client(server.url, TOKEN)
        film = await client.create("a numbered film", num_frames=24)
        async for _chunk in client.watch(film["id"]):
            pass
        answer = await http.post(f"/v1/videos/{film['id']}/verify", json={})
        lines = answer.text.splitlines()
        assert lines.count("") >= 2
        assert [each["verdict"] async for each in client.verify(film["id"])] == ["same", "same"]


@in_loop
async def test_a_film_is_carried_from_server_to_server_while_it_grows(tmp_path: Path) -> None:
    file = tmp_path / "film.st2v"
    async with live_server(tmp_path / "here", seconds_per_step=0.002) as (server, http):
        client = Client(server.url, TOKEN)
        film = await client.create("a numbered film", num_frames=None, title="At sea")
        await client.cue(film["id"], from_index=900, seed=5)
        cursor = 0
        async for chunk in client.watch(film["id"]):
            cursor = chunk.seq
            if chunk.index == 3:
                break
        await client.export(film["id"], file)
        await client.stop(film["id"])
        async for _chunk in client.watch(film["id"], cursor=cursor):
            pass
        with pytest.raises(NotFound):
            await client.export("video_nobody", tmp_path / "none.st2v")
        head = await http.head(f"/v1/videos/{film['id']}/bundle")
        assert (head.status_code, 'filename="At sea.st2v"' in head.headers["content-disposition"]) == (200, True)
        here, whole = await client.manifest(film["id"]), await http.get(f"/v1/videos/{film['id']}/bundle")
        assert (await http.get(f"/v1/videos/{film['id']}/bundle")).content == whole.content, "the same film, the same bytes"
    async with live_server(tmp_path / "there") as (server, http):
        client = Client(server.url, TOKEN)
        taken = await client.import_(file)
        assert (taken["id"], taken["state"], taken["title"]) == (film["id"], "stopped", "At sea")
        assert taken["chunks"] >= 4
        there = await client.manifest(film["id"])
        assert there["chunks"] == here["chunks"][: taken["chunks"]]
        assert [cue["from_index"] for cue in await client.cues(film["id"])] == [900]
        await client.continue_(film["id"], 8)
        assert [each["verdict"] async for each in client.verify(film["id"], taken["chunks"] - 1)] == ["same"]
        again = (await http.post("/v1/videos/bundles", content=whole.content)).json()
        assert again["id"] != film["id"]
        assert not list((tmp_path / "there" / "tmp").iterdir())


@in_loop
async def test_a_bundle_that_does_not_arrive_whole_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with live_server(tmp_path) as (server, http):
        film = (await http.post("/v1/videos", json={"prompt": "a numbered film", "num_frames": 40})).json()["id"]
        async for _chunk in Client(server.url, TOKEN).watch(film):
            pass
        bundle = (await http.get(f"/v1/videos/{film}/bundle")).content
        for sent in (b"no zip at all", bundle[:-30], bundle.replace(b"moof", b"moov", 1)):
            answer = await http.post("/v1/videos/bundles", content=sent)
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
        head = f"POST /v1/videos/bundles HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"{head}Content-Length: {len(bundle)}\r\n\r\n".encode() + bundle[: len(bundle) // 2])
        await writer.drain()
        async with asyncio.timeout(20):
            while not list((tmp_path / "tmp").iterdir()):  # noqa: ASYNC110 - a folder says nothing
                await asyncio.sleep(0.02)
            writer.close()
            while list((tmp_path / "tmp").iterdir()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        monkeypatch.setattr(bundles, "MAX_BUNDLE_BYTES", 1000)
        assert "too large" in (await http.post("/v1/videos/bundles", content=bundle)).json()["error"]["message"]
        assert [video["id"] for video in (await http.get("/v1/videos")).json()["data"]] == [film]
    assert fsck.check(tmp_path).findings == ()


@in_loop
async def test_only_the_owner_may(tmp_path: Path) -> None:
    async with live_server(tmp_path) as (server, http):
        film = (await http.post("/v1/videos", json={"prompt": "a numbered film", "num_frames": 16})).json()["id"]
        link = (await http.post(f"/v1/videos/{film}/links", json={})).json()["url"]
        await asyncio.sleep(0)
        async with httpx.AsyncClient(base_url=server.url) as stranger:
            assert (await stranger.get(f"/v1/videos/{film}/manifest")).status_code == 401
            assert (await stranger.get(f"{link}/manifest")).status_code == 403
            assert (await stranger.post(f"{link}/verify", json={})).status_code == 403
            assert (await stranger.get(f"/v1/videos/{film}/bundle")).status_code == 401
            assert (await stranger.get(f"{link}/bundle")).status_code == 403
            assert (await stranger.post("/v1/videos/bundles", content=b"")).status_code == 401
        assert (await http.get(f"/v1/videos/{film}/manifest", headers=BEARER)).status_code == 200
