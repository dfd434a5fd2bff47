"""A power loss at every write of three chunks: whatever of the un-synced is lost, what was acknowledged is whole.

kill -9 (test_crash.py) leaves the page cache alone and so says nothing about fsync; here what was written and not synced is
dropped, file by file and folder by folder, in every combination.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from bisect import bisect_right
from itertools import islice
from pathlib import Path

import pytest

from st2v_stream.store.blobs import BlobFiles
from st2v_stream.store.store import Store
from store.films import new_view, records_after
from store.recording import Recording, recorded, states_after
from store.test_crash import quick_folder

CHUNKS = 3


@pytest.mark.slow
def test_power_loss_at_every_write_loses_nothing_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    with quick_folder() as folder:
        recording = asyncio.run(record(folder / "data", monkeypatch))
        broken, checked = examine(recording, folder)
        assert broken == []
        assert checked > 200, "every combination at every write"


@pytest.mark.slow
def test_the_same_finds_a_store_that_does_not_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st2v_stream.store.blobs.sync_folder", lambda folder: None)
    with quick_folder() as folder:
        recording = asyncio.run(record(folder / "data", monkeypatch, chunks=1))
        assert examine(recording, folder)[0] != []


@pytest.mark.slow
def test_the_same_finds_a_store_that_writes_the_rows_first(monkeypatch: pytest.MonkeyPatch) -> None:
    late = []
    write = BlobFiles.write
    monkeypatch.setattr(BlobFiles, "write", lambda self, blob: late.append(blob))

    async def commit_then_write(self: Store, *args: object) -> object:
        done = await commit(self, *args)  # type: ignore[arg-type]
        for blob in late:
            write(self._blobs, blob)
        late.clear()
        return done

    commit = Store.commit
    monkeypatch.setattr(Store, "commit", commit_then_write)
    with quick_folder() as folder:
        recording = asyncio.run(record(folder / "data", monkeypatch, chunks=1))
        monkeypatch.setattr(Store, "commit", commit)
        monkeypatch.setattr(BlobFiles, "write", write)
        assert examine(recording, folder)[0] != []


async def record(data_dir: Path, monkeypatch: pytest.MonkeyPatch, chunks: int = CHUNKS) -> Recording:
    store = await Store.open(data_dir)
    await store.create(new_view(), {})
    await store.close()
    with recorded(data_dir, monkeypatch) as recording:
        store = await Store.open(data_dir)
        epoch = await store.begin_run("video_a")
        for record in islice(records_after(), chunks):
            await store.commit("video_a", epoch, record)
            recording.acknowledged.append(len(recording.ops))
        await store.close()
    return recording


def examine(recording: Recording, folder: Path) -> tuple[list[str], int]:
    """What is wrong after which loss, and how many different states were looked at."""
    chunks = len(recording.acknowledged)
    unbroken = [record.frames_sha256 for record in islice(records_after(), chunks)]
    broken, seen = list[str](), set[tuple[int, str]]()
    for count in range(len(recording.ops) + 1):
        acknowledged = bisect_right(recording.acknowledged, count)
        for lost, content, folders in states_after(recording, count):
            state = acknowledged, digest(content)
            if state not in seen:
                seen.add(state)
                wrong = asyncio.run(start_again(folder / "lost", content, folders, acknowledged, unbroken))
                broken += [f"after {recording.ops[count - 1][:3]} ({count}), {lost}: {wrong}"] if wrong else []
    return broken, len(seen)


def digest(content: dict[str, bytes]) -> str:
    return hashlib.sha256(
        repr([(name, hashlib.sha256(content[name]).digest()) for name in sorted(content)]).encode()
    ).hexdigest()


async def start_again(
    data_dir: Path, content: dict[str, bytes], folders: set[str], acknowledged: int, unbroken: list[str]
) -> str:
    """What a start on this disk finds wrong, nothing if the film is there up to what was acknowledged and can go on."""
    shutil.rmtree(data_dir, ignore_errors=True)
    for name in folders:
        (data_dir / name).mkdir(parents=True, exist_ok=True)
    for name, held in content.items():
        (data_dir / name).write_bytes(held)
    store = await Store.open(data_dir)
    try:
        kept = (await store.view("video_a")).chunks
        if kept not in (acknowledged, acknowledged + 1):
            return f"{kept} chunks, {acknowledged} acknowledged"
        for sha256 in await blobs_named(store):
            await store.read_blob(sha256)
        memory, reset = await store.newest_memory("video_a")
        if reset is not None or (0 if memory is None else memory.next_index) != kept:
            return "it had to be repaired"
        return "" if await store.frame_hashes("video_a") == unbroken[:kept] else "other frames"
    except Exception as error:
        return repr(error)
    finally:
        await store.close()


async def blobs_named(store: Store) -> list[str]:
    rows = await store._database.run(lambda connection: connection.execute("SELECT sha256 FROM blob").fetchall())
    return [row["sha256"] for row in rows]
