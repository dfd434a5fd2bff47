"""The sender's clock, without a network and without waiting: time is what the tests say."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest
from server.standin import SPEC

from delivery.webrtc_viewers import Filmed
from st2v_stream.delivery import webrtc_playback
from st2v_stream.delivery.webrtc_gop import GopShelf
from st2v_stream.delivery.webrtc_playback import (
    JUMP_S,
    REPLAY_S,
    BeyondTheEnd,
    Playback,
    Reel,
    Seat,
    must_jump,
    open_enhanced,
    open_live,
    playback_rate,
)
from st2v_stream.types import Progress, Rendition

FRAME_S = 1 / 8


class TestClock:
    """Time moves only when a test moves it, and stops at every moment that somebody sleeps until."""

    __test__ = False

    def __init__(self) -> None:
        self.time_s = 100.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self.time_s

    async def sleep_until(self, time_s: float) -> None:
        if time_s > self.time_s:
            woken = asyncio.Event()
            heapq.heappush(self._sleepers, (time_s, next(self._order), woken))
            await woken.wait()

    async def move(self, seconds: float) -> None:
        """Let time pass, and everything happen that happens meanwhile."""
        end_s = self.time_s + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end_s + 1e-9:
            self.time_s, _, woken = heapq.heappop(self._sleepers)
            woken.set()
            await settle()
        self.time_s = end_s


async def settle() -> None:
    """Everybody who can run, runs."""
    for _ in range(30):
        await asyncio.sleep(0)


class Watcher:
    """Somebody in a seat, and when each frame came."""

    def __init__(self, playback: Playback, clock: TestClock) -> None:
        self.seat = Seat(playback)
        self.frames: list[bytes] = []
        self.times_s: list[float] = []
        self._clock = clock
        self.task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (frame := await self.seat.next()) is not None:
            self.frames.append(frame)
            self.times_s.append(round(self._clock.now() - 100, 3))

    @property
    def count(self) -> int:
        return len(self.frames)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 10))

    return run


@asynccontextmanager
async def playing(
    director: Filmed, video: str, rendition: Rendition = "preview", time_s: float = 0.0
) -> AsyncIterator[tuple[Playback, TestClock]]:
    view, gops, clock = await director.get(video), GopShelf(director), TestClock()
    if rendition == "preview":
        playback = await open_live(director, view, gops)
    else:
        playback = await open_enhanced(director, view, gops, time_s)
    playback.clock = clock
    task = asyncio.create_task(playback.run())
    try:
        yield playback, clock
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert playback.has_ended


@in_loop
async def test_frames_come_at_the_films_speed_and_begin_with_the_newest_chunk() -> None:
    director = Filmed()
    video = director.add(3)
    async with playing(director, video) as (playback, clock):
        watcher = Watcher(playback, clock)
        await clock.move(0.5)
        assert watcher.times_s == [0.0, 0.125, 0.25, 0.375, 0.5]
        assert playback.turn is not None
        assert playback.turn.gop.index == 2
        assert watcher.frames == list(playback.turn.gop.frames[:5])


@in_loop
async def test_a_pause_of_the_model_is_no_delay_afterwards() -> None:
    director = Filmed()
    video = director.add(2)
    async with playing(director, video) as (playback, clock):
        watcher = Watcher(playback, clock)
        await clock.move(3.0)
        assert watcher.count == 8
        director.segment(video, 2)
        await clock.move(0.5)
        assert watcher.times_s[8:] == [3.0, 3.125, 3.25, 3.375, 3.5]


@in_loop
async def test_a_chunk_that_comes_in_time_follows_without_a_seam() -> None:
    director = Filmed()
    video = director.add(2)
    async with playing(director, video) as (playback, clock):
        watcher = Watcher(playback, clock)
        await clock.move(0.95)
        director.segment(video, 2)
        await clock.move(1.0)
        assert watcher.times_s == [n * FRAME_S for n in range(16)]


@in_loop
async def test_a_late_joiner_gets_the_current_chunk_at_once_even_while_the_model_thinks() -> None:
    director = Filmed()
    video = director.add(2)
    async with playing(director, video) as (playback, clock):
        await clock.move(0.5)
        joiner = Watcher(playback, clock)
        await settle()
        assert joiner.count == 5
        await clock.move(20)
        late = Watcher(playback, clock)
        await settle()
        assert playback.turn is not None
        assert late.frames == list(playback.turn.gop.frames)
        assert joiner.frames == late.frames


@in_loop
async def test_a_lost_picture_is_answered_with_the_current_chunk_but_not_too_often() -> None:
    director = Filmed()
    video = director.add(2)
    async with playing(director, video) as (playback, clock):
        other, watcher = Watcher(playback, clock), Watcher(playback, clock)
        await clock.move(20)
        for _ in range(50):
            watcher.seat.replay()
        await settle()
        assert watcher.frames[8:] == watcher.frames[:8]
        await clock.move(REPLAY_S)
        watcher.seat.replay()
        await settle()
        assert watcher.count == 24
        assert other.count == 8, "nobody else notices"


@in_loop
async def test_a_viewer_that_was_away_goes_on_at_a_key_frame() -> None:
    director = Filmed()
    video = director.add(1)
    async with playing(director, video) as (playback, clock):
        seat = Seat(playback)
        await clock.move(2.5)
        first = await seat.next()
        for index in (1, 2):
            director.segment(video, index)
            await clock.move(1.1)
        rest = [await seat.next() for _ in range(15 + 8)]
        assert playback.turn is not None
        assert rest[15:] == list(playback.turn.gop.frames), "the rest of its own chunk, then the newest from its start"
        assert first is not None


@in_loop
async def test_a_film_made_faster_than_it_plays_is_caught_up_with_and_jumped_through() -> None:
    director = Filmed()
    video = director.add(1)
    async with playing(director, video) as (playback, clock):
        watcher = Watcher(playback, clock)
        await settle()
        for index in range(1, 18):
            director.segment(video, index)
        await clock.move(16 * FRAME_S)
        assert playback.turn is not None
        assert playback.turn.gop.index == 17, "17 s behind: the rest is skipped"
        fast = watcher.times_s[15]
        assert fast < 15 * FRAME_S / 1.1


def test_the_rate_is_gentle() -> None:
    assert playback_rate(0.0, 1.0) == playback_rate(1.25, 1.0) == 1.0
    assert 1.05 <= playback_rate(1.3, 1.0) <= 1.06
    assert playback_rate(100.0, 1.0) == pytest.approx(1.15)
    assert not must_jump(JUMP_S, 1.0)
    assert must_jump(JUMP_S + 0.3, 1.0)


@in_loop
async def test_a_playback_that_began_between_two_chunks_makes_up_for_it() -> None:
    director = Filmed()
    video = director.add(2)  # came 0.6 s ago
    async with playing(director, video) as (playback, clock):
        watcher = Watcher(playback, clock)
        late_s = []
        for index in range(2, 14):
            await clock.move(0.4 if index == 2 else 1.0)
            director.segment(video, index)
            came_s = round(clock.now() - 100, 3)
            await clock.move(0.0)
            late_s.append((index, came_s))
        await clock.move(1.0)
        lateness = [watcher.times_s[8 * (index - 1)] - came_s for index, came_s in late_s]
        assert 0.5 < lateness[0] <= 0.6
        assert all(later <= earlier + 1e-6 for earlier, later in zip(lateness, lateness[1:])), "never a step back"
        assert 0.2 < lateness[-1] < 0.4, lateness


@in_loop
async def test_what_was_reset_is_not_played() -> None:
    director = Filmed()
    video = director.add(3)
    async with playing(director, video) as (playback, clock):
        await clock.move(0.5)
        director.segment(video, 3)
        director.reset(video, 1)
        await clock.move(5)
        assert playback.turn is not None
        assert playback.turn.gop.index == 2, "the chunk on the screen stays until its place is filled again"
        director.segment(video, 1, revision=1)
        await clock.move(0.1)
        assert playback.turn.gop.index == 1


@in_loop
async def test_a_film_that_ends_is_played_to_its_last_frame() -> None:
    director = Filmed()
    video = director.add(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webrtc_playback, "LINGER_S", 0.05)
        async with playing(director, video) as (playback, clock):
            watcher = Watcher(playback, clock)
            for index in range(1, 15):
                director.segment(video, index)
            director.state(video, state="completed", ended_by="length")
            await clock.move(30)
            assert watcher.count == 16 + 14 * 8, "an ended film has no live edge to jump to"
            await watcher.task
            assert playback.has_ended


@in_loop
async def test_a_film_that_is_continued_goes_on() -> None:
    director = Filmed()
    video = director.add(1)
    async with playing(director, video) as (playback, clock):
        watcher = Watcher(playback, clock)
        director.state(video, state="stopped", ended_by="stopped")
        await clock.move(3)
        director.state(video, state="running", ended_by=None)
        await clock.move(60)
        director.segment(video, 1)
        await clock.move(2)
        assert watcher.count == 24


@in_loop
async def test_a_film_that_is_deleted_ends() -> None:
    director = Filmed()
    video = director.add(1)
    async with playing(director, video) as (playback, clock):
        watcher = Watcher(playback, clock)
        await clock.move(1)
        await director.delete(video)
        await clock.move(5)
        await watcher.task
        assert playback.has_ended


@in_loop
async def test_a_film_without_a_chunk_is_waited_for() -> None:
    director = Filmed()
    video = director.add()
    async with playing(director, video) as (playback, clock):
        watcher = Watcher(playback, clock)
        await clock.move(60)
        assert watcher.count == 0
        director.segment(video, 0)
        await clock.move(0.25)
        assert watcher.count == 3


@in_loop
async def test_enhanced_begins_at_the_moment_asked_for_and_leaves_nothing_out() -> None:
    director = Filmed()
    video = director.add(4)
    for index in (0, 1):
        director.segment(video, index, rendition="enhanced")
    async with playing(director, video, "enhanced", time_s=17 / 8) as (playback, clock):
        watcher = Watcher(playback, clock)
        await settle()
        assert playback.turn is not None
        assert (playback.turn.gop.index, playback.turn.shown) == (1, 2), "frame 17, and 16 which it needs, at once"
        assert watcher.times_s == [0.0, 0.0]
        await clock.move(30)
        assert watcher.count == 8
        for index in range(4, 7):
            director.segment(video, index)
        director.segment(video, 3, rendition="enhanced")
        director.segment(video, 2, rendition="enhanced")
        await clock.move(30)
        assert watcher.count == 24, "however far the film has grown"
        assert playback.turn.gop.index == 3


@in_loop
async def test_enhanced_ends_when_all_of_an_ended_film_was_played() -> None:
    director = Filmed()
    video = director.add(2)
    director.segment(video, 0, rendition="enhanced")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webrtc_playback, "LINGER_S", 0.05)
        async with playing(director, video, "enhanced") as (playback, clock):
            watcher = Watcher(playback, clock)
            director.state(video, state="completed", ended_by="length")
            await clock.move(5)
            await asyncio.sleep(0.1)
            assert not playback.has_ended, "chunk 1 is still to be enhanced"
            director.segment(video, 1, rendition="enhanced")
            await clock.move(5)
            await watcher.task
            assert watcher.count == 24


@in_loop
async def test_what_nobody_enhances_any_more_is_not_waited_for_for_ever() -> None:
    director = Filmed()
    video = director.add(2)
    director.segment(video, 0, rendition="enhanced")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webrtc_playback, "HELD_S", 0.5)
        async with playing(director, video, "enhanced") as (playback, clock):
            watcher = Watcher(playback, clock)
            director.state(video, state="stopped", ended_by="stopped")
            await clock.move(5)
            for step in range(8):
                await asyncio.sleep(0.1)
                director.step(video, Progress(1, step, 8, rendition="enhanced"))
            assert not playback.has_ended, "somebody is at work"
            await watcher.task
            assert playback.has_ended
            assert watcher.count == 16


@in_loop
async def test_the_moment_of_a_frame_is_that_frame() -> None:
    director = Filmed()
    video = director.add(8, spec=replace(SPEC, fps=24))
    for index in range(8):
        director.segment(video, index, rendition="enhanced")
    view = await director.get(video)
    for frame in range(view.frames):
        reel = Reel(director, view, "enhanced")
        await reel.open()
        skipped = reel.start_at(frame / 24)
        assert SPEC.start_of(reel.position) + skipped == frame


@in_loop
async def test_a_moment_that_is_not_enhanced_yet_is_said() -> None:
    director = Filmed()
    video = director.add(4)
    director.segment(video, 0, rendition="enhanced")
    view, gops = await director.get(video), GopShelf(director)
    with pytest.raises(BeyondTheEnd, match="expected less than 2 s, received '2 s'"):
        await open_enhanced(director, view, gops, 2.0)
    await open_enhanced(director, view, gops, 1.99)
    other = director.add(1)
    await open_enhanced(director, await director.get(other), gops, 0.0)
    with pytest.raises(BeyondTheEnd):
        await open_enhanced(director, await director.get(other), gops, 1.0)
