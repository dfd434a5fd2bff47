"""kill -9: what was acknowledged is there, nothing has to be repaired, and the film goes on identically.

Before every single write of two chunks: the child kills itself before its k-th operation on files and before its k-th SQL
statement, for every k. And 120 chunks through one life for every such step and 40 that end at random moments.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from st2v_stream.store import database
from st2v_stream.store.store import Store
from store.films import new_view, records_after

CHUNKS = 2
LONG_CHUNKS = 120
KILLS = 40
WATCHED = ("open", "write", "fsync", "replace", "mkdir")


@contextmanager
def quick_folder() -> Iterator[Path]:
    """In memory where that exists: a kill leaves the page cache alone, so a real disk would only make this slower."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.mark.slow
def test_kill_before_every_write() -> None:
    with quick_folder() as folder:
        kill_before_every_write(folder)


def kill_before_every_write(folder: Path) -> None:
    fresh = folder / "fresh"
    asyncio.run(prepare(fresh))
    unbroken = [record.frames_sha256 for record in islice(records_after(), CHUNKS + 1)]
    steps, outcomes = 0, set[tuple[int, int]]()
    while True:
        data_dir = folder / "data"
        shutil.copytree(fresh, data_dir)
        acknowledged, killed = run_child(data_dir, kill_before=steps)
        kept, hashes = asyncio.run(recover(data_dir))
        assert kept in (acknowledged, acknowledged + 1), f"killed before step {steps}"  # the acknowledgement can die on its way
        assert hashes == unbroken, f"killed before step {steps}"
        shutil.rmtree(data_dir)
        outcomes.add((acknowledged, kept))
        if not killed:
            break
        steps += 1
    assert acknowledged == CHUNKS
    assert steps > 50
    assert outcomes >= {(0, 0), (1, 1), (2, 2)}


@pytest.mark.slow
def test_a_long_film_through_a_kill_at_every_step_and_forty_at_random_moments() -> None:
    with quick_folder() as folder:
        asyncio.run(prepare(folder))
        chance, acknowledged = random.Random(33), 0
        for kill in range(KILLS):
            told, _ = run_child(folder, chunks=LONG_CHUNKS // 2, after_s=chance.uniform(0, 0.06))
            acknowledged = after_a_kill(folder, acknowledged + told, f"random kill {kill}")
        steps, killed = 0, True
        while killed or told == 0:
            told, killed = run_child(folder, kill_before=steps, chunks=LONG_CHUNKS, in_life=1)
            acknowledged = after_a_kill(folder, acknowledged + told, f"killed before step {steps}")
            steps += 1
        told, killed = run_child(folder, chunks=LONG_CHUNKS)
        assert (acknowledged + told, killed) == (LONG_CHUNKS, False)
        assert steps > 25
        unbroken = [record.frames_sha256 for record in islice(records_after(), LONG_CHUNKS)]
        assert asyncio.run(whole_film(folder)) == unbroken


def after_a_kill(data_dir: Path, acknowledged: int, when: str) -> int:
    """Chunks that are there: those acknowledged, perhaps one more. Nothing had to be repaired."""
    kept = len(asyncio.run(whole_film(data_dir)))
    assert kept in (acknowledged, acknowledged + 1), when
    return kept


async def whole_film(data_dir: Path) -> list[str]:
    """The hashes of a film that needs no repair."""
    store = await Store.open(data_dir)
    hashes = await store.frame_hashes("video_a")
    memory, reset = await store.newest_memory("video_a")
    await store.close()
    assert reset is None
    assert (0 if memory is None else memory.next_index) == len(hashes)
    return hashes


async def prepare(data_dir: Path) -> None:
    store = await Store.open(data_dir)
    await store.create(new_view(), {})
    await store.close()


def run_child(
    data_dir: Path,
    kill_before: int = sys.maxsize,
    chunks: int = CHUNKS,
    in_life: int = sys.maxsize,
    after_s: float | None = None,
) -> tuple[int, bool]:
    """Chunks acknowledged by a child that dies before that step or so long after its start, and whether it died at all.

    chunks: of the whole film; in_life: at most so many of them in this life.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(make_chunks(data_dir, kill_before, writing, chunks, in_life))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        if after_s is not None:
            assert pipe.read(1) == b"o", "it is open and about to begin"
            select.select([], [], [], after_s)
            os.kill(child, signal.SIGKILL)
        acknowledged = pipe.read().count(b".")
    _, status = os.waitpid(child, 0)
    return acknowledged, os.WIFSIGNALED(status)


async def make_chunks(data_dir: Path, kill_before: int, writing: int, chunks: int, in_life: int) -> None:
    tell = os.write
    die = Countdown(kill_before)
    trace_statements(die)
    store = await Store.open(data_dir)
    epoch = await store.begin_run("video_a")
    memory, _ = await store.newest_memory("video_a")
    left = chunks if memory is None else chunks - memory.next_index
    tell(writing, b"o")
    die.armed = True
    for name in WATCHED:
        setattr(os, name, dying(getattr(os, name), die))
    for record in islice(records_after(memory), min(left, in_life)):
        await store.commit("video_a", epoch, record)
        tell(writing, b".")
    os._exit(0)


class Countdown:
    def __init__(self, steps: int) -> None:
        self.steps, self.armed = steps, False

    def __call__(self, _: object = None) -> None:
        if self.armed:
            if self.steps == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.steps -= 1


def dying(fn: Callable[..., Any], die: Countdown) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        die()
        if fn is WRITE and len(args[1]) > 1500:  # a segment in two writes, so that torn files exist
            return fn(args[0], args[1][:1000])
        return fn(*args, **options)

    return call


WRITE = os.write


def trace_statements(die: Countdown) -> None:
    plain = database.connect

    def connect(path: Path) -> Any:
        connection = plain(path)
        connection.set_trace_callback(die)
        return connection

    database.connect = connect


async def recover(data_dir: Path) -> tuple[int, list[str]]:
    """What the next start finds, and the hashes of the film once it has gone on."""
    store = await Store.open(data_dir)
    kept = (await store.view("video_a")).chunks
    memory, reset = await store.newest_memory("video_a")
    assert reset is None, "nothing had to be repaired"
    for entry in (await store.snapshot("video_a")).entries:
        assert entry.segment is not None
        assert await store.read_blob(entry.segment.hash)
        assert await store.read_blob(entry.segment.init)
    assert list((data_dir / "tmp").iterdir()) == []
    epoch = await store.begin_run("video_a")
    for record in islice(records_after(memory), CHUNKS + 1 - kept):
        await store.commit("video_a", epoch, record)
    hashes = await store.frame_hashes("video_a")
    await store.close()
    return kept, hashes
