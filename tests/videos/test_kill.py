"""kill -9 of a real process with a real encoder until the film is whole: nothing told of is lost, nothing changes.

72 chunks through 12 lives that end at random moments and one for every step of a commit; with -m long 120 chunks through 40
such lives. The processes are forked, so that a life costs a fraction of a second. And a shorter film of the built-in model:
`python test_kill.py 0 DATA` makes it.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pytest
from store.test_crash import WATCHED, Countdown, dying, quick_folder, trace_statements

from st2v_stream.checkpoints.models import known_models
from st2v_stream.store.fsck import check
from st2v_stream.store.store import Store
from st2v_stream.types import CreateVideo, LogEntry
from videos import living
from videos.living import entries_to_the_end, frame_hashes, unbroken_hashes

TESTS = Path(__file__).resolve().parent.parent


def num_frames(chunks: int) -> int:
    return 16 + 8 * (chunks - 1)


@pytest.mark.parametrize(
    ("kills", "chunks"), [pytest.param(12, 72, marks=pytest.mark.slow), pytest.param(40, 120, marks=pytest.mark.long)]
)
def test_kills_at_random_moments_and_one_at_every_step_of_a_commit(kills: int, chunks: int) -> None:
    chance, steps, died = random.Random(33), 0, True
    life = Life(partial(living.make_and_tell, num_frames=num_frames(chunks)), "commit", chunks_told)
    with quick_folder() as data_dir:
        for _ in range(kills):
            after_chunks = kept_chunks(data_dir) + chance.randrange(1, 3)
            told = life.killed_at_random(data_dir, after_chunks, chance.uniform(0, 0.02))
            assert told <= kept_chunks(data_dir) < chunks, "everything told of is there, and there is more to do"
        while died:
            died, told = life.killed_before_step(data_dir, steps)
            assert told <= kept_chunks(data_dir) < chunks, f"killed before step {steps}"
            steps += 1
        assert steps > 25
        asyncio.run(finish_and_compare(data_dir, chunks))
        assert check(data_dir).findings == ()


@dataclass(frozen=True)
class Life:
    """A process to be killed. make: makes and tells; commit: the method of `Store` to die in; told: chunks a line tells of."""

    make: Callable[[Path], Coroutine[Any, Any, None]]
    commit: str
    told: Callable[[str], int]

    def killed_at_random(self, data_dir: Path, after_chunks: int, and_s: float) -> int:
        """Chunks that a process had told of when it was killed: so long after it had told of as many as that."""
        told = 0
        child, lines = self.forked(data_dir, None)
        while told < after_chunks:
            told = max(told, self.told(lines.readline()))
        select.select([], [], [], and_s)
        os.kill(child, signal.SIGKILL)
        told = max([told, *map(self.told, lines)])
        assert ended(child, lines), "there was more to do"
        return told

    def killed_before_step(self, data_dir: Path, step: int) -> tuple[bool, int]:
        """Whether a process died before that step of its first commit, and the chunks it told of."""
        child, lines = self.forked(data_dir, step)
        told = max(map(self.told, lines), default=0)
        return ended(child, lines), told

    def forked(self, data_dir: Path, step: int | None) -> tuple[int, TextIO]:
        """It runs; with a step, it dies before that one or ends after its first commit."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                sys.stdout = os.fdopen(writing, "w", buffering=1)
                if step is not None:
                    self.die_in_first_commit(step)
                asyncio.run(self.make(data_dir))
            finally:
                os._exit(1)
        os.close(writing)
        return child, os.fdopen(reading)

    def die_in_first_commit(self, step: int) -> None:
        die, commit = Countdown(step), getattr(Store, self.commit)
        trace_statements(die)
        for name in WATCHED:
            setattr(os, name, dying(getattr(os, name), die))

        async def only_commit(*args: Any) -> Any:
            die.armed = True
            await commit(*args)
            os._exit(0)

        setattr(Store, self.commit, only_commit)


def ended(child: int, lines: TextIO) -> bool:
    """Whether it was killed; it has ended already."""
    lines.close()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def chunks_told(line: str) -> int:
    kind, _, index = line.rstrip("\n").partition(" ")
    assert line.endswith("\n") or not line, "a line is written at once"
    return int(index) + 1 if kind == "segment" else 0


def kept_chunks(data_dir: Path) -> int:
    """What a start would find."""
    if not (data_dir / "st2v.db").exists():
        return 0
    connection = sqlite3.connect(data_dir / "st2v.db")
    row = connection.execute("SELECT chunks FROM video").fetchone()
    connection.close()
    return 0 if row is None else int(row[0])


async def finish_and_compare(data_dir: Path, chunks: int) -> None:
    async with living.living(data_dir, real=True) as live:
        (view,), _ = await live.list()
        entries = await entries_to_the_end(live, view.id)
        assert [entry.index for entry in entries if entry.segment] == list(range(chunks))
        assert not [entry for entry in entries if entry.kind == "reset"], "nothing had to be repaired"
        assert view.direction is not None
        assert await frame_hashes(live, view.id) == list(unbroken_hashes(view.direction, chunks))


# ---------------------------------------------------------------- the built-in model


@pytest.mark.long
def test_kills_change_nothing_in_a_film_of_storybook(tmp_path: Path) -> None:
    """The film is endless, so that a process is always killed in the middle of it, however fast the machine is."""
    chance, kept = random.Random(33), 0
    for _ in range(3):
        told = killed_storybook(tmp_path / "killed", kept + 1, chance.uniform(0, 0.7))
        kept = kept_chunks(tmp_path / "killed")
        assert told <= kept, "everything told of is there"
    chunks, folders = kept + 1, [tmp_path / "killed", tmp_path / "unbroken"]
    with storybook(*folders, chunks=chunks) as process:
        assert process.wait() == 0
    assert [check(folder).findings for folder in folders] == [(), ()]
    killed, unbroken = (asyncio.run(chunk_rows(folder)) for folder in folders)
    assert min(len(killed), len(unbroken)) >= chunks
    assert killed[:chunks] == unbroken[:chunks]


def killed_storybook(data_dir: Path, after_chunks: int, and_s: float) -> int:
    """Chunks that a process had told of when it was killed: so long after it had told of as many as that."""
    told = 0
    with storybook(data_dir) as process:
        assert process.stdout is not None
        while told < after_chunks:
            line = process.stdout.readline()
            assert line, "it makes an endless film"
            told = max(told, chunks_told(line))
        select.select([], [], [], and_s)
        process.kill()
        told = max([told, *map(chunks_told, process.stdout)])
    assert process.returncode == -signal.SIGKILL
    return told


@contextmanager
def storybook(*data_dirs: Path, chunks: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that makes the film in each directory in turn, to so many chunks; 0: without end."""
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, __file__, str(chunks), *map(str, data_dirs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


async def chunk_rows(data_dir: Path) -> list[tuple[str, str | None, str]]:
    """Hashes of the frames, of the memory and of the segment of every chunk."""
    store = await Store.open(data_dir)
    ((view,), _), rows = await store.page(None, 2, "asc"), list[tuple[str, str | None, str]]()
    assert not [entry for entry in await store.read_log(view.id, 0) if entry.kind == "reset"], "nothing had to be repaired"
    for chunk in await store.chunks(view.id):
        rows.append((chunk.frames_sha256, chunk.memory_digest, chunk.segments[0].hash))
    await store.close()
    return rows


async def make_storybook(data_dir: Path, chunks: int) -> None:
    """Make an endless film, or go on with it, and tell of every chunk; stop it when it has so many (0: never)."""
    entry = known_models(device="cpu")["storybook"]
    async with living.living(data_dir, models={"storybook": entry}, real=True) as live:
        views, _ = await live.list()
        request = CreateVideo(entry.card.example_prompts[0], num_frames=None, preset="live")
        view = views[0] if views else await live.create(request)
        async with aclosing(live.follow(view.id)) as news:
            async for told in news:
                if isinstance(told, LogEntry) and told.kind == "segment":
                    print("segment", told.index, flush=True)
                    if told.index + 1 == chunks:
                        break
        await live.stop(view.id)
        await living.until(live, view.id, "stopped")


if __name__ == "__main__":
    for folder in sys.argv[2:]:
        asyncio.run(make_storybook(Path(folder), int(sys.argv[1])))
