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
async def test_only_the_owner_may(tmp_path: Path) -> None:
    async with live_server(tmp_path) as (server, http):
        film = (await http.post("/v1/videos", json={"prompt": "a numbered film", "num_frames": 16})).json()["id"]
        link = (await http.post(f"/v1/videos/{film}/links", json={})).json()["url"]
        await asyncio.sleep(0)
        async with httpx.AsyncClient(base_url=server.url) as stranger:
            assert (await stranger.get(f"/v1/videos/{film}/manifest")).status_code == 401
            assert (await stranger.get(f"{link}/manifest")).status_code == 403
            assert (await stranger.post(f"{link}/verify", json={})).status_code == 403
        assert (await http.get(f"/v1/videos/{film}/manifest", headers=BEARER)).status_code == 200
