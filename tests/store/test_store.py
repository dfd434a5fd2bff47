from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import pytest

from st2v_stream.direction import Cue, Timeline
from st2v_stream.errors import Conflict, NotFound, StoreError, StoreFull
from st2v_stream.store import videos
from st2v_stream.store.store import Store
from store.films import DIRECTION, chunks_after, new_view, records_after


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.enumerate()
    yield
    assert threading.enumerate() == before


@asynccontextmanager
async def opened(data_dir: Path) -> AsyncIterator[Store]:
    store = await Store.open(data_dir, grace_s=0)
    try:
        yield store
    finally:
        await store.close()


async def write_film(store: Store, chunks: int, video_id: str = "video_a") -> None:
    await store.create(new_view(video_id), {})
    epoch = await store.begin_run(video_id)
    for record in islice(records_after(), chunks):
        await store.commit(video_id, epoch, record)


def blob_files(data_dir: Path) -> set[str]:
    return {path.name for path in (data_dir / "blobs").glob("??/*")}


def test_a_film_is_there_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 4)
            before = await store.view("video_a")
            assert (before.chunks, before.frames, before.seq) == (4, 40, 5)
            assert (
                before.size_bytes == store.size_bytes == sum(path.stat().st_size for path in (tmp_path / "blobs").glob("??/*"))
            )
        async with opened(tmp_path) as store:
            assert await store.view("video_a") == before
            assert store.size_bytes == before.size_bytes
            memory, reset = await store.newest_memory("video_a")
            chunks = list(islice(chunks_after(), 4))
            assert memory is not None
            assert (memory.digest, reset) == (chunks[-1].memory.digest, None)
            assert (await store.memory("video_a", 1)).digest == chunks[1].memory.digest
            assert await store.timeline("video_a") == Timeline(DIRECTION)
            with pytest.raises(NotFound):
                await store.memory("video_a", 4)

    asyncio.run(main())


def test_the_log_and_the_snapshot(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 3)
            await store.change("video_a", {"queued"}, state="failed", error="why", ended_by="error")
            log = await store.read_log("video_a", 0)
            assert [(entry.seq, entry.kind, entry.index) for entry in log] == [
                (1, "state", 0),
                (2, "segment", 0),
                (3, "segment", 1),
                (4, "segment", 2),
                (5, "state", 3),
            ]
            assert log[-1].view == await store.view("video_a")
            assert await store.read_log("video_a", 3) == log[3:]
            snapshot = await store.snapshot("video_a")
            assert snapshot.entries == tuple(log[1:4])
            assert (snapshot.seq, snapshot.view) == (5, log[-1].view)
            segment = log[2].segment
            assert segment is not None
            assert await store.segment("video_a", 1) == segment
            assert (await store.read_blob(segment.hash)).startswith(b"segment")
            assert await store.read_blob(segment.init) == b"the init segment of all of them"
            assert await store.segment("video_a", 9) is None

    asyncio.run(main())
    lines = [json.loads(line) for line in (tmp_path / "videos" / "video_a.jsonl").read_text().splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3, 4, 5]
    assert json.loads(lines[1]["chunk"]["memory"])["next_index"] == 1


def test_only_the_next_chunk_of_the_newest_run_is_taken(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 1)
            epoch = await store.begin_run("video_a")
            zero, one, two = islice(records_after(), 3)
            for bad_epoch, record in ((epoch - 1, one), (epoch, zero), (epoch, two), (epoch + 1, one)):
                files = blob_files(tmp_path)
                with pytest.raises(Conflict, match=f"expected chunk 1 of run {epoch}"):
                    await store.commit("video_a", bad_epoch, record)
                assert blob_files(tmp_path) == files, "nothing half-made stays"
            await store.commit("video_a", epoch, one)
            with pytest.raises(Conflict, match="no video"):
                await store.commit("video_b", 1, one)
            assert len(await store.frame_hashes("video_a")) == 2

    asyncio.run(main())


def test_states_are_changed_only_from_the_expected_ones(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.create(new_view(), {})
            with pytest.raises(Conflict, match="expected one of running"):
                await store.change("video_a", {"running"}, state="paused")
            assert (await store.view("video_a")).seq == 1
            with pytest.raises(NotFound):
                await store.change("video_b", {"queued"}, state="paused")

    asyncio.run(main())


def test_pages(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            for name in "abcde":
                await store.create(new_view(f"video_{name}"), {})
            page, more = await store.page(None, 2, "desc")
            assert ([view.id[-1] for view in page], more) == (["e", "d"], True)
            page, more = await store.page("video_b", 5, "desc")
            assert ([view.id[-1] for view in page], more) == (["a"], False)
            page, more = await store.page("video_b", 2, "asc")
            assert ([view.id[-1] for view in page], more) == (["c", "d"], True)
            assert [view.id[-1] for view in await store.in_states("queued")] == list("abcde")
            assert await store.in_states("running") == []

    asyncio.run(main())


def test_cues_are_part_of_the_timeline(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.create(new_view(), {})
            cues = (Cue(3, {"prompts": (("b", 1.0),)}), Cue(1, {"seed": 5}))
            for cue in cues:
                await store.cue("video_a", cue)
            assert await store.timeline("video_a") == Timeline(DIRECTION, cues)
            assert [entry.kind for entry in await store.read_log("video_a", 1)] == ["cue", "cue"]

    asyncio.run(main())


def test_deleting_frees_what_nobody_shares(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 3, "video_a")
            alone = blob_files(tmp_path)
            await write_film(store, 4, "video_b")
            both = blob_files(tmp_path)
            assert alone < both
            await store.delete("video_a")
            assert blob_files(tmp_path) == both, "video_b has them all"
            assert not (tmp_path / "videos" / "video_a.jsonl").exists()
            for read in (store.view, store.snapshot, store.timeline, store.begin_run, store.delete):
                with pytest.raises(NotFound):
                    await read("video_a")
            await store.delete("video_b")
            assert blob_files(tmp_path) == set()
            assert store.size_bytes == 0

    asyncio.run(main())


def test_a_finished_film_keeps_every_eighth_memory_and_the_last(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 19)
            memories = [await store.memory("video_a", index) for index in range(19)]
            files, size = len(blob_files(tmp_path)), store.size_bytes
            await store.thin("video_a")
            kept = {0, 8, 16, 18}
            for index in range(19):
                if index in kept:
                    assert (await store.memory("video_a", index)).digest == memories[index].digest
                else:
                    with pytest.raises(NotFound, match="no memory there"):
                        await store.memory("video_a", index)
            assert len(blob_files(tmp_path)) == files - 15
            assert store.size_bytes < size
            memory, reset = await store.newest_memory("video_a")
            assert memory is not None
            assert (memory.next_index, reset) == (19, None)

    asyncio.run(main())


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_memory_cuts_the_film_back_to_the_last_whole_one(tmp_path: Path, harm: str) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 5)
            for index in (3, 4):
                hurt(tmp_path / "blobs", await newest_part(store, index), harm)
        async with opened(tmp_path) as store:
            memory, reset = await store.newest_memory("video_a")
            assert memory is not None
            assert reset is not None
            assert (memory.next_index, reset.kind, reset.index, reset.seq) == (3, "reset", 3, 7)
            view = await store.view("video_a")
            assert (view.chunks, view.frames) == (3, 32)
            epoch = await store.begin_run("video_a")
            for record in islice(records_after(memory), 2):
                await store.commit("video_a", epoch, record)
            assert await store.frame_hashes("video_a") == [record.frames_sha256 for record in islice(records_after(), 5)]
            kinds = [(entry.seq, entry.kind, entry.index) for entry in await store.read_log("video_a", 0)]
            assert kinds[-3:] == [(7, "reset", 3), (8, "segment", 3), (9, "segment", 4)]

    asyncio.run(main())


async def newest_part(store: Store, index: int) -> str:
    """Hash of the part of this memory that no other memory shares."""
    rows = await store._database.run(lambda connection: connection.execute("SELECT memory FROM chunk ORDER BY idx").fetchall())
    return str(json.loads(rows[index]["memory"])["parts"]["digest"])


def hurt(blobs: Path, sha256: str, harm: str) -> None:
    path = blobs / sha256[:2] / sha256
    data = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if harm == "cut" else data[:-1] + bytes([data[-1] ^ 1]))


def test_a_disk_that_cannot_be_read_just_now_cuts_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 5)
        blobs = blob_files(tmp_path)
        async with opened(tmp_path) as store:
            with monkeypatch.context() as patched:
                patched.setattr(Path, "read_bytes", refuse)
                with pytest.raises(StoreError, match="Too many open files"):
                    await store.newest_memory("video_a")
            assert (await store.view("video_a")).chunks == 5
            assert blob_files(tmp_path) == blobs
            memory, reset = await store.newest_memory("video_a")
            assert (memory is not None, reset) == (True, None)

    asyncio.run(main())


def test_a_damaged_segment_is_not_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 1)
            segment = await store.segment("video_a", 0)
            assert segment is not None
            hurt(tmp_path / "blobs", segment.hash, "flip")
            with pytest.raises(StoreError, match=f"damaged: expected .*{segment.hash}"):
                await store.read_blob(segment.hash)
            for wrong in ("0" * 64, "../../etc/passwd", "A" * 64, ""):
                with pytest.raises(NotFound):
                    await store.read_blob(wrong)

    asyncio.run(main())


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    opening = f"asyncio.run(Store.open(Path({str(tmp_path)!r})))"
    script = f"import asyncio; from pathlib import Path; from st2v_stream.store.store import Store; {opening}"

    async def main() -> None:
        async with opened(tmp_path):
            child = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stderr=subprocess.PIPE)
            _, said = await child.communicate()
            assert child.returncode == 1
            expected = f"is in use: expected no other st2v on this data directory, received 'process {os.getpid()}'"
            assert expected in said.decode()
            with pytest.raises(StoreError, match="in use"):
                await Store.open(tmp_path)
        async with opened(tmp_path):
            pass

    asyncio.run(main())


def test_other_layouts_newer_tables_and_foreign_files_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "VERSION").write_text("9\n")
        with pytest.raises(StoreError, match="another layout: expected 1, received '9'"):
            await Store.open(tmp_path / "a")
        async with opened(tmp_path / "b"):
            pass
        newer = sqlite3.connect(tmp_path / "b" / "st2v.db")
        newer.execute("PRAGMA user_version = 99")
        newer.close()
        with pytest.raises(StoreError, match="newer st2v"):
            await Store.open(tmp_path / "b")
        async with opened(tmp_path / "c"):
            pass
        (tmp_path / "c" / "st2v.db").write_bytes(b"this is no database" * 1000)
        with pytest.raises(StoreError, match="damaged"):
            await Store.open(tmp_path / "c")
        (tmp_path / "d").write_text("a file")
        with pytest.raises(StoreError, match="cannot be used"):
            await Store.open(tmp_path / "d")
        for name in "abc":  # nobody holds a lock
            with (tmp_path / name / "LOCK").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    asyncio.run(main())


def test_a_read_only_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*args: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(
        StoreError, match=r"cannot be written: expected a writable directory, received 'Read-only file system \(EROFS\)'"
    ):
        asyncio.run(Store.open(tmp_path))


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 1)
            files, one = blob_files(tmp_path), next(islice(records_after(), 1, None))
            with monkeypatch.context() as broken:
                broken.setattr(os, failing, full)
                with pytest.raises(StoreFull, match=r"no space left in .*ENOSPC"):
                    await store.commit("video_a", 1, one)
                assert isinstance(store.trouble, StoreFull)
                assert (await store.view("video_a")).chunks == 1
                assert len((await store.snapshot("video_a")).entries) == 1
            assert blob_files(tmp_path) == files
            assert list((tmp_path / "tmp").iterdir()) == []
            await store.commit("video_a", 1, one)
            assert store.trouble is None

    asyncio.run(main())


def test_a_database_that_cannot_grow_is_a_full_store(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 1)
            files = blob_files(tmp_path)
            pages = await store._database.run(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
            await store._database.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())
            with pytest.raises(StoreFull, match="no space left"):
                await write_film(store, 200, "video_b")
            known = await store._database.run(lambda connection: connection.execute("SELECT sha256 FROM blob").fetchall())
            assert blob_files(tmp_path) == {row["sha256"] for row in known} >= files
            check = await store._database.run(lambda connection: connection.execute("PRAGMA integrity_check").fetchone()[0])
            assert check == "ok"
            assert (await store.view("video_a")).chunks == 1

    asyncio.run(main())


def test_views_survive_json() -> None:
    view = replace(new_view(num_frames=40), error="x", parent_id="video_p", fork_index=3, completed_at_s=5)
    assert videos.view_from_json(json.dumps(asdict(view))) == view


def test_a_delete_is_done_even_where_files_stay_and_says_that_writing_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 2)
            store.trouble = StoreError("it was full")
            with monkeypatch.context() as broken:
                broken.setattr(Path, "unlink", refuse)
                await store.delete("video_a")
            assert (store.trouble, store.size_bytes) == (None, 0)
            with pytest.raises(NotFound):
                await store.view("video_a")

    asyncio.run(main())


def test_folders_among_the_leftovers_are_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path):
            pass
        for folder in ("cache", "tmp"):
            (tmp_path / folder / "folder").mkdir()
            (tmp_path / folder / "leftover").touch()
        async with opened(tmp_path):
            for folder in ("cache", "tmp"):
                assert [path.name for path in (tmp_path / folder).iterdir()] == ["folder"]

    asyncio.run(main())
