"""kill -9 of a real process with a real encoder, at random moments, until the film is whole."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from videos import living
from videos.living import entries_to_the_end, frame_hashes, unbroken_hashes

CHUNKS = 24
KILLS = 3
TESTS = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_kill_9_at_random_moments_loses_nothing_and_changes_nothing(tmp_path: Path) -> None:
    chance, told = random.Random(33), 0
    for _ in range(KILLS):
        told = max(told, run_and_kill(tmp_path, after_chunks=told + chance.randrange(1, 5), also_lines=chance.randrange(3)))
    asyncio.run(finish_and_compare(tmp_path, told))


def run_and_kill(data_dir: Path, after_chunks: int, also_lines: int) -> int:
    """Chunks the process had told of when it was killed."""
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, living.__file__, str(data_dir), str(16 + 8 * (CHUNKS - 1))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        told = 0
        for line in process.stdout:
            kind, index = line.split()
            if kind == "segment":
                told = int(index) + 1
            if told >= after_chunks:
                also_lines -= 1
            if also_lines < 0:
                break
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return told


async def finish_and_compare(data_dir: Path, told: int) -> None:
    async with living.living(data_dir, real=True) as live:
        (view,), _ = await live.list()
        assert told <= view.chunks < CHUNKS, "everything told of is there"
        entries = await entries_to_the_end(live, view.id)
        assert [entry.index for entry in entries if entry.segment] == list(range(CHUNKS))
        assert not [entry for entry in entries if entry.kind == "reset"], "nothing had to be repaired"
        assert view.direction is not None
        assert await frame_hashes(live, view.id) == list(unbroken_hashes(view.direction, CHUNKS))
