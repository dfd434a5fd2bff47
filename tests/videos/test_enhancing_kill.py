"""kill -9 of a process that makes a film and makes it sharp: in the end both are what one unbroken life makes of them.

20 lives end at random moments, some more at the steps of the commit of a sharp chunk. The enhancer is one whose every
picture names all the chunks it has seen (`lagging`); the processes are forked.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sqlite3
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any, TextIO

import pytest
from store.test_crash import WATCHED, Countdown, dying, quick_folder, trace_statements

from st2v_stream.store.fsck import check
from st2v_stream.store.store import Store
from st2v_stream.types import CreateVideo, LogEntry
from videos.lagging import Lagging
from videos.living import frame_hashes, living, unbroken_hashes
from videos.test_enhancing import newest, until_sharp, with_enhancer
from videos.test_kill import ended, num_frames

CHUNKS = 72
KILLS = 20
STRIDE = 20
"""Of the 250 steps of a commit every 20th: it writes seven blobs, each as all others are written (store/test_crash.py)."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments_and_more_within_a_commit() -> None:
    chance, step = random.Random(33), 0
    with quick_folder() as data_dir, quick_folder() as unbroken:
        for _ in range(KILLS):
            after = sharp_chunks(data_dir) + chance.randrange(1, 3)
            assert killed_at_random(data_dir, after, chance.uniform(0, 0.03)) <= sharp_chunks(data_dir) < CHUNKS
        before = sharp_chunks(data_dir)
        while sharp_chunks(data_dir) == before:  # until a life has lived to see its commit
            told = killed_before_step(data_dir, step)
            assert told <= sharp_chunks(data_dir) < CHUNKS, f"killed before step {step}"
            step += STRIDE
        assert step > 5 * STRIDE
        killed, whole = asyncio.run(finished(data_dir)), asyncio.run(finished(unbroken))
        assert killed == whole
        assert check(data_dir).findings == ()


def killed_at_random(data_dir: Path, after: int, and_s: float) -> int:
    """Sharp chunks that a process had told of when it was killed: so long after it had told of as many as that."""
    told = 0
    child, lines = forked(data_dir, None)
    while told < after:
        told = max(told, chunks_told(lines.readline()))
    select.select([], [], [], and_s)
    os.kill(child, signal.SIGKILL)
    told = max([told, *map(chunks_told, lines)])
    assert ended(child, lines), "there was more to do"
    return told


def killed_before_step(data_dir: Path, step: int) -> int:
    """What a process told of that died before that step of its first commit of a sharp chunk, or after it."""
    child, lines = forked(data_dir, step)
    told = max(map(chunks_told, lines), default=0)
    ended(child, lines)
    return told


def forked(data_dir: Path, step: int | None) -> tuple[int, TextIO]:
    """A process that makes the film and tells; with a step, it dies before that one or ends after its first commit."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            sys.stdout = os.fdopen(writing, "w", buffering=1)
            if step is not None:
                die_in_first_commit(step)
            asyncio.run(make_and_tell(data_dir))
        finally:
            os._exit(1)
    os.close(writing)
    return child, os.fdopen(reading)


def die_in_first_commit(step: int) -> None:
    die, commit = Countdown(step), Store.commit_sharp
    trace_statements(die)
    for name in WATCHED:
        setattr(os, name, dying(getattr(os, name), die))

    async def only_commit(*args: Any) -> Any:
        die.armed = True
        await commit(*args)
        os._exit(0)

    Store.commit_sharp = only_commit  # type: ignore[method-assign]


def chunks_told(line: str) -> int:
    assert line.endswith("\n") or not line, "a line is written at once"
    return int(line) + 1 if line else 0


async def make_and_tell(data_dir: Path) -> None:
    """So slow that no life is the last one: a sharp chunk takes 30 ms at least, and a life is over before three of them."""
    models = with_enhancer(Lagging(seconds_per_step=0.01), seconds_per_step=0.003)
    async with living(data_dir, models=models) as live:
        views, _ = await live.list()
        request = CreateVideo("a film", num_frames=num_frames(CHUNKS), enhance="all")
        view = views[0] if views else await live.create(request)
        async with aclosing(live.follow(view.id)) as news:
            async for entry in news:
                if isinstance(entry, LogEntry) and entry.segment is not None and entry.segment.rendition == "enhanced":
                    print(entry.index, flush=True)


def sharp_chunks(data_dir: Path) -> int:
    """What a start would find."""
    if not (data_dir / "st2v.db").exists():
        return 0
    connection = sqlite3.connect(data_dir / "st2v.db")
    row = connection.execute("SELECT enhanced_prefix FROM video").fetchone()
    connection.close()
    return 0 if row is None else int(row[0])


async def finished(data_dir: Path) -> dict[int, str]:
    """The film brought to its end: the newest sharp segment of every chunk, none of which was made twice."""
    async with living(data_dir, models=with_enhancer(Lagging())) as live:
        views, _ = await live.list()
        request = CreateVideo("a film", num_frames=num_frames(CHUNKS), enhance="all")
        view = views[0] if views else await live.create(request)
        view = await until_sharp(live, view.id, patience_s=300)
        assert view.direction is not None
        assert await frame_hashes(live, view.id) == list(unbroken_hashes(view.direction, CHUNKS))
        assert {row.segments[-1].revision for row in await live._store.chunks(view.id)} == {0}
        sharp = await newest(live, view.id)
        assert sorted(sharp) == list(range(CHUNKS))
        return sharp
