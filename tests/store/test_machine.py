"""Everything that can be done to films, in any order, against a simple model: no gap, no lost blob, every byte counted."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from st2v_stream.chunk import Chunk, Memory
from st2v_stream.direction import Cue, Direction, Timeline
from st2v_stream.errors import Conflict, NotFound
from st2v_stream.generators.testcard import TestCard
from st2v_stream.store.fsck import check
from st2v_stream.store.rebuild import rebuild
from st2v_stream.store.segments import KEEP_EVERY, ChunkRecord, record_of
from st2v_stream.store.store import Store
from st2v_stream.store.videos import read_video
from store.films import DIRECTION, new_view, stand_in
from store.test_crash import quick_folder

T = TypeVar("T")

CARD = TestCard(64, 48, steps=1)
FILMS = 6


@dataclass
class Film:
    """What is expected of one."""

    timeline: Timeline
    hashes: list[str] = field(default_factory=list)
    segments: list[str] = field(default_factory=list)
    state: str = "queued"
    deleted: bool = False
    parent: str | None = None
    fork: int = 0


@cache
def record_at(direction: Direction, memory_key: str | None) -> tuple[ChunkRecord, Memory]:
    memory = None if memory_key is None else MEMORIES[memory_key]
    if memory is None:
        index, (frames, after) = 0, CARD.begin(direction, None, lambda k, n: None)
    else:
        index, (frames, after) = memory.next_index, CARD.generate(direction, memory, lambda k, n: None)
    MEMORIES[after.digest] = after
    chunk = Chunk(index, CARD.spec.start_of(index), frames, direction, after)
    return record_of(chunk, stand_in(chunk)), after


MEMORIES: dict[str, Memory] = {}

places = st.integers(0, 2**16)


class Films(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.films: dict[str, Film] = {}
        self.made = 0
        self.loop = asyncio.new_event_loop()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    @initialize()
    def begin(self) -> None:
        self.folder = quick_folder()
        self.root = self.folder.__enter__() / "data"
        self.store = self.run(Store.open(self.root))
        self.create(0)

    def teardown(self) -> None:
        self.run(self.store.close())
        findings = check(self.root).findings
        self.loop.close()
        self.folder.__exit__(None, None, None)
        assert findings == ()

    def one(self, place: int, *, deleted: bool = False) -> str | None:
        names = sorted(name for name, film in self.films.items() if film.deleted == deleted)
        return names[place % len(names)] if names else None

    def new_id(self) -> str:
        self.made += 1
        return f"video_{self.made:03}"

    # ------------------------------------------------------------ what can be done

    @precondition(lambda self: len(self.films) < FILMS)
    @rule(seed=st.integers(0, 2))
    def create(self, seed: int) -> None:
        direction, video_id = replace(DIRECTION, seed=seed), self.new_id()
        view = replace(new_view(video_id), direction=direction, seed=seed)
        self.run(self.store.create(view, {"model_version": "1"}, cues=(Cue(3, {"seed": 7}),)))
        self.films[video_id] = Film(Timeline(direction, (Cue(3, {"seed": 7}),)))

    @rule(place=places, chunks=st.integers(1, 6))
    def make(self, place: int, chunks: int) -> None:
        if (name := self.one(place)) is None:
            return
        film = self.films[name]
        epoch = self.run(self.store.begin_run(name))
        self.recall(name)
        memory, reset = self.run(self.store.newest_memory(name))
        assert reset is None
        for _ in range(chunks):
            record, memory = record_at(film.timeline.at(len(film.hashes)), memory and self.remembered(memory))
            self.run(self.store.commit(name, epoch, record))
            film.hashes.append(record.frames_sha256)
            film.segments.append(record.segment.hash)

    def recall(self, name: str) -> None:
        """Make again what was thinned away, as a film does when it goes on."""
        film = self.films[name]
        memory = self.run(self.store.memory_before(name, len(film.hashes)))
        for index in range(0 if memory is None else memory.next_index, len(film.hashes)):
            record, memory = record_at(film.timeline.at(index), memory and self.remembered(memory))
            assert self.run(self.store.remember(name, record))

    @staticmethod
    def remembered(memory: Memory) -> str:
        return MEMORIES.setdefault(memory.digest, memory).digest

    @precondition(lambda self: len(self.films) < FILMS)
    @rule(place=places, fork=places, seed=st.integers(0, 2))
    def branch(self, place: int, fork: int, seed: int) -> None:
        if (name := self.one(place)) is None:
            return
        parent, video_id = self.films[name], self.new_id()
        fork %= len(parent.hashes) + 1
        timeline = parent.timeline.turned(Cue(fork, {"seed": seed}))
        view = replace(new_view(video_id), parent_id=name, fork_index=fork)
        self.run(self.store.branch(view, timeline))
        self.films[video_id] = Film(timeline, parent.hashes[:fork], parent.segments[:fork], parent=name, fork=fork)

    @rule(place=places, index=places, seed=st.integers(0, 2), keep=st.booleans())
    def reset(self, place: int, index: int, seed: int, keep: bool) -> None:
        if (name := self.one(place)) is None:
            return
        film, keep_as = self.films[name], self.new_id() if keep and len(self.films) < FILMS else None
        index %= len(film.hashes) + 1
        timeline = film.timeline.turned(Cue(index, {"seed": seed}))
        entries = self.run(self.store.reset(name, index, timeline=timeline, keep_as=keep_as, state="queued"))
        assert (entries[0].kind, entries[0].index, entries[-1].kind) == ("reset", index, "state")
        if keep_as is not None:
            state = film.state if film.state in ("completed", "stopped") else "stopped"
            self.films[keep_as] = Film(film.timeline, film.hashes, film.segments, state, parent=name, fork=index)
        hashes, of_film = film.hashes[:index], film.segments[:index]
        self.films[name] = replace(film, timeline=timeline, hashes=hashes, segments=of_film, state="queued")

    @rule(place=places, ahead=st.integers(0, 3))
    def cue(self, place: int, ahead: int) -> None:
        if (name := self.one(place)) is None:
            return
        film = self.films[name]
        cue = Cue(len(film.hashes) + ahead, {"prompts": (("more", 1.0),)}, ahead)
        (entry,) = self.run(self.store.cue(name, cue))
        assert entry.cue == cue
        film.timeline = Timeline(film.timeline.first, (*film.timeline.cues, cue))

    @rule(place=places, which=places)
    def take_back(self, place: int, which: int) -> None:
        if (name := self.one(place)) is None or not (cues := self.run(self.store.cues(name))):
            return
        film, number = self.films[name], which % len(cues)
        (seq, cue), made = cues[number], len(film.hashes)
        assert [each for _, each in cues] == list(film.timeline.cues)
        if cue.index < made:
            with pytest.raises(Conflict):
                self.run(self.store.take_back_cue(name, seq, made))
            return
        entry = self.run(self.store.take_back_cue(name, seq, made))
        assert (entry.cue, entry.taken_back, entry.index) == (None, seq, cue.index)
        assert self.run(self.store.read_log(name, entry.seq - 1)) == [entry]
        left = (*film.timeline.cues[:number], *film.timeline.cues[number + 1 :])
        film.timeline = Timeline(film.timeline.first, left)

    @rule(place=places)
    def finish(self, place: int) -> None:
        if (name := self.one(place)) is None:
            return
        self.run(self.store.change(name, None, state="completed"))
        self.run(self.store.thin(name))
        self.films[name].state = "completed"
        chunks = len(self.films[name].hashes)
        branch_points = {film.fork - 1 for film in self.films.values() if film.parent == name}
        may_stay = {*range(0, chunks, KEEP_EVERY), chunks - 1, *branch_points}
        assert {chunk.index for chunk in self.run(self.store.chunks(name)) if chunk.has_memory} <= may_stay

    @rule(place=places)
    def delete(self, place: int) -> None:
        if (name := self.one(place)) is None:
            return
        self.run(self.store.delete(name))
        self.films[name].deleted = True

    @rule(place=places)
    def undelete(self, place: int) -> None:
        if (name := self.one(place, deleted=True)) is None:
            return
        self.run(self.store.undelete(name))
        film = self.films[name]
        film.deleted, film.state = False, "completed" if film.state == "completed" else "stopped"

    @rule()
    def collect(self) -> None:
        self.run(self.store.collect(grace_s=0))
        self.films = {name: film for name, film in self.films.items() if not film.deleted}

    @rule()
    def crash(self) -> None:
        """What is on the disk while the store is open is what a process that dies there leaves."""
        left = self.root.with_name(f"{self.root.name}-left")
        shutil.copytree(self.root, left, ignore=shutil.ignore_patterns("*-shm"))
        self.run(self.store.close())
        shutil.rmtree(self.root)
        left.rename(self.root)
        self.store = self.run(Store.open(self.root))

    @rule()
    def restart_with_a_new_database(self) -> None:
        self.run(self.store.close())
        assert rebuild(self.root).lost == ()
        for old in self.root.glob("st2v.db.old*"):
            old.unlink()
        self.store = self.run(Store.open(self.root))

    # ------------------------------------------------------------ what always holds

    @invariant()
    def everything_is_as_expected(self) -> None:
        views, _ = self.run(self.store.page(None, 50, "asc"))
        assert [view.id for view in views] == sorted(name for name, film in self.films.items() if not film.deleted)
        for view in views:
            film = self.films[view.id]
            assert self.run(self.store.frame_hashes(view.id)) == film.hashes
            assert self.run(self.store.timeline(view.id)) == film.timeline
            assert (view.chunks, view.frames, view.state) == (
                len(film.hashes),
                CARD.spec.start_of(len(film.hashes)) if film.hashes else 0,
                film.state,
            )
            snapshot = self.run(self.store.snapshot(view.id))
            assert [entry.segment and entry.segment.hash for entry in snapshot.entries] == film.segments
            log = self.run(self.store.read_log(view.id, 0))
            assert [entry.seq for entry in log] == sorted({entry.seq for entry in log})
            assert [entry.index for entry in log if entry.kind == "segment"] == list(range(len(film.hashes)))
        for name, film in self.films.items():
            if film.deleted:
                with pytest.raises(NotFound):
                    self.run(self.store._database.run(read_video, name))

    @invariant()
    def every_byte_is_accounted_for(self) -> None:
        files = {path.name: path.stat().st_size for path in (self.root / "blobs").glob("??/*")}
        assert self.store.size_bytes == sum(files.values())
        for view in self.run(self.store.page(None, 50, "asc"))[0]:
            chunks = self.run(self.store.chunks(view.id))
            for segment in (segment for chunk in chunks for segment in chunk.segments):
                assert {segment.hash, segment.init} <= files.keys()
            assert self.run(self.store.own_bytes(view.id)) <= view.size_bytes <= self.store.size_bytes


PLAYED = settings(stateful_step_count=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))

TestFilms = pytest.mark.slow(Films.TestCase)
TestFilms.settings = settings(PLAYED, max_examples=20)


class ManyFilms(Films):
    pass


TestManyFilms = pytest.mark.long(ManyFilms.TestCase)
TestManyFilms.settings = settings(PLAYED, max_examples=200)
