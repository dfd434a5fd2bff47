"""Any order of the director's verbs, restarts and watchers, against a model so simple that it cannot be wrong.

The model of a film is its `Timeline`. What has to hold in the end: every film is what its timeline makes, without a gap; every
watcher has what is in the store; every blob can be read; the bytes on the disk are those of the blobs somebody refers to.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from st2v_stream.chunk import Chunk
from st2v_stream.direction import Cue, Timeline
from st2v_stream.errors import Conflict, InvalidRequest, NotFound, StoreError
from st2v_stream.generators.testcard import TestCard
from st2v_stream.types import AddCue, BranchVideo, Changes, CreateVideo, EnhanceVideo, LogEntry, ModelEntry
from st2v_stream.videos.live import Live
from st2v_stream.videos.video import ACTIVE
from videos.lagging import Lagging
from videos.living import PATIENCE_S, frame_hashes, living, small_card, stand_in_encoder, until
from videos.test_directing import hashes_of, make, segments

MOST_CHUNKS = 18


ENHANCER = Lagging(ahead=1, steps=1, seconds_per_step=0.001)


def card() -> TestCard:
    return small_card(seconds_per_step=0.002, max_frames=16 + 8 * (MOST_CHUNKS - 1))


def models() -> dict[str, ModelEntry]:
    generator = card()
    return {"testcard": ModelEntry(generator.card, lambda: generator, lambda: ENHANCER, ENHANCER.name)}


@dataclass
class Watcher:
    """Somebody who follows a film for as long as the server runs."""

    video_id: str
    film: dict[int, str] = field(default_factory=dict)
    seq: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def watch(self, live: Live) -> None:
        with suppress(NotFound):  # deleted before it was there again
            await self._watch(live)

    async def _watch(self, live: Live) -> None:
        if self.seq == 0:
            snapshot = await live.snapshot(self.video_id)
            self.film = {entry.index: entry.segment.hash for entry in snapshot.entries if entry.segment}
            self.move(snapshot.seq)
        async with aclosing(live.follow(self.video_id, self.seq)) as news:
            async for entry in news:
                if isinstance(entry, LogEntry):
                    self.take(entry)

    def take(self, entry: LogEntry) -> None:
        assert entry.seq > self.seq
        if entry.kind == "reset":
            self.film = {index: sha256 for index, sha256 in self.film.items() if index < entry.index}
        elif entry.segment is not None:
            self.film[entry.index] = entry.segment.hash
        self.move(entry.seq)

    def move(self, seq: int) -> None:
        self.seq, moved, self.moved = seq, self.moved, asyncio.Event()
        moved.set()

    async def reaches(self, seq: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.seq < seq:
                await self.moved.wait()


class Machine:
    """The verbs, each done to the server and to the model."""

    def __init__(self, data_dir: Path, choices: random.Random) -> None:
        self.data_dir, self.choices = data_dir, choices
        self.films: dict[str, Timeline] = {}
        self.deleted: dict[str, Timeline] = {}
        self.watchers: list[tuple[Watcher, asyncio.Task[None]]] = []
        self.stack = AsyncExitStack()
        self.live: Live = None  # type: ignore[assignment]  # set by start

    async def start(self) -> None:
        self.live = await self.stack.enter_async_context(living(self.data_dir, models=models()))
        for place, (watcher, _) in enumerate(self.watchers):
            self.watchers[place] = watcher, asyncio.create_task(watcher.watch(self.live))

    async def restart(self) -> None:
        await self.leave()
        await self.start()

    async def leave(self) -> None:
        await self.stack.aclose()
        await asyncio.gather(*(task for _, task in self.watchers))  # the logs end with the server

    def some(self) -> str:
        return self.choices.choice(sorted(self.films))

    def changes(self) -> tuple[Changes, dict[str, object]]:
        if self.choices.random() < 0.5:
            prompt = self.choices.choice("abc")
            return Changes(prompt), {"prompts": ((prompt, 1.0),)}
        seed = self.choices.randrange(100)
        return Changes(seed=seed), {"seed": seed}

    # ------------------------------------------------------------ verbs

    async def create(self) -> None:
        frames = self.choices.choice([None, 16, 40, 72])
        view = await self.live.create(CreateVideo("a film", num_frames=frames, seed=self.choices.randrange(100)))
        assert view.direction is not None
        self.films[view.id] = Timeline(view.direction)

    async def cue(self) -> None:
        video_id, (asked, said) = self.some(), self.changes()
        there = (await self.live.get(video_id)).chunks
        index, over = self.choices.choice([None, self.choices.randrange(MOST_CHUNKS)]), self.choices.randrange(3)
        added = await self.live.cue(video_id, AddCue(asked, index, transition_chunks=over))
        assert added.cue == Cue(added.cue.index, said, over)
        assert added.cue.index >= max(there, index or 0)
        self.films[video_id] = Timeline(self.films[video_id].first, (*self.films[video_id].cues, added.cue))

    async def take_back(self) -> None:
        video_id = self.some()
        cues = await self.live.cues(video_id)
        assert [cue for _, cue in cues] == list(self.films[video_id].cues)
        if not cues:
            return
        place = self.choices.randrange(len(cues))
        with suppress(Conflict):  # its chunk is begun
            told = await self.live.take_back_cue(video_id, cues[place][0])
            assert told.index >= (await self.live.get(video_id)).chunks
            left = (*self.films[video_id].cues[:place], *self.films[video_id].cues[place + 1 :])
            self.films[video_id] = Timeline(self.films[video_id].first, left)

    async def stop(self) -> None:
        with suppress(Conflict):
            await self.live.stop(self.some())

    async def continue_(self) -> None:
        with suppress(Conflict, InvalidRequest):
            await self.live.continue_(self.some(), self.choices.choice([None, 8, 24]))

    async def branch(self) -> None:
        video_id, (asked, said) = self.some(), self.changes()
        fork = self.choices.randint(0, (await self.live.get(video_id)).chunks)
        if self.choices.random() < 0.3:
            asked, said = Changes(), {}
        with suppress(InvalidRequest):  # nothing would be left to make
            branch = await self.live.branch(video_id, BranchVideo(fork, asked, num_frames=16 + 8 * self.choices.randrange(12)))
            self.films[branch.id] = self.films[video_id].turned(Cue(fork, said))

    async def remix(self) -> None:
        await self.branch_at(lambda chunks: min(1, chunks))

    async def extend(self) -> None:
        await self.branch_at(lambda chunks: chunks)

    async def branch_at(self, fork_of: Callable[[int], int]) -> None:
        """As the doors say it: a branch with another prompt (server/directing.py)."""
        video_id, view = (parent := self.some()), await self.live.get(parent)
        fork, prompt = fork_of(view.chunks), self.choices.choice("abc")
        with suppress(InvalidRequest):  # the film is as long as it can be
            length = view.spec.start_of(max(fork + 1, min(MOST_CHUNKS, fork + 3)))
            made = await self.live.branch(video_id, BranchVideo(fork, Changes(prompt), num_frames=length))
            self.films[made.id] = self.films[video_id].turned(Cue(fork, {"prompts": ((prompt, 1.0),)}))
            assert made.prompt == prompt

    async def carry(self) -> None:
        """Out as one file and in again: a film of its own that is stopped, or whole, whatever the other does."""
        video_id = self.some()
        view = await self.live.import_bundle(self.live.bundle(video_id))
        self.films[view.id] = self.films[video_id]
        assert view.state not in ACTIVE

    async def rename(self) -> None:
        title = self.choices.choice("xyz")
        assert (await self.live.edit(self.some(), title=title)).title == title

    async def redo(self) -> None:
        video_id = self.some()
        chunks = (await self.live.get(video_id)).chunks
        with suppress(Conflict):  # nothing is made yet
            fork, seed = self.choices.randint(0, max(0, chunks - 1)), self.choices.randrange(100)
            _, kept = await self.live.redo(video_id, fork, seed)
            self.films[kept.id] = self.films[video_id]
            self.films[video_id] = self.films[video_id].turned(Cue(fork, {"seed": seed}))

    async def delete(self) -> None:
        video_id = self.some()
        await self.live.delete(video_id)
        self.deleted[video_id] = self.films.pop(video_id)
        gone = [task for watcher, task in self.watchers if watcher.video_id == video_id]
        await asyncio.gather(*gone)
        self.watchers = [(watcher, task) for watcher, task in self.watchers if watcher.video_id != video_id]

    async def undelete(self) -> None:
        if self.deleted:
            video_id = self.choices.choice(sorted(self.deleted))
            assert (await self.live.undelete(video_id)).state in ("stopped", "completed")
            self.films[video_id] = self.deleted.pop(video_id)

    async def join(self) -> None:
        watcher = Watcher(self.some())
        task = asyncio.create_task(watcher.watch(self.live))
        self.watchers.append((watcher, task))
        await watcher.reaches(1)

    async def part(self) -> None:
        """Somebody leaves, and nobody notices."""
        if self.watchers:
            _, task = self.watchers.pop(self.choices.randrange(len(self.watchers)))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def crash(self) -> None:
        """From one moment on nothing reaches the disk any more; the next process finds what was acknowledged."""
        for _, task in self.watchers:
            task.cancel()
        await asyncio.gather(*(task for _, task in self.watchers), return_exceptions=True)
        self.live._store._database.run = killed  # type: ignore[method-assign]
        await self.stack.aclose()
        await self.start()

    async def wait(self) -> None:
        await asyncio.sleep(0.03 * self.choices.random())

    # ------------------------------------------------------------ what has to hold

    async def enhance(self) -> None:
        video_id = self.some()
        if self.choices.random() < 0.5:
            await self.live.edit(video_id, enhance=self.choices.choice(["all", "watched", "idle", "none"]))
            return
        chunks = (await self.live.get(video_id)).chunks
        first = self.choices.randrange(max(1, chunks))
        await self.live.enhance(video_id, EnhanceVideo(first, self.choices.choice([None, first + 2])))

    async def check(self) -> None:
        for video_id in self.films:
            await self.live.edit(video_id, enhance="none")
        for video_id in self.films:
            with suppress(Conflict):
                await self.live.stop(video_id)
        for video_id, timeline in self.films.items():
            view = await until(self.live, video_id, "stopped", "completed")
            assert view.state not in ACTIVE
            assert await self.live.timeline(video_id) == timeline
            assert await frame_hashes(self.live, video_id) == hashes_of(timeline, view.chunks)
            whole = await segments(self.live, video_id)
            assert [segment.index for segment in whole] == list(range(view.chunks))
            for segment in whole:
                assert len(await self.live.read_blob(segment.hash)) == segment.size_bytes
        await self.check_sharp()
        await self.check_watchers()
        await self.check_bytes()

    async def check_sharp(self) -> None:
        """Whatever was made sharp when: in the end it is what a film that never stopped has."""
        store = self.live._store
        for video_id, timeline in self.films.items():
            await self.live.edit(video_id, enhance="all")
            async with asyncio.timeout(PATIENCE_S):
                while await store.next_work(video_id, everything=True) is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            rows = await store.chunks(video_id)
            assert [row.segments[-1].hash for row in rows] == sharp_hashes_of(timeline, len(rows))

    async def check_watchers(self) -> None:
        for watcher, task in self.watchers:
            newest = (await self.live.get(watcher.video_id)).seq
            await asyncio.wait([task, asyncio.create_task(watcher.reaches(newest))], return_when=asyncio.FIRST_COMPLETED)
            assert not task.done(), task.exception()
            assert watcher.film == {segment.index: segment.hash for segment in await segments(self.live, watcher.video_id)}

    async def check_bytes(self) -> None:
        while self.live._tasks:  # memories are thinned last of all
            await asyncio.wait(list(self.live._tasks.values()))
        await self.live._store.collect(grace_s=0)
        files = [path for path in (self.data_dir / "blobs").rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) == self.live.system()["size_bytes"]


def sharp_hashes_of(timeline: Timeline, chunks: int) -> list[str]:
    """What the enhancer makes of the film from its first chunk to its last, without any of the flow."""
    generator, memory, carry, newest = card(), None, None, dict[int, str]()
    for index in range(chunks):
        frames, memory = make(generator, timeline.at(index), memory)
        chunk = Chunk(index, generator.spec.start_of(index), frames, timeline.at(index), memory)
        made, carry = ENHANCER.enhance(chunk, carry, lambda k, n: None)
        newest |= {each.chunk.index: sha256_of(stand_in_encoder(generator.spec)(each.chunk).data) for each in made}
    if carry is not None:
        made, _ = ENHANCER.finish(carry, lambda k, n: None)
        newest |= {each.chunk.index: sha256_of(stand_in_encoder(generator.spec)(each.chunk).data) for each in made}
    return [newest[index] for index in range(chunks)]


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def killed(*_: object) -> NoReturn:
    """What the store's thread says in a process that is no more."""
    raise StoreError("the process is gone")


VERBS = (
    *("create", "cue", "take_back", "stop", "continue_", "branch", "remix", "extend", "redo", "rename", "delete", "undelete"),
    "enhance",
    *("carry", "join", "part", "wait", "restart", "crash"),
)


async def play(script: list[str], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder), random.Random(seed))
        await machine.start()
        try:
            await machine.create()
            for name in script:
                if machine.films or name in ("create", "undelete", "restart", "crash", "part", "wait"):
                    await getattr(machine, name)()
            await machine.check()
        finally:
            await machine.leave()


SCRIPTS = given(st.lists(st.sampled_from(sorted(VERBS)), min_size=6, max_size=24), st.integers(0, 2**16))
PLAYED = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@settings(PLAYED, max_examples=10)
@SCRIPTS
def test_any_order_of_the_verbs(script: list[str], seed: int) -> None:
    asyncio.run(play(script, seed))


@pytest.mark.long
@pytest.mark.timeout(900)
@settings(PLAYED, max_examples=40)
@SCRIPTS
def test_any_order_of_the_verbs_for_longer(script: list[str], seed: int) -> None:
    asyncio.run(play(script, seed))


@pytest.mark.slow
def test_every_verb_once() -> None:
    script = "wait cue join branch take_back wait redo cue crash wait remix stop join continue_ carry delete undelete rename"
    more = "extend enhance cue restart part branch enhance wait redo join enhance"
    asyncio.run(play([*script.split(), *more.split()], 3))
    assert {*script.split(), *more.split(), "create"} == set(VERBS)
