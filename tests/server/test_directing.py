"""The director's verbs over REST: what is asked of the Director, and what is answered."""

from __future__ import annotations

import asyncio
import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest
from openai import BadRequestError, ConflictError, NotFoundError, OpenAI, omit
from starlette.testclient import TestClient

from server.running import TOKEN, Running, in_loop, viewer
from server.standin import Standin
from server.test_serving import frame_numbers, live_server, make
from st2v_stream.types import AddCue, BranchVideo, Changes, CreateVideo
from st2v_stream.videos.screenplay import MAX_SCREENPLAY_BYTES, check_depth

FULL = {
    "prompt": " a blue ball ", "negative_prompt": "", "guidance_scale": 2, "num_inference_steps": 3, "seed": 7,
    "transition_chunks": 2,
}  # fmt: skip
CHANGES = Changes("a blue ball", "", 2.0, 3, 7)


def test_a_cue_is_passed_on_and_its_chunk_is_named(client: TestClient, director: Standin) -> None:
    url = f"/v1/videos/{director.add(2)}/cues"
    taken = client.post(url, json={**FULL, "from_s": 1.5}).json()
    assert director.asked == [AddCue(CHANGES, None, 1.5, 2)]
    assert taken == {
        "object": "video.cue", "video_id": "v000", "from_index": 3, "from_s": 4.0, "seq": 4, "warnings": ["a warning"],
        "cue": {
            "from_index": 3, "from_s": 4.0, "prompt": None, "negative_prompt": None, "guidance_scale": None,
            "num_inference_steps": None, "seed": 7, "transition_chunks": 2, "seq": 4,
        },
    }  # fmt: skip
    client.post(url, json={"from_index": 9, "seed": 8})
    assert director.asked[1] == AddCue(Changes(seed=8), 9)
    listed = client.get(url).json()
    assert (listed["object"], [cue["from_index"] for cue in listed["data"]]) == ("list", [3, 9])
    assert client.post(url, json={"from_index": -1}).json()["error"]["param"] == "from_index"
    assert client.post("/v1/videos/nobody/cues", json={"seed": 1}).status_code == 404
    back = {"object": "video.cue.deleted", "video_id": "v000", "seq": 4, "from_index": 3, "from_s": 4.0, "deleted": True}
    assert client.delete(f"{url}/4").json() == back
    assert [cue["seq"] for cue in client.get(url).json()["data"]] == [5]
    assert client.delete(f"{url}/4").status_code == 404


def test_cues_with_the_request(client: TestClient, director: Standin) -> None:
    cues = [{"from_s": 20, **FULL}, {"from_index": 30, "seed": 1}]
    client.post("/v1/videos", json={"prompt": "a red ball", "cues": cues})
    client.post("/v1/videos", files={"prompt": (None, "a red ball"), "cues": (None, json.dumps(cues))})
    wanted = (AddCue(CHANGES, None, 20.0, 2), AddCue(Changes(seed=1), 30))
    assert [request.cues for request in director.requests] == [wanted, wanted]
    broken = client.post("/v1/videos", files={"prompt": (None, "a red ball"), "cues": (None, "[{")})
    assert (broken.status_code, broken.json()["error"]["param"]) == (400, "cues")


def test_branch_and_redo(client: TestClient, director: Standin) -> None:
    url = f"/v1/videos/{director.add(3, ended=True)}"
    branch = client.post(url + "/branch", json={"from_index": 2, **FULL, "num_frames": None, "title": " B "}).json()
    assert director.asked[-1] == BranchVideo(2, CHANGES, 2, None, None, "B")
    assert (branch["parent_id"], branch["fork_index"], branch["status"]) == ("v000", 2, "queued")
    client.post(url + "/branch", json={"model": "testcard", "or_new_film": True})
    assert director.asked[-1] == BranchVideo(model="testcard", or_new_film=True)
    redone = client.post(url + "/redo", json={"from_index": 1, "seed": 5}).json()
    assert director.asked[-1] == (1, 5)
    assert (redone["object"], redone["from_index"], redone["video"]["id"]) == ("video.redo", 1, "v000")
    assert (redone["kept"]["parent_id"], redone["kept"]["fork_index"]) == ("v000", 1)
    assert client.post(url + "/redo", json={}).json()["error"]["param"] == "from_index"
    for verb in ("branch", "redo"):
        assert client.post(f"/v1/videos/nobody/{verb}", json={"from_index": 0}).status_code == 404


def test_the_library(client: TestClient, director: Standin) -> None:
    url = f"/v1/videos/{director.add(1)}"
    assert client.patch(url, json={"title": " At sea "}).json()["title"] == "At sea"
    assert client.patch(url, json={"when_unwatched": 30}).json()["title"] == "At sea"
    assert director.shelves["v000"].view.when_unwatched == "30"
    for body in ({}, {"title": ""}, {"title": "  "}, {"title": "x" * 201}, {"name": "x"}, {"when_unwatched": 0}):
        assert client.patch(url, json=body).status_code == 400
    director.add(1)
    assert [video["title"] for video in client.get("/v1/videos?search=sea").json()["data"]] == ["At sea"]
    client.delete(url)
    assert client.get(url).status_code == 404
    (deleted,) = client.get("/v1/videos/deleted").json()["data"]
    assert (deleted["video"]["title"], deleted["forgotten_at"] - deleted["deleted_at"]) == ("At sea", 86_400)
    assert client.post(url + "/undelete").json()["title"] == "At sea"
    assert client.get(url).status_code == 200
    assert client.get("/v1/videos/deleted").json()["data"] == []


def test_a_guest_is_told_when_the_prompt_changes_and_nothing_else(client: TestClient, director: Standin) -> None:
    video = director.add(2)
    client.post(f"/v1/videos/{video}/cues", json={"seed": 7})
    cues = client.get(f"/v1/videos/{video}/cues").json()["data"]
    link = client.post(f"/v1/videos/{video}/links", json={}).json()["url"]
    assert cues[0]["seed"] == 7
    assert client.get(f"{link}/cues").json()["data"] == [{**cue, "seed": None} for cue in cues]
    assert client.post(f"{link}/cues", json={"seed": 7}).status_code == 403
    assert client.get(f"{link}/screenplay").status_code == 403


def test_a_screenplay_goes_out_and_comes_in(client: TestClient, director: Standin) -> None:
    url = f"/v1/videos/{director.add(2, ended=True)}"
    client.post(url + "/cues", json={"seed": 7})
    screenplay = client.get(url + "/screenplay").json()
    assert (screenplay["screenplay"], screenplay["prompt"], screenplay["num_frames"]) == (1, "a red ball", 24)
    assert client.post("/v1/videos/screenplays", json=screenplay).status_code == 200
    (asked,) = director.requests
    assert asked == CreateVideo(
        "a red ball", "testcard", 24, 33, "default", "", 1.0, 6, "A film", cues=(AddCue(Changes(seed=7), None, 4.0),)
    )


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else 0


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"screenplay": 2}, "screenplay", "one of 1"),
        ({"prompt": None}, "prompt", "text"),
        ({"num_frames": "all"}, "num_frames", "whole number"),
        ({"cues": [{"from_s": -1}]}, "cues[0].from_s", "from 0"),
        ({"cues": [{"when": 3}]}, "cues[0].when", "unknown field"),
        ({"cues": deep(5)}, "cues", "at most 4 deep"),
        ({"author": "me"}, "author", "unknown field"),
        ({"title": "x" * MAX_SCREENPLAY_BYTES}, None, "too large"),
    ],
)
def test_screenplays_that_cannot_be_are_explained(
    client: TestClient, director: Standin, change: dict[str, Any], param: str, words: str
) -> None:
    body = {"screenplay": 1, "prompt": "a ball", "num_frames": 24, **change}
    response = client.post("/v1/videos/screenplays", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert words in response.json()["error"]["message"]
    assert not director.requests


def test_bytes_that_are_no_screenplay(client: TestClient) -> None:
    for raw in (b"", b"[]", b"{", b"[" * 100_000, b'{"screenplay": NaN}', b"\xff"):
        response = client.post("/v1/videos/screenplays", content=raw, headers={"content-type": "application/json"})
        assert response.status_code == 400, raw[:20]
    check_depth({"a": [{"b": 1}]}, 3)


# ---------------------------------------------------------------- the real Director behind the real API


@in_loop
async def test_a_cue_on_a_running_film_is_announced_and_then_seen(tmp_path: Path) -> None:
    async with live_server(tmp_path, seconds_per_step=0.01) as (server, client):
        video = await make(client, num_frames=80)
        async with viewer(server.watch_url(video)) as seen:
            await seen.until("progress")
            taken = (await client.post(f"/v1/videos/{video}/cues", json={"prompt": "another film"})).json()
            told = await seen.until("cue")
            assert (told["seq"], told["index"]) == (taken["seq"], taken["from_index"])
            assert all(header.index < taken["from_index"] for header, _ in seen.segments)
            await seen.until("ended")
            assert [header.index for header, _ in seen.segments] == list(range(9))
        screenplay = (await client.get(f"/v1/videos/{video}/screenplay")).json()
        again = (await client.post("/v1/videos/screenplays", json=screenplay)).json()
        async with viewer(server.watch_url(again["id"])) as seen:
            await seen.until("ended")
        chunks = [(await client.get(f"/v1/videos/{name}/chunks")).json()["data"] for name in (video, again["id"])]
        assert [chunk["hash"] for chunk in chunks[0]] == [chunk["hash"] for chunk in chunks[1]]  # the same film


@in_loop
async def test_the_screenplay_of_a_branch_makes_the_same_film(tmp_path: Path) -> None:
    async with live_server(tmp_path) as (server, client):
        cues = [{"from_s": 3, "prompt": "b", "transition_chunks": 2}, {"from_index": 7, "seed": 4}]
        parent = await make(client, num_frames=64, cues=cues)
        await ended(server, parent)
        said = {"from_index": 4, "guidance_scale": 2, "prompt": "c", "transition_chunks": 1, "num_frames": 80}
        branch = (await client.post(f"/v1/videos/{parent}/branch", json=said)).json()["id"]
        await ended(server, branch)
        await client.post(f"/v1/videos/{branch}/redo", json={"from_index": 6, "seed": 9})
        await ended(server, branch)
        screenplay = (await client.get(f"/v1/videos/{branch}/screenplay")).json()
        again = (await client.post("/v1/videos/screenplays", json=screenplay)).json()["id"]
        await ended(server, again)
        chunks = [(await client.get(f"/v1/videos/{name}/chunks")).json()["data"] for name in (parent, branch, again)]
        hashes = [[chunk["hash"] for chunk in film] for film in chunks]
        assert hashes[1] == hashes[2]
        assert hashes[0][:4] == hashes[1][:4]
        assert not set(hashes[0][4:]) & set(hashes[1])


async def ended(server: Running, video: str) -> None:
    async with viewer(server.watch_url(video)) as seen:
        await seen.until("ended")


@in_loop
async def test_watchers_of_a_redo_are_told_the_range_and_stay(tmp_path: Path) -> None:
    async with live_server(tmp_path) as (server, client):
        video = await make(client, num_frames=48)
        async with viewer(server.watch_url(video)) as seen:
            await seen.until("ended")
            before = (await client.get(f"/v1/videos/{video}/content")).content
            redone = (await client.post(f"/v1/videos/{video}/redo", json={"from_index": 2})).json()
            assert (await seen.until("reset"))["from_index"] == 2
            await seen.until("ended")
            assert [header.index for header, _ in seen.segments] == [0, 1, 2, 3, 4, 2, 3, 4]
        anew, kept = [(await client.get(f"/v1/videos/{name}/content")).content for name in (video, redone["kept"]["id"])]
        assert frame_numbers(anew) == frame_numbers(kept) == list(range(48))
        assert frames_of(kept) == frames_of(before)
        assert frames_of(anew)[:24] == frames_of(before)[:24]
        assert not set(frames_of(anew)[24:]) & set(frames_of(before))


def frames_of(mp4: bytes) -> list[bytes]:
    with av.open(io.BytesIO(mp4)) as container:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]


@in_loop
async def test_an_unchanged_openai_client_remixes_and_extends(tmp_path: Path) -> None:
    async with live_server(tmp_path) as (server, _):
        await asyncio.to_thread(use_openai, server.url)


@contextmanager
def openai_client(url: str) -> Iterator[OpenAI]:
    with warnings.catch_warnings(), OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0) as client:
        warnings.simplefilter("ignore", DeprecationWarning)  # they say that Sora ends
        yield client


def use_openai(url: str) -> None:
    with openai_client(url) as client:
        film = client.videos.create(
            prompt="a red ball", seconds="4", extra_body={"seed": 7, "cues": [{"from_s": 3, "seed": 1}]}
        )
        client.videos.poll(film.id, poll_interval_ms=50)
        remix = client.videos.poll(client.videos.remix(film.id, prompt="a blue ball").id, poll_interval_ms=50)
        assert (remix.status, remix.seconds, remix.prompt) == ("completed", "4", "a blue ball")
        extras = remix.model_extra or {}
        assert (extras["parent_id"], extras["fork_index"], extras["seed"], extras["title"]) == (film.id, 1, 7, "a blue ball")
        longer = client.videos.extend(prompt="a green ball", seconds="8", video=(film.id, b""))
        longer = client.videos.poll(longer.id, poll_interval_ms=50)
        assert (longer.status, longer.seconds) == ("completed", "12")
        assert frame_numbers(client.videos.download_content(longer.id).read()) == list(range(96))
        parents, remixed, extended = (hashes(client, name) for name in (film.id, remix.id, longer.id))
        assert (remixed[:1], extended[:3]) == (parents[:1], parents)
        assert not set(remixed[1:]) & set(parents)
        with pytest.raises(BadRequestError, match="a file cannot be extended"):
            client.videos.extend(prompt="more", seconds="4", video=b"an mp4")
        running = client.videos.create(prompt="a red ball", extra_body={"num_frames": None})
        with pytest.raises(ConflictError):
            client.videos.extend(prompt="more", seconds="4", video=omit, extra_body={"video": {"id": running.id}})  # type: ignore[arg-type]
        with pytest.raises(NotFoundError):
            client.videos.remix("video_nobody", prompt="more")
        client.videos.delete(running.id)


def hashes(client: OpenAI, video: str) -> list[str]:
    chunks: Any = client.get(f"/videos/{video}/chunks", cast_to=object)
    return [chunk["hash"] for chunk in chunks["data"]]
