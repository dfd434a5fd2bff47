"""A disk that is full, read-only or failing, SQLite's file included: films pause and say why, go on serving, resume alone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import subprocess
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from store.recording import recorded

from st2v_stream.store.fsck import check
from st2v_stream.types import CreateVideo, LogEntry, VideoView
from st2v_stream.videos.live import Live
from videos.living import PATIENCE_S, frame_hashes, living, small_card, unbroken_hashes, until, until_chunk

CHUNKS = 8
SAID = {
    errno.ENOSPC: "no space left",
    errno.EROFS: "cannot be written: expected a writable directory",
    errno.EIO: "cannot be used",
}


@pytest.mark.parametrize("number", SAID)
def test_a_film_pauses_says_why_and_goes_on_by_itself(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.003)) as live:
            view = await live.create(CreateVideo("a film", num_frames=16 + 8 * (CHUNKS - 1)))
            other = await live.create(CreateVideo("another", num_frames=16))
            await until(live, other.id, "completed")
            await until_chunk(live, view.id, 2)
            recording.trouble = number
            paused = await until_held_up(live, view.id)
            assert paused.paused_reason is not None
            assert SAID[number] in paused.paused_reason
            assert not live.ready
            assert live.system()["store_error"]
            for video_id in (view.id, other.id):
                for entry in (await live.snapshot(video_id)).entries:
                    assert entry.segment is not None
                    assert await live.read_blob(entry.segment.hash)
            assert (await live.get(view.id)).state == "paused"
            recording.trouble = None
            done = await until(live, view.id, "completed")
            assert (done.chunks, done.paused_reason, done.error) == (CHUNKS, None, None)
            assert live.ready
            assert view.direction is not None
            assert await frame_hashes(live, view.id) == list(unbroken_hashes(view.direction, CHUNKS))

    with recorded(tmp_path, monkeypatch) as recording:
        asyncio.run(main())
    assert check(tmp_path).findings == ()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB; only root can make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    data_dir, filler = small_disk / "data", small_disk / "filler"

    async def main() -> None:
        async with living(data_dir, small_card(seconds_per_step=0.003), real=True) as live:
            view = await live.create(CreateVideo("a film", num_frames=16 + 8 * (4 * CHUNKS - 1)))
            await until_chunk(live, view.id, 3)
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            paused = await until_held_up(live, view.id)
            assert "no space left" in str(paused.paused_reason)
            for entry in (await live.snapshot(view.id)).entries:
                assert entry.segment is not None
                assert await live.read_blob(entry.segment.hash)
            filler.unlink()
            done = await until(live, view.id, "completed")
            assert (done.chunks, done.paused_reason) == (4 * CHUNKS, None)
            assert view.direction is not None
            assert await frame_hashes(live, view.id) == list(unbroken_hashes(view.direction, 4 * CHUNKS))

    asyncio.run(main())
    assert check(data_dir).findings == ()


async def until_held_up(live: Live, video_id: str) -> VideoView:
    """The notice that it is paused: the log takes no row, so only those who watch are told."""
    async with asyncio.timeout(PATIENCE_S), aclosing(live.follow(video_id)) as news:
        async for entry in news:
            if isinstance(entry, LogEntry) and entry.view is not None and entry.view.paused_reason:
                return entry.view
    raise AssertionError(f"{video_id} was deleted")
