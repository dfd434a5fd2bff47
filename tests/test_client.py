"""`st2v_stream.client` against the real server on the test card."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from server.running import TOKEN, in_loop, running

from st2v_stream.client import Client, WatchedChunk
from st2v_stream.config import Config
from st2v_stream.errors import Conflict, InvalidRequest, NotFound, NotReady, Unauthorized
from st2v_stream.generators.testcard import TestCard, read_frame_number
from st2v_stream.types import ModelEntry
from st2v_stream.videos.live import Live

STEP_S = 0.004


@asynccontextmanager
async def served(data_dir: Path, **settings: Any) -> AsyncIterator[str]:
    card = TestCard(64, 48, seconds_per_step=STEP_S)
    config = Config(data_dir=data_dir, model="testcard")
    async with (
        Live.open(config, {"testcard": ModelEntry(card.card, lambda: card)}) as live,
        running(live, data_dir, **settings) as server,
    ):
        yield server.url


@asynccontextmanager
async def a_client(data_dir: Path) -> AsyncIterator[Client]:
    async with served(data_dir) as url, Client(url, TOKEN) as client:
        yield client


async def watched(client: Client, video_id: str, **options: Any) -> list[WatchedChunk]:
    return [chunk async for chunk in client.watch(video_id, **options)]


def numbers(chunk: WatchedChunk) -> list[int]:
    return [read_frame_number(frame) for frame in chunk.decode()]


class Cutter:
    """A way to a server: the first connections are cut after so many bytes from there, later ones last."""

    def __init__(self, cut_after_bytes: list[int]) -> None:
        self._limits = cut_after_bytes
        self.server_port = 0
        self.cuts = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Its own host and port."""
        listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        listening.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limit = self._limits.pop(0) if self._limits else None
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:  # the server is away
            writer.transport.abort()
            return
        up = asyncio.create_task(self._pass(reader, server_writer, None))
        with suppress(ConnectionError):
            await self._pass(server_reader, writer, limit)
        self.cuts += limit is not None
        up.cancel()
        await asyncio.gather(up, return_exceptions=True)
        for each in (writer, server_writer):
            each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> None:
        while piece := await reader.read(4096 if limit is None else min(4096, limit)):
            writer.write(piece)
            await writer.drain()
            if limit is not None and (limit := limit - len(piece)) <= 0:
                return


@in_loop
async def test_a_film_is_made_and_watched_to_its_end(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client:
        film = await client.create("a numbered film", num_frames=40, seed=7, title="at sea")
        assert (film["seed"], film["title"], film["num_frames"]) == (7, "at sea", 40)
        chunks = await watched(client, film["id"])
        assert [(chunk.index, chunk.start, chunk.frames) for chunk in chunks] == [
            (0, 0, 16),
            (1, 16, 8),
            (2, 24, 8),
            (3, 32, 8),
        ]
        assert [number for chunk in chunks for number in numbers(chunk)] == list(range(40))
        again = await watched(client, film["id"], cursor=chunks[1].seq)
        assert [chunk.index for chunk in again] == [2, 3]
        assert (await client.get(film["id"]))["state"] == "completed"


@in_loop
async def test_a_connection_that_is_cut_again_and_again_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("st2v_stream.client.FIRST_RETRY_S", 0.01)
    cutter = Cutter([100, 1500, 3000, 9000, 14000, 20000])
    async with cutter.open() as way, served(tmp_path, allowed_hosts=(way,)) as url:
        cutter.server_port = int(url.rpartition(":")[2])
        film = await Client(url, TOKEN).create("a numbered film", num_frames=120)
        ways = (Client(address, TOKEN) for address in (url, f"http://{way}"))
        direct, through = await asyncio.gather(*(watched(client, film["id"]) for client in ways))
    assert cutter.cuts >= 3
    assert [chunk.index for chunk in through] == list(range(14))
    assert [chunk.data for chunk in through] == [chunk.data for chunk in direct]


@in_loop
async def test_a_server_that_is_started_again_goes_on_where_it_was(tmp_path: Path) -> None:
    cutter = Cutter([])
    seen, begun = list[WatchedChunk](), asyncio.Event()
    async with cutter.open() as way:

        async def watch() -> None:
            async for chunk in Client(f"http://{way}", TOKEN).watch(film["id"]):
                seen.append(chunk)
                if len(seen) == 3:
                    begun.set()

        async with served(tmp_path, allowed_hosts=(way,)) as url:
            cutter.server_port = int(url.rpartition(":")[2])
            film = await Client(url, TOKEN).create("a numbered film", num_frames=160)
            watching = asyncio.create_task(watch())
            await begun.wait()
        assert not watching.done()
        async with served(tmp_path, allowed_hosts=(way,)) as url:
            cutter.server_port = int(url.rpartition(":")[2])
            await watching
    assert [number for chunk in seen for number in numbers(chunk)] == list(range(160))


@in_loop
async def test_a_verification_that_is_cut_off_is_none(tmp_path: Path) -> None:
    cutter = Cutter([10**6, 900])  # the film's length is asked first
    async with cutter.open() as way, served(tmp_path, allowed_hosts=(way,)) as url:
        cutter.server_port = int(url.rpartition(":")[2])
        film = await Client(url, TOKEN).create("a numbered film", num_frames=80)
        await watched(Client(url, TOKEN), film["id"])
        assert len([each async for each in Client(url, TOKEN).verify(film["id"])]) == 9
        with pytest.raises(NotReady, match="cut off"):
            [each async for each in Client(f"http://{way}", TOKEN).verify(film["id"])]


@in_loop
async def test_stop_continue_and_an_end_in_the_past(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client:
        film = await client.create("a numbered film", num_frames=None)
        async with aclosing(client.watch(film["id"])) as chunks:
            async for chunk in chunks:
                if chunk.index == 2:
                    await client.stop(film["id"])
                    break
        events = list[Mapping[str, Any]]()
        made = await watched(client, film["id"], on_event=events.append)
        assert events[-1]["ended_by"] == "stopped"
        with pytest.raises(Conflict):
            await client.stop(film["id"])
        await client.continue_(film["id"], 16)
        # from a cursor before the stop: the end that was then is not the end
        rest = await watched(client, film["id"], cursor=made[-1].seq)
        assert [chunk.index for chunk in rest] == [len(made), len(made) + 1]


@in_loop
async def test_cue_branch_redo_and_what_watchers_are_told(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client:
        film = await client.create("a numbered film", num_frames=48, cues=[{"from_s": 3, "prompt": "another"}])
        await watched(client, film["id"])
        added = await client.cue(film["id"], prompt="a third", transition_chunks=1)
        assert added["from_index"] == 5
        branch = await client.branch(film["id"], from_index=2, prompt="elsewhere", num_frames=40)
        shared, own = await watched(client, film["id"]), await watched(client, branch["id"])
        assert (branch["parent_id"], branch["fork_index"]) == (film["id"], 2)
        assert [chunk.data for chunk in own[:2]] == [chunk.data for chunk in shared[:2]]
        assert own[2].data != shared[2].data
        assert len(own) == 4
        redone = await client.redo(film["id"], 3, seed=99)
        events = list[Mapping[str, Any]]()
        anew = await watched(client, film["id"], cursor=shared[-1].seq, on_event=events.append)
        assert [event["from_index"] for event in events if event["type"] == "reset"] == [3]
        assert [chunk.index for chunk in anew] == [3, 4]
        kept = await watched(client, redone["kept"]["id"])
        assert [chunk.data for chunk in kept] == [chunk.data for chunk in shared]


@in_loop
async def test_library_screenplay_and_download(tmp_path: Path) -> None:
    async with a_client(tmp_path) as client:
        film = await client.create("a numbered film", num_frames=24, seed=5)
        first = await watched(client, film["id"])
        path = await client.download(film["id"], tmp_path / "film.mp4")
        assert path.read_bytes()[4:8] == b"ftyp"
        assert not any(name.endswith(".part") for name in os.listdir(tmp_path))
        twin = await client.replay(await client.screenplay(film["id"]))
        assert [chunk.data for chunk in await watched(client, twin["id"])] == [chunk.data for chunk in first]
        assert (await client.edit(twin["id"], title="twin"))["title"] == "twin"
        assert [listed["id"] async for listed in client.films("twin")] == [twin["id"]]
        assert [listed["id"] async for listed in client.films()] == [twin["id"], film["id"]]
        await client.delete(twin["id"])
        with pytest.raises(NotFound):
            await watched(client, twin["id"])
        assert (await client.undelete(twin["id"]))["id"] == twin["id"]
        assert [model["id"] for model in await client.models()] == ["testcard"]


@in_loop
async def test_errors_are_the_servers_own(tmp_path: Path) -> None:
    async with served(tmp_path) as url:
        client = Client(url, TOKEN)
        with pytest.raises(InvalidRequest, match="num_frames") as refused:
            await client.create("a numbered film", num_frames=-1)
        assert refused.value.param == "num_frames"
        with pytest.raises(NotFound):
            await client.get("video_nobody")
        with pytest.raises(NotFound):
            await watched(client, "video_nobody")
        with pytest.raises(Unauthorized):
            await Client(url, "a-wrong-token-0123456789").get("video_nobody")
        missing = tmp_path / "none.mp4"
        with pytest.raises(NotFound):
            await client.download("video_nobody", missing)
        assert not missing.exists()
    with pytest.raises(NotReady):
        await client.get("video_nobody")


def test_the_links_fragment_is_a_token() -> None:
    client = Client("http://127.0.0.1:9/#token=from-the-link")
    assert (client._address.server, client._address.token) == ("http://127.0.0.1:9", "from-the-link")


def test_importing_the_client_loads_no_torch() -> None:
    code = "import st2v_stream.client, sys; print([m for m in ('torch', 'diffusers', 'av') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
