"""Making films sharp over REST, WebSocket and events, through the client, on a real Director."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from store.test_crash import quick_folder
from videos.lagging import Lagging
from videos.living import living, small_card

from server.running import TOKEN, in_loop, running
from server.standin import Standin
from st2v_stream.client import Client
from st2v_stream.errors import Conflict, InvalidRequest
from st2v_stream.types import EnhanceVideo, ModelEntry


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


@asynccontextmanager
async def a_client(data_dir: Path, *, with_enhancer: bool = True, **settings: Any) -> AsyncIterator[Client]:
    card, enhancer = small_card(seconds_per_step=0.001), Lagging(seconds_per_step=0.002)
    entry = ModelEntry(card.card, lambda: card, (lambda: enhancer) if with_enhancer else None)
    async with (
        living(data_dir, models={"testcard": entry}, real=True, **settings) as live,
        running(live, data_dir) as server,
        Client(server.url, TOKEN) as client,
    ):
        yield client


@in_loop
async def test_a_film_sharpens_while_it_is_watched(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client:
        film = await client.create("a film", num_frames=40)
        assert (film["enhance"], film["enhancer"], film["enhanced_frames"], film["enhance_error"]) == (
            "watched",
            "enhancer",
            0,
            None,
        )
        sharp, messages = dict[int, bytes](), list[Mapping[str, Any]]()
        watching = client.watch(film["id"], on_event=messages.append, until_ended=False)
        async with aclosing(watching):
            async for chunk in watching:
                if chunk.rendition == "enhanced":
                    sharp[chunk.index] = chunk.init
                    assert chunk.decode().shape[1:3] == (192, 256), "64x48, made twice as large, then enlarged for players"
                if len(sharp) == 4:
                    break
        assert len(set(sharp.values())) == 1
        progress = [message for message in messages if message["type"] == "progress"]
        assert {message["rendition"] for message in progress} == {"preview", "enhanced"}
        film = await client.get(film["id"])
        assert (film["frames"], film["enhanced_frames"], film["enhanced_prefix_frames"]) == (40, 40, 40)
        path = tmp_path / "film.mp4"
        await client.download(film["id"], path)
        assert path.stat().st_size > 0


@in_loop
async def test_it_is_asked_for_taken_back_and_refused(tmp_path: Path) -> None:
    async with a_client(tmp_path, enhance="none") as client:
        film = await client.create("a film", num_frames=40)
        assert film["enhance"] == "none"
        async for _ in client.watch(film["id"]):
            pass
        await client.enhance(film["id"], from_s=2.0, to_s=3.0)
        while (await client.get(film["id"]))["enhanced_frames"] < 8:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (await client.get(film["id"]))["enhanced_prefix_frames"] == 0
        with pytest.raises(InvalidRequest):
            await client.enhance(film["id"], from_index=99)
        await client.enhance(film["id"])
        assert (await client.edit(film["id"], enhance="idle"))["enhance"] == "idle"
        taken_back = await client._ask("DELETE", f"/v1/videos/{film['id']}/enhance", None)
        assert taken_back["enhance"] == "none"
    async with a_client(tmp_path, with_enhancer=False) as client:
        with pytest.raises(Conflict):
            await client.enhance(film["id"])
        lost = await client.create("a film", num_frames=16, enhance="all")
        assert (lost["enhancer"], len(lost["warnings"])) == (None, 1)


def test_what_is_asked_of_the_director(client: TestClient, director: Standin) -> None:
    video = director.add(3)
    client.post("/v1/videos", json={"prompt": "a red ball", "enhance": "idle"})
    assert director.requests[-1].enhance == "idle"
    answer = client.post(f"/v1/videos/{video}/enhance", json={"from_s": 1.5, "to_index": 3})
    assert (answer.status_code, answer.json()["id"]) == (200, video)
    assert director.asked[-1] == EnhanceVideo(from_s=1.5, to_index=3)
    assert client.patch(f"/v1/videos/{video}", json={"enhance": "all"}).json()["enhance"] == "all"
    assert client.patch(f"/v1/videos/{video}", json={"enhance": "soon"}).json()["error"]["param"] == "enhance"
    assert client.delete(f"/v1/videos/{video}/enhance").json()["enhance"] == "none"
    director.state(video, state="stopped", ended_by="stopped")
    more = client.post(f"/v1/videos/{video}/continue", content=json.dumps({"num_frames": 8, "enhance": "watched"}))
    assert more.json()["enhance"] == "watched"
