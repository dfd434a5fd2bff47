"""A disk that is full, read-only or failing, SQLite's file included: films pause and say why, go on serving, resume alone."""

from __future__ import annotations

import asyncio
import errno
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


async def until_held_up(live: Live, video_id: str) -> VideoView:
    """The notice that it is paused: the log takes no row, so only those who watch are told."""
    async with asyncio.timeout(PATIENCE_S), aclosing(live.follow(video_id)) as news:
        async for entry in news:
            if isinstance(entry, LogEntry) and entry.view is not None and entry.view.paused_reason:
                return entry.view
    raise AssertionError(f"{video_id} was deleted")
