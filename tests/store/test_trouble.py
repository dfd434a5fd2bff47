"""Every single write of a commit may fail, SQLite's own included: nothing half-made stays, and the next try succeeds."""

from __future__ import annotations

import asyncio
import errno
import shutil
from itertools import islice
from pathlib import Path

import pytest

from st2v_stream.errors import StoreError, StoreFull
from st2v_stream.store.fsck import check
from st2v_stream.store.segments import ChunkRecord
from st2v_stream.store.store import Store
from store.films import new_view, records_after
from store.recording import Recording, recorded
from store.test_crash import quick_folder


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_one_failed_write(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(data_dir: Path) -> None:
        store = await Store.open(data_dir, grace_s=0)
        await store.create(new_view(), {})
        await store.close()
        with recorded(data_dir, monkeypatch) as recording:
            store = await Store.open(data_dir, grace_s=0)
            failed = 0
            for record in islice(records_after(), 40):
                failed += await commit_in_spite_of(store, recording, record, number, failed)
            assert failed > 10
            recording.trouble = None
            await store.close()
        assert [chunk for chunk in check(data_dir).findings if chunk.weight != "copy"] == []
        store = await Store.open(data_dir)
        unbroken = [record.frames_sha256 for record in islice(records_after(), 40)]
        assert await store.frame_hashes("video_a") == unbroken
        assert (await store.newest_memory("video_a"))[1] is None
        await store.close()
        assert check(data_dir).findings == ()

    with quick_folder() as folder:
        asyncio.run(main(folder / "data"))


def test_a_commit_whose_sync_failed_can_be_found_by_the_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's log holds it, only not surely on the disk: after a kill it counts, so its blobs must not have been removed."""

    async def main(data_dir: Path) -> None:
        with recorded(data_dir, monkeypatch) as recording:
            store = await Store.open(data_dir)
            await store.create(new_view(), {})
            one, two = islice(records_after(), 2)
            await store.commit("video_a", 0, one)
            recording.sync_trouble = True
            assert "IOERR_FSYNC" in str(await failure_of(store, two))
            assert (await store.view("video_a")).chunks == 1
            recording.sync_trouble = False
            shutil.copytree(data_dir, data_dir.with_name("left"), ignore=shutil.ignore_patterns("*-shm"))
            await store.commit("video_a", 0, two)
            await store.close()
        store = await Store.open(data_dir.with_name("left"))
        assert (await store.view("video_a")).chunks == 2
        assert (await store.newest_memory("video_a"))[1] is None
        await store.close()
        assert check(data_dir.with_name("left")).findings == check(data_dir).findings == ()

    with quick_folder() as folder:
        asyncio.run(main(folder / "data"))


async def commit_in_spite_of(store: Store, recording: Recording, record: ChunkRecord, number: int, at: int) -> bool:
    """Whether its write number `at` could be made to fail; it is committed after that."""
    recording.trouble, recording.trouble_at = number, at
    error = await failure_of(store, record)
    if error is None:
        return False
    assert isinstance(error, StoreFull) == (number == errno.ENOSPC and "IOERR_FSYNC" not in str(error))
    assert store.trouble is error
    assert list((recording.root / "tmp").iterdir()) == []
    for entry in (await store.snapshot("video_a")).entries:
        assert entry.segment is not None
        assert await store.read_blob(entry.segment.hash), "what exists is served"
    recording.trouble = None
    await store.commit("video_a", 0, record)
    assert store.trouble is None
    return True


async def failure_of(store: Store, record: ChunkRecord) -> StoreError | None:
    try:
        await store.commit("video_a", 0, record)
    except StoreError as error:
        return error
    return None
