"""The whole server on the test card: an unchanged `openai` client, growing downloads, event streams, the process itself."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from openai import NotFoundError, OpenAI
from PIL import Image

from server.running import BEARER, TOKEN, Running, in_loop, running, viewer
from server.standin import Standin
from st2v_stream.config import Config
from st2v_stream.errors import InvalidRequest
from st2v_stream.generators.testcard import TestCard, read_frame_number
from st2v_stream.server.listen import bind
from st2v_stream.types import ModelEntry
from st2v_stream.videos.live import Live

ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def live_server(data_dir: Path, *, seconds_per_step: float = 0.0) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    """A server with the real Director, and a client with the token."""
    card = TestCard(seconds_per_step=seconds_per_step)
    config = Config(data_dir=data_dir, token=TOKEN, model="testcard")
    async with (
        Live.open(config, {"testcard": ModelEntry(card.card, lambda: card)}) as live,
        running(live, data_dir) as server,
        httpx.AsyncClient(base_url=server.url, headers=BEARER, timeout=10) as client,
    ):
        yield server, client


async def make(client: httpx.AsyncClient, **fields: Any) -> str:
    response = await client.post("/v1/videos", json={"prompt": "a numbered film", **fields})
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


def frame_numbers(mp4: bytes) -> list[int]:
    with av.open(io.BytesIO(mp4)) as container:
        return [read_frame_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


@in_loop
async def test_an_unchanged_openai_client(tmp_path: Path) -> None:
    async with live_server(tmp_path) as (server, _):
        await asyncio.to_thread(use_openai, server.url)


def use_openai(url: str) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # they say that Sora ends
    with OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0) as client:
        video = client.videos.create(prompt="a red ball", seconds="4", model="testcard")
        assert (video.object, video.model, video.status) == ("video", "testcard", "queued")
        video = client.videos.poll(video.id, poll_interval_ms=50)
        assert (video.status, video.progress, video.seconds) == ("completed", 100, "4")
        second = client.videos.create(prompt="a blue ball", extra_body={"num_frames": 16, "seed": 7})
        assert [listed.id for listed in client.videos.list(limit=1)] == [second.id, video.id]
        assert frame_numbers(client.videos.download_content(video.id).read()) == list(range(32))
        assert client.videos.download_content(video.id, variant="thumbnail").read().startswith(b"\xff\xd8")
        sheet = Image.open(io.BytesIO(client.videos.download_content(video.id, variant="spritesheet").read()))
        assert (sheet.format, sheet.size) == ("JPEG", (3 * 160, 120)), "three chunks of 256x192"
        assert [model.id for model in client.models.list()] == ["testcard"]
        assert client.videos.delete(video.id).deleted
        with pytest.raises(NotFoundError) as gone:
            client.videos.retrieve(video.id)
        assert gone.value.code == "not_found"


@in_loop
async def test_a_film_is_watched_from_its_first_chunk_to_its_last(tmp_path: Path) -> None:
    async with live_server(tmp_path, seconds_per_step=0.002) as (server, client):
        video = await make(client, num_frames=64)
        async with viewer(server.watch_url(video)) as seen:
            await seen.until("ended")
            film = seen.inits[1] + b"".join(payload for _, payload in seen.segments)
            assert frame_numbers(film) == list(range(64))
            await client.post(f"/v1/videos/{video}/continue", json={"num_frames": 16})
            await seen.until("ended")
            film = seen.inits[1] + b"".join(payload for _, payload in seen.segments)
            assert frame_numbers(film) == list(range(80))
            await client.delete(f"/v1/videos/{video}")
            assert await seen.closed() == 4001


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")
@in_loop
async def test_ffprobe_has_no_word_against_the_download_of_a_growing_film(tmp_path: Path) -> None:
    async with live_server(tmp_path, seconds_per_step=0.002) as (server, client):
        video = await make(client, num_frames=None, title="ball")
        async with viewer(server.watch_url(video)) as seen:
            await seen.until_segments(3)
        path = tmp_path / "download.mp4"
        path.write_bytes((await client.get(f"/v1/videos/{video}/content")).content)
        await client.post(f"/v1/videos/{video}/stop")
    command = ["ffprobe", "-v", "warning", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"]
    told = await asyncio.to_thread(subprocess.run, [*command, path], capture_output=True, text=True, check=True)
    assert told.stderr == ""
    assert int(told.stdout) == len(frame_numbers(path.read_bytes())) >= 32


@in_loop
async def test_content_is_whole_at_every_moment_and_has_ranges(tmp_path: Path) -> None:
    async with live_server(tmp_path, seconds_per_step=0.002) as (server, client):
        video = await make(client, num_frames=None, title="Grün / ../ball")
        url = f"/v1/videos/{video}/content"
        async with viewer(server.watch_url(video)) as seen:
            await seen.until_segments(2)
            growing = await client.get(url)
            await seen.until_segments(4)
            later = await client.get(url)
            await client.post(f"/v1/videos/{video}/stop")
            await seen.until("ended")
        for response in (growing, later):
            numbers = frame_numbers(response.content)
            assert numbers == list(range(len(numbers)))
        assert len(frame_numbers(later.content)) > len(frame_numbers(growing.content)) >= 24
        assert later.headers["etag"] != growing.headers["etag"]
        disposition = growing.headers["content-disposition"]
        assert disposition == "attachment; filename=\"Grun ball.mp4\"; filename*=UTF-8''Gr%C3%BCn%20ball.mp4"

        whole = await client.get(url)
        size, etag = len(whole.content), whole.headers["etag"]
        assert (await client.get(url, headers={"If-None-Match": etag})).status_code == 304
        for asked, first, end in (("bytes=0-99", 0, 100), ("bytes=100-", 100, size), ("bytes=-50", size - 50, size)):
            part = await client.get(url, headers={"Range": asked, "If-Range": etag})
            assert (part.status_code, part.content) == (206, whole.content[first:end])
            assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{size}"
        assert (await client.get(url, headers={"Range": "bytes=0-9", "If-Range": growing.headers["etag"]})).status_code == 200
        assert (await client.get(url, headers={"Range": f"bytes={size}-"})).status_code == 416
        head = await client.head(url)
        assert (head.headers["content-length"], head.content) == (str(size), b"")
        assert (await client.get(url + "?rendition=enhanced")).status_code == 404
        assert len(list((tmp_path / "cache").glob("*.mp4"))) == 1, "those that were shorter are gone"


@in_loop
async def test_events_follow_and_go_on_where_they_were_cut(tmp_path: Path) -> None:
    director = Standin()
    video = director.add(3)
    async with running(director, tmp_path) as server, httpx.AsyncClient(base_url=server.url, headers=BEARER) as client:
        url = f"/v1/videos/{video}/events"
        async with client.stream("GET", url) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            events = read_events(stream)
            first = [await anext(events) for _ in range(4)]
            director.segment(video, 3)
            first.append(await anext(events))
        assert [(name, seq) for name, seq, _ in first] == [
            ("segment", 2), ("segment", 3), ("segment", 4), ("state", 4), ("segment", 5),
        ]  # fmt: skip
        assert first[0][2]["url"] == f"segments/{first[0][2]['hash']}.m4s"
        async with client.stream("GET", url, headers={"Last-Event-ID": "3"}) as stream:
            events = read_events(stream)
            assert [(await anext(events))[1] for _ in range(2)] == [4, 5]
            await director.delete(video)
            assert await anext(events, None) is None
        assert (await client.get(url)).status_code == 404
        other = director.add(1)
        assert (await client.get(f"/v1/videos/{other}/events?cursor=99")).status_code == 400
        async with client.stream("GET", f"/v1/videos/{other}/events?cursor=1") as stream:
            events = read_events(stream)
            assert (await anext(events))[1] == 2
            server.server.should_exit = True
            assert await anext(events, None) is None
    assert director.followers == 0


async def read_events(stream: httpx.Response) -> AsyncIterator[tuple[str, int | None, Any]]:
    fields: dict[str, str] = {}
    async for line in stream.aiter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield fields["event"], int(fields["id"]) if "id" in fields else None, json.loads(fields["data"])
            fields = {}


def test_a_port_in_use_is_explained() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidRequest, match=rf"port {port} is in use .* --port {port + 1}, or --port 0"):
            bind("127.0.0.1", port)
    with pytest.raises(InvalidRequest, match=r"cannot listen on 203\.0\.113\.7"):
        bind("203.0.113.7", 0)


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP, "asyncio sets TCP_NODELAY only where it sees this"


PROGRAM = """
import asyncio, sys, time
from pathlib import Path
from st2v_stream.config import Config
from st2v_stream.generators.testcard import TestCard
from st2v_stream.server.app import serve
from st2v_stream.types import ModelEntry

def load():
    time.sleep(1)
    return TestCard()

config = Config(port=0, data_dir=Path(sys.argv[1]), model="testcard")
asyncio.run(serve(config, {"testcard": ModelEntry(TestCard().card, load)}))
print("torch" in sys.modules, "closed")
"""


def test_the_process_answers_while_the_model_loads_and_ends_cleanly(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        link = re.search(r"(http://127\.0\.0\.1:\d+)/#token=(\S+)$", ready)
        assert link, ready
        assert (tmp_path / "token").read_text().strip() == link[2]
        with httpx.Client(base_url=link[1], headers={"Authorization": f"Bearer {link[2]}"}) as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/v1/system").json()["ready"] is False
            assert client.get("/readyz").status_code == 503
            assert client.post("/v1/videos", json={"prompt": "x", "num_frames": None}).json()["status"] == "queued"
            asyncio.run(watch_to_the_end(process, link[1], client.get("/v1/videos").json()["data"][0]["id"], link[2]))
        out, _ = process.communicate(timeout=8)
        assert process.returncode == 0
        assert out.strip() == "False closed"
    finally:
        process.kill()
        process.wait()


async def watch_to_the_end(process: subprocess.Popen[str], url: str, video: str, token: str) -> None:
    """A viewer sees frames, then SIGTERM, then 1012."""
    async with viewer(url.replace("http", "ws") + f"/v1/videos/{video}/watch", token=token) as seen:
        await seen.until_segments(1)
        os.kill(process.pid, signal.SIGTERM)
        assert await seen.closed() == 1012


def test_importing_the_application_loads_no_torch() -> None:
    code = "import st2v_stream.server.app, sys; print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
