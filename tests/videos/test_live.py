from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from st2v_stream.chunk import Frames, Memory
from st2v_stream.direction import Direction
from st2v_stream.errors import CheckpointError, Conflict, InvalidRequest, NotFound, StoreError, StoreFull, UnknownModel
from st2v_stream.generators.testcard import TestCard
from st2v_stream.types import CreateVideo, Director, Generator, LogEntry, ModelEntry, OnStep, VideoView
from st2v_stream.videos.video import ACTIVE, LEGAL, _Turn, before
from videos.living import (
    entries_to_the_end,
    entry_of,
    frame_hashes,
    living,
    small_card,
    unbroken_hashes,
    until,
    until_chunk,
    until_step,
)

FILM = CreateVideo("a film", num_frames=48)
"""Five chunks."""


def expected_hashes(view: VideoView, chunks: int) -> list[str]:
    assert view.direction is not None
    return list(unbroken_hashes(view.direction, chunks))


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Any:
    before = threading.enumerate()
    yield
    assert threading.enumerate() == before


def test_from_the_prompt_to_the_last_segment(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            director: Director = live
            view = await director.create(FILM)
            assert (view.state, view.frames, view.title) == ("queued", 0, "a film")
            entries = await entries_to_the_end(live, view.id)
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            states = [entry.view.state for entry in entries if entry.view]
            assert states in (["queued", "running", "completed"], ["queued", "loading", "running", "completed"])
            segments = [entry.segment for entry in entries if entry.segment]
            assert [(segment.index, segment.start, segment.frames) for segment in segments] == [
                (0, 0, 16),
                (1, 16, 8),
                (2, 24, 8),
                (3, 32, 8),
                (4, 40, 8),
            ]
            done = await director.get(view.id)
            assert (done.state, done.ended_by, done.frames, done.chunks, done.num_frames) == ("completed", "length", 48, 5, 48)
            ended, snapshot = entries[-1].view, await director.snapshot(view.id)
            assert ended is not None
            assert done.size_bytes >= live.system()["size_bytes"] > 0  # a finished film's memories are thinned: it shrinks
            assert replace(done, size_bytes=0) == replace(ended, size_bytes=0) == replace(snapshot.view, size_bytes=0)
            assert snapshot.seq == done.seq
            assert [entry.segment for entry in snapshot.entries] == segments
            assert len(await director.read_blob(segments[0].hash)) == segments[0].size_bytes
            assert await frame_hashes(live, view.id) == expected_hashes(view, 5)
            assert live.ready
            assert [card.name for card in director.models()] == ["testcard"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_with_the_real_encoder_and_thumbnails(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, real=True) as live:
            view = await live.create(FILM)
            await until(live, view.id, "completed")
            assert (await live.thumbnail(view.id, 4)).startswith(b"\xff\xd8")
            with pytest.raises(NotFound, match="expected 0 to 4, received 5"):
                await live.thumbnail(view.id, 5)
            entries = (await live.snapshot(view.id)).entries
            assert len({entry.segment.init for entry in entries if entry.segment}) == 1

    asyncio.run(main())


def test_a_hundred_followers_and_late_ones_see_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            view = await live.create(replace(FILM, num_frames=160))
            early = [asyncio.create_task(entries_to_the_end(live, view.id)) for _ in range(100)]
            await until_chunk(live, view.id, 9)
            assert live.system()["viewers"] >= 50
            late = asyncio.create_task(entries_to_the_end(live, view.id))
            from_a_cursor = asyncio.create_task(entries_to_the_end(live, view.id, 5))
            whole = await entries_to_the_end(live, view.id)
            assert [entry.seq for entry in whole] == list(range(1, whole[-1].seq + 1))
            assert all(entries == whole for entries in await asyncio.gather(*early))
            assert await late == whole
            assert await from_a_cursor == whole[5:]
            assert live.system()["viewers"] == 0

    asyncio.run(main())


@pytest.mark.parametrize("at", [(0, 1), (1, 0), (3, 2)])
def test_stop_then_continue_equals_unbroken(tmp_path: Path, at: tuple[int, int]) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.02)) as live:
            view = await live.create(replace(FILM, num_frames=None))
            await until_step(live, view.id, *at)
            acknowledged = (await live.get(view.id)).chunks
            assert (await live.stop(view.id)).state in ("stopping", "stopped")
            stopped = await until(live, view.id, "stopped")
            assert stopped.chunks >= acknowledged
            assert (stopped.ended_by, stopped.error) == ("stopped", None)
            with pytest.raises(Conflict, match="received 'stopped'"):
                await live.stop(view.id)
            again = await live.continue_(view.id, 17)
            assert (again.state, again.ended_by) == ("queued", None)
            with pytest.raises(Conflict, match="is being made"):
                await live.continue_(view.id, 8)
            done = await until(live, view.id, "completed")
            assert done.num_frames == done.frames >= stopped.frames + 17
            assert await frame_hashes(live, view.id) == expected_hashes(view, done.chunks)

    asyncio.run(main())


def test_a_stop_takes_effect_within_a_step(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(steps=40, seconds_per_step=0.05)) as live:
            running, waiting = [await live.create(FILM) for _ in range(2)]
            await until_step(live, running.id, 0, 2)
            for view in (waiting, running):
                began = time.perf_counter()
                await live.stop(view.id)
                assert (await until(live, view.id, "stopped")).chunks == 0
                assert time.perf_counter() - began < 0.5

    asyncio.run(main())


def test_a_finished_film_can_go_on_and_an_endless_one_has_no_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            view = await live.create(replace(FILM, num_frames=24))
            await until(live, view.id, "completed")
            with pytest.raises(InvalidRequest, match="num_frames"):
                await live.continue_(view.id, 0)
            await live.continue_(view.id, None)
            await until_chunk(live, view.id, 6)
            assert (await live.get(view.id)).num_frames is None
            await live.stop(view.id)
            done = await until(live, view.id, "stopped")
            assert await frame_hashes(live, view.id) == expected_hashes(view, done.chunks)

    asyncio.run(main())


def test_more_videos_than_places_wait_and_take_turns(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.002), max_running=2) as live:
            views = [await live.create(replace(FILM, seed=seed)) for seed in range(5)]
            most, done = 0, set[str]()

            async def watch(view: VideoView) -> None:
                nonlocal most
                async with aclosing(live.follow(view.id)) as news:
                    async for entry in news:
                        most = max(most, live.system()["running"])
                        if isinstance(entry, LogEntry) and entry.view and entry.view.state == "completed":
                            done.add(view.id)
                            return

            await asyncio.gather(*(watch(view) for view in views))
            assert most == 2
            assert len(done) == 5
            page, more = await live.list(limit=3)
            assert ([view.id for view in page], more) == ([view.id for view in reversed(views[2:])], True)
            page, more = await live.list(limit=3, after=page[-1].id)
            assert ([view.id for view in page], more) == ([views[1].id, views[0].id], False)
            with pytest.raises(InvalidRequest):
                await live.list(limit=0)

    asyncio.run(main())


def test_loading_is_a_state_and_a_failed_load_is_said(tmp_path: Path) -> None:
    ready, attempts = threading.Event(), 0

    def load() -> Generator:
        nonlocal attempts
        attempts += 1
        ready.wait(5)
        if attempts == 1:
            raise CheckpointError("the weights are damaged", expected="sha256 a", received="b")
        return small_card()

    async def main() -> None:
        models = {"testcard": ModelEntry(small_card().card, load)}
        async with living(tmp_path, models=models) as live:
            view = await live.create(FILM)
            assert (await until(live, view.id, "loading")).state == "loading"
            assert live.system()["model"] == {"name": "testcard", "state": "loading", "error": None}
            assert not live.ready
            ready.set()
            failed = await until(live, view.id, "failed")
            assert failed.error == "the weights are damaged: expected sha256 a, received 'b'"
            assert failed.ended_by == "error"
            assert live.system()["model"]["error"] == failed.error
            await live.continue_(view.id, 16)
            await until(live, view.id, "completed")
            assert live.ready

    asyncio.run(main())


def test_a_generator_that_fails_ends_its_film_and_no_other(tmp_path: Path) -> None:
    class Failing(TestCard):
        def generate(self, direction: Direction, memory: Memory, on_step: OnStep) -> tuple[Frames, Memory]:
            if memory.next_index == 3:
                raise MemoryError("8 GiB wanted")
            return super().generate(direction, memory, on_step)

    async def main() -> None:
        failing = Failing(64, 48, steps=2, name="failing")
        async with living(tmp_path, models={"testcard": entry_of(small_card()), "failing": entry_of(failing)}) as live:
            good, bad = await live.create(FILM), await live.create(replace(FILM, model="failing"))
            failed = await until(live, bad.id, "failed")
            assert (failed.error, failed.ended_by, failed.chunks) == ("MemoryError: 8 GiB wanted", "error", 3)
            await until(live, good.id, "completed")
            with pytest.raises(UnknownModel, match="expected one of failing, testcard, received 'other'"):
                await live.create(replace(FILM, model="other"))

    asyncio.run(main())


@pytest.mark.parametrize("leave_after", [0, 2, 4])
def test_a_restart_resumes_by_itself(tmp_path: Path, leave_after: int) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.003)) as live:
            view = await live.create(replace(FILM, num_frames=80))
            queued = await live.create(replace(FILM, seed=7))
            await until_chunk(live, view.id, leave_after)
        async with living(tmp_path) as live:
            done = await until(live, view.id, "completed")
            assert (done.frames, done.ended_by) == (80, "length")
            assert await frame_hashes(live, view.id) == expected_hashes(view, 9)
            await until(live, queued.id, "completed")
            assert await frame_hashes(live, queued.id) == expected_hashes(queued, 5)
            assert [entry.seq for entry in await entries_to_the_end(live, view.id)] == list(range(1, done.seq + 1))

    asyncio.run(main())


def test_a_film_that_was_stopping_does_not_resume(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.01)) as live:
            view = await live.create(replace(FILM, num_frames=None))
            await until_chunk(live, view.id, 1)
            await live._store.change(view.id, before("stopping"), state="stopping")
        async with living(tmp_path) as live:
            stopped = await until(live, view.id, "stopped")
            assert stopped.ended_by == "stopped"

    asyncio.run(main())


def test_a_full_disk_pauses_and_going_on_needs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full, replace_file = threading.Event(), os.replace

    def limited(*args: Any) -> None:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(*args)

    monkeypatch.setattr(os, "replace", limited)

    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.005)) as live:
            view = await live.create(replace(FILM, num_frames=80))
            await until_chunk(live, view.id, 2)
            full.set()
            paused = await until(live, view.id, "paused")
            assert paused.paused_reason is not None
            assert "no space left" in paused.paused_reason
            segments = [entry.segment for entry in (await live.snapshot(view.id)).entries if entry.segment]
            assert all([await live.read_blob(segment.hash) for segment in segments])
            assert live.system()["store_error"] is not None
            assert not live.ready
            full.clear()
            done = await until(live, view.id, "completed")
            assert done.paused_reason is None
            assert await frame_hashes(live, view.id) == expected_hashes(view, 9)

    asyncio.run(main())


def test_a_store_that_takes_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.005)) as live:
            views = [await live.create(replace(FILM, num_frames=None)) for _ in range(2)]
            for view in views:
                await until_chunk(live, view.id, 2)

            async def refuse(*args: Any, **options: Any) -> Any:
                live._store.trouble = StoreFull("no space left in DATA")
                raise live._store.trouble

            with monkeypatch.context() as broken:
                broken.setattr(live._store, "_write", refuse)
                paused = [await until(live, view.id, "paused") for view in views]
                assert {view.paused_reason for view in paused} == {"no space left in DATA"}
                assert (await live.get(views[0].id)).state == "paused"
                assert not live.ready
                with pytest.raises(StoreFull):
                    await live.create(FILM)
                await live.stop(views[0].id)
                stopping = await until(live, views[0].id, "stopping")
                assert stopping.paused_reason == "no space left in DATA"
            stopped = await until(live, views[0].id, "stopped")
            assert (stopped.ended_by, stopped.paused_reason) == ("stopped", None)
            await until_chunk(live, views[1].id, paused[1].chunks + 2)
            assert (await live.get(views[1].id)).state == "running"
            await live.stop(views[1].id)
            for view in views:
                done = await until(live, view.id, "stopped")
                assert await frame_hashes(live, view.id) == expected_hashes(view, done.chunks)

    asyncio.run(main())


def test_nobody_watching_pauses_and_a_viewer_wakes_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.005), when_unwatched="0.05", max_running=1) as live:
            view = await live.create(replace(FILM, num_frames=None))
            async with aclosing(live.follow(view.id)) as news:
                async for entry in news:
                    if entry.index >= 4:
                        break
                watched = await live.get(view.id)
                assert watched.state == "running"
            other = await live.create(FILM)  # gets the only place as soon as the first film pauses
            await until(live, other.id, "completed")
            paused = await live.get(view.id)
            assert (paused.state, paused.paused_reason) == ("paused", "nobody is watching")
            await until_chunk(live, view.id, paused.chunks + 2)
            await live.stop(view.id)
            done = await until(live, view.id, "stopped")
            assert await frame_hashes(live, view.id) == expected_hashes(view, done.chunks)

    asyncio.run(main())


@pytest.mark.parametrize("word", ["never", "-1", "nan", "inf"])
def test_when_unwatched_is_checked(tmp_path: Path, word: str) -> None:
    async def main() -> None:
        with pytest.raises(InvalidRequest, match="expected run, or a number of seconds"):
            async with living(tmp_path, when_unwatched=word):
                pass

    asyncio.run(main())


def test_deleting_a_running_film(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.005)) as live:
            view, kept = [await live.create(replace(FILM, num_frames=None, seed=seed)) for seed in (1, 2)]
            follower = asyncio.create_task(entries_to_the_end(live, view.id))
            await until_chunk(live, view.id, 1)
            await until_chunk(live, kept.id, 1)
            segment = (await live.snapshot(view.id)).entries[0].segment
            assert segment is not None
            await live.delete(view.id)
            assert (await follower)[-1].kind == "segment"
            for question in (live.get, live.snapshot, live.delete, live.stop):
                with pytest.raises(NotFound):
                    await question(view.id)
            assert await live.read_blob(segment.hash)  # within the grace it can be had back
            with pytest.raises(NotFound):
                await anext(live.follow(view.id))
            chunks = (await live.get(kept.id)).chunks
            await until_chunk(live, kept.id, chunks + 2)
            for entry in (await live.snapshot(kept.id)).entries:
                assert entry.segment is not None
                assert await live.read_blob(entry.segment.init)

    asyncio.run(main())


def test_whoever_follows_as_the_server_leaves_does_not_wait_for_ever(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            view = await live.create(FILM)
            late = asyncio.create_task(entries_to_the_end(live, view.id))
            leaving = asyncio.create_task(live._leave())
            assert isinstance(await asyncio.wait_for(late, 5), list)
            await leaving
            assert [entry async for entry in live.follow(view.id)] == []

    asyncio.run(main())


def test_a_second_live_on_the_same_data_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            with pytest.raises(StoreError, match="in use"):
                async with living(tmp_path):
                    pass
            view = await live.create(FILM)
            await until(live, view.id, "completed")

    asyncio.run(main())


def test_the_states_are_closed_under_what_may_follow() -> None:
    assert {state for later in LEGAL.values() for state in later} == set(LEGAL)
    assert all("stopped" in LEGAL[state] and "failed" in LEGAL[state] for state in ACTIVE)
    assert before("queued") - set(ACTIVE) == {"stopped", "completed", "failed"}


def test_a_delete_that_fails_leaves_a_film_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.003)) as live:
            view = await live.create(replace(FILM, num_frames=None))
            await until_chunk(live, view.id, 1)
            with monkeypatch.context() as broken:
                broken.setattr(live._store, "_delete", refuse)
                with pytest.raises(StoreError, match="Input/output error"):
                    await live.delete(view.id)
            await until_chunk(live, view.id, (await live.get(view.id)).chunks + 2)
            await live.stop(view.id)
            stopped = await until(live, view.id, "stopped")
            assert await frame_hashes(live, view.id) == expected_hashes(view, stopped.chunks)
            await live.delete(view.id)

    asyncio.run(main())


def test_after_a_restart_the_running_come_before_the_queued(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.003), max_running=1) as live:
            older, younger = [await live.create(replace(FILM, num_frames=None)) for _ in range(2)]
            await until(live, older.id, "running")
            await live.stop(older.id)
            await until(live, younger.id, "running")
            stopped = await until(live, older.id, "stopped")
            await live.continue_(older.id, None)
        async with living(tmp_path, small_card(seconds_per_step=0.003), max_running=1) as live:
            await until_chunk(live, younger.id, (await live.get(younger.id)).chunks + 2)
            assert (await live.get(older.id)).state == "queued"
            assert (await live.get(older.id)).chunks == stopped.chunks

    asyncio.run(main())


def test_a_film_cancelled_as_it_gets_its_turn_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with living(tmp_path, max_running=1) as live:
            take = _Turn.take

            async def take_and_be_cancelled(turn: _Turn) -> None:
                await take(turn)
                for task in live._tasks.values():
                    task.cancel()

            with monkeypatch.context() as patched:
                patched.setattr(_Turn, "take", take_and_be_cancelled)
                view = await live.create(FILM)
                await asyncio.wait([live._tasks[view.id]])
            assert not live._studio.turns.locked()

    asyncio.run(main())


def test_a_stopped_film_is_thinned(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            view = await live.create(replace(FILM, num_frames=None))
            await until_chunk(live, view.id, 9)
            task = live._tasks[view.id]
            await live.stop(view.id)
            await task
            last = (await live.get(view.id)).chunks - 1
            for index in (0, 8, last):
                await live._store.memory(view.id, index)
            with pytest.raises(NotFound, match="no memory there"):
                await live._store.memory(view.id, 3)

    asyncio.run(main())


def test_directions_that_cannot_be_read_just_now_are_read_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            read, refusals = live._store.timeline, iter([StoreError("not now")])

            async def timeline(video_id: str) -> Any:
                for error in refusals:
                    raise error
                return await read(video_id)

            monkeypatch.setattr(live._store, "timeline", timeline)
            view = await live.create(FILM)
            done = await until(live, view.id, "completed", "failed")
            assert (done.state, done.paused_reason, next(refusals, None)) == ("completed", None, None)

    asyncio.run(main())


def test_another_version_of_the_model_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.003)) as live:
            view = await live.create(replace(FILM, num_frames=40))
            await until_chunk(live, view.id, 1)
        assert "was begun with version" not in caplog.text
        card = small_card()
        models = {"testcard": ModelEntry(replace(card.card, version="next"), lambda: card)}
        async with living(tmp_path, models=models) as live:
            await until(live, view.id, "completed")
            await live.continue_(view.id, 8)
            await until(live, view.id, "completed")
        assert caplog.text.count("was begun with version") == 1
        assert "goes on with version next" in caplog.text

    asyncio.run(main())
