"""Data directories written by the releases before are brought up to date, and films go on in them.

version<N>.json holds what the code of that time wrote: the tables as SQL, the blobs and the copies; `video_a` with three
chunks and two cues, still running, and `video_b`, finished and thinned.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from itertools import islice
from pathlib import Path

import pytest

from st2v_stream.direction import Cue, Timeline
from st2v_stream.store.fsck import check
from store.films import DIRECTION, records_after
from store.test_store import blob_files, opened

CUES = (Cue(1, {"seed": 5}), Cue(2, {"prompts": (("b", 1.0),)}))


def written_by(version: int, data_dir: Path) -> Path:
    was = json.loads((Path(__file__).parent / f"version{version}.json").read_text())
    for folder in ("blobs", "tmp", "videos", "cache"):
        (data_dir / folder).mkdir(parents=True)
    (data_dir / "VERSION").write_text("1\n")
    (data_dir / "LOCK").touch()
    connection = sqlite3.connect(data_dir / "st2v.db")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript("\n".join(was["sql"]))
    connection.execute(f"PRAGMA user_version = {was['user_version']}")
    connection.close()
    for sha256, content in was["blobs"].items():
        (data_dir / "blobs" / sha256[:2]).mkdir(exist_ok=True)
        (data_dir / "blobs" / sha256[:2] / sha256).write_bytes(base64.b64decode(content))
    for name, lines in was["copies"].items():
        (data_dir / "videos" / name).write_text("".join(f"{line}\n" for line in lines))
    return data_dir


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_data_directory_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    data_dir = written_by(version, tmp_path / "data")
    files = blob_files(data_dir)

    async def main() -> None:
        async with opened(data_dir) as store:
            assert blob_files(data_dir) == files
            assert store.size_bytes == sum(path.stat().st_size for path in (data_dir / "blobs").glob("??/*"))
            view = await store.view("video_a")
            assert (view.state, view.chunks, view.frames, view.when_unwatched) == ("running", 3, 32, None)
            assert 0 < view.size_bytes < store.size_bytes
            assert await store.timeline("video_a") == Timeline(DIRECTION, CUES)
            log = await store.read_log("video_a", 0)
            assert tuple(entry.cue for entry in log if entry.kind == "cue") == CUES
            first, *_, last = await store.chunks("video_a")
            assert (first.has_memory, first.made_with, len(first.segments)) == (True, None, 1)
            memory, reset = await store.newest_memory("video_a")
            assert memory is not None
            assert (memory.digest, reset) == (last.memory_digest, None)
            await store.commit("video_a", await store.begin_run("video_a"), next(records_after(memory)))
            unbroken = [record.frames_sha256 for record in islice(records_after(), 4)]
            assert await store.frame_hashes("video_a") == unbroken
            assert [chunk.has_memory for chunk in await store.chunks("video_b")] == [True, False, False, True]
            await store.delete("video_b")
            assert check_of_rows(data_dir) == {"chunk": 4, "part": 8}

    asyncio.run(main())
    assert check(data_dir).findings == ()


def check_of_rows(data_dir: Path) -> dict[str, int]:
    connection = sqlite3.connect(data_dir / "st2v.db")
    counts = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("chunk", "part")}
    connection.close()
    return counts


@pytest.mark.parametrize("version", [1, 2, 3])
def test_it_is_checked_without_being_changed(tmp_path: Path, version: int) -> None:
    data_dir = written_by(version, tmp_path / "data")
    report = check(data_dir)
    assert not report.is_damaged
    assert {(finding.weight, finding.subject) for finding in report.findings} == set()
    assert (report.films, report.chunks) == (2, 7)
    connection = sqlite3.connect(data_dir / "st2v.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (version,)
    connection.close()
