"""kill -9 of a process that makes a film and makes it sharp: in the end both are what one unbroken life makes of them.

8 lives (with -m long 20) end at random moments, some more at the steps of the commit of a sharp chunk. The enhancer is one
whose every picture names all the chunks it has seen (`lagging`); the processes are forked.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import aclosing
from functools import partial
from pathlib import Path

import pytest
from store.test_crash import quick_folder

from st2v_stream.store.fsck import check
from st2v_stream.types import CreateVideo, LogEntry
from videos.lagging import Lagging
from videos.living import frame_hashes, living, unbroken_hashes
from videos.test_enhancing import newest, until_sharp, with_enhancer
from videos.test_kill import Life, num_frames

STRIDE = 20
"""Of the 250 steps of a commit every 20th: it writes seven blobs, each as all others are written (store/test_crash.py)."""


@pytest.mark.parametrize(
    ("kills", "chunks"), [pytest.param(8, 36, marks=pytest.mark.slow), pytest.param(20, 72, marks=pytest.mark.long)]
)
@pytest.mark.timeout(900)
def test_kills_at_random_moments_and_more_within_a_commit(kills: int, chunks: int) -> None:
    chance, step = random.Random(33), 0
    life = Life(partial(make_and_tell, chunks=chunks), "commit_sharp", chunks_told)
    with quick_folder() as data_dir, quick_folder() as unbroken:
        for _ in range(kills):
            after = sharp_chunks(data_dir) + chance.randrange(1, 3)
            assert life.killed_at_random(data_dir, after, chance.uniform(0, 0.03)) <= sharp_chunks(data_dir) < chunks
        before = sharp_chunks(data_dir)
        while sharp_chunks(data_dir) == before:  # until a life has lived to see its commit
            _, told = life.killed_before_step(data_dir, step)
            assert told <= sharp_chunks(data_dir) < chunks, f"killed before step {step}"
            step += STRIDE
        assert step > 5 * STRIDE
        killed, whole = asyncio.run(finished(data_dir, chunks)), asyncio.run(finished(unbroken, chunks))
        assert killed == whole
        assert check(data_dir).findings == ()


def chunks_told(line: str) -> int:
    assert line.endswith("\n") or not line, "a line is written at once"
    return int(line) + 1 if line else 0


async def make_and_tell(data_dir: Path, *, chunks: int) -> None:
    """So slow that no life is the last one: a sharp chunk takes 30 ms at least, and a life is over before three of them."""
    models = with_enhancer(Lagging(seconds_per_step=0.01), seconds_per_step=0.003)
    async with living(data_dir, models=models) as live:
        views, _ = await live.list()
        request = CreateVideo("a film", num_frames=num_frames(chunks), enhance="all")
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


async def finished(data_dir: Path, chunks: int) -> dict[int, str]:
    """The film brought to its end: the newest sharp segment of every chunk, none of which was made twice."""
    async with living(data_dir, models=with_enhancer(Lagging())) as live:
        views, _ = await live.list()
        request = CreateVideo("a film", num_frames=num_frames(chunks), enhance="all")
        view = views[0] if views else await live.create(request)
        view = await until_sharp(live, view.id, patience_s=300)
        assert view.direction is not None
        assert await frame_hashes(live, view.id) == list(unbroken_hashes(view.direction, chunks))
        assert {row.segments[-1].revision for row in await live._store.chunks(view.id)} == {0}
        sharp = await newest(live, view.id)
        assert sorted(sharp) == list(range(chunks))
        return sharp
