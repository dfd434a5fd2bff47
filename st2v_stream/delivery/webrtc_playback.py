"""Playing a film for viewers who have no buffer: the one place with a clock.

A `Reel` knows from the log which chunks of one rendition there are. A `Playback` shows them frame by frame at the film's speed;
while the model thinks it shows nothing new, and time begins again when the next chunk comes, so a pause never turns into delay.
Viewers queue nothing: a `Seat` is a place in the chunk being shown. A newcomer's seat starts at its key frame and gets what
has been shown of it at once; a viewer that lost the picture is put back to that start.

A live playback is shared by all viewers of a film and stays near the newest frame; one of the enhanced rendition belongs to one
viewer and leaves nothing out.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from dataclasses import dataclass
from typing import Protocol

from st2v_stream.delivery.film import following, read_film
from st2v_stream.delivery.webrtc_gop import Gop, GopShelf
from st2v_stream.errors import Conflict, NotFound, St2vError
from st2v_stream.types import Director, LogEntry, Progress, Rendition, SegmentRef, VideoView

log = logging.getLogger(__name__)

LINGER_S = 2.0
"""After the last frame of a film that has ended, somebody may still make it go on."""

HELD_S = 60.0
"""The film has ended, not all of it is enhanced, and for so long nothing was heard of the enhancer: then no more will come."""

REPLAY_S = 0.25
"""A viewer is put back to the key frame at most this often, however much it complains."""

TARGET_CHUNKS = 0.25
"""So late a chunk may begin. (The page's player keeps 1.5 chunks, as its element must not run dry; here a held picture costs
nothing.) Whoever opens a playback between two chunks begins late by as much, and that is made up for."""

JUMP_S = 10.0
"""As the page's player does (web/edge.js): so much further behind, and the rest is skipped."""


class Clock(Protocol):
    """What time it is on the sender's side, in seconds."""

    def now(self) -> float: ...

    async def sleep_until(self, time_s: float) -> None: ...


class LoopClock:
    """The event loop's own monotonic clock."""

    def now(self) -> float:
        """Seconds since some moment."""
        return asyncio.get_running_loop().time()

    async def sleep_until(self, time_s: float) -> None:
        """Return at `time_s`, at once if that has passed."""
        await asyncio.sleep(max(0.0, time_s - self.now()))


class BeyondTheEnd(Conflict):
    """The moment asked for does not exist yet."""

    code = "not_there_yet"


def playback_rate(behind_s: float, chunk_s: float) -> float:
    """How fast a live playback goes when a chunk has come: 1, or up to 1.15 when that chunk's turn comes too late.

    behind_s: what is to be shown, that chunk included.
    """
    excess_s = behind_s - (TARGET_CHUNKS + 1) * chunk_s
    return 1.0 if excess_s <= 0 else 1.05 + 0.1 * min(1.0, excess_s / 4)


def must_jump(behind_s: float, chunk_s: float) -> bool:
    """Whether a live playback is so far behind that it goes on with the newest chunk."""
    return behind_s > JUMP_S + TARGET_CHUNKS * chunk_s


# ---------------------------------------------------------------- what there is


class Reel:
    """The chunks of one rendition from `position` on, as the log tells them. `follow` keeps it up to date."""

    def __init__(self, director: Director, view: VideoView, rendition: Rendition) -> None:
        self.position = 0
        self.video_id = view.id
        self.fps = view.spec.fps
        self.chunk_s = view.spec.chunk_frames / view.spec.fps
        self._director = director
        self._rendition = rendition
        self._view = view
        self._there: dict[int, SegmentRef] = {}
        self._changed = asyncio.Event()
        self._seq = 0
        self._is_over = False

    async def open(self) -> None:
        """Read what exists now. Raises `NotFound` when the video is gone."""
        try:
            film = await read_film(self._director, self.video_id, self._rendition)
        except NotFound:
            self._view = await self._director.get(
                self.video_id
            )  # nothing in this rendition yet: the log is read from its start
            return
        self._view, self._seq = film.view, film.view.seq
        self._there = {segment.index: segment for segment in film.segments}

    def start_at_newest(self) -> None:
        """Live: the newest chunk comes first."""
        self._begin_at(max(self._there, default=0))

    def start_at(self, time_s: float) -> int:
        """From the beginning: the chunk of that moment comes first; the frames of it to skip. Raises `BeyondTheEnd`."""
        frame = int(time_s * self.fps + 1e-6)  # n / fps s is frame n, whatever the division left
        segments = list(self._there.values())
        place = bisect_right([segment.start for segment in segments], frame) - 1
        end = segments[-1].start + segments[-1].frames if segments else 0
        if frame >= end and frame > 0:
            raise BeyondTheEnd(
                f"that moment does not exist as {self._rendition} yet",
                expected=f"less than {end / self.fps:g} s",
                received=f"{time_s:g} s",
                param="t",
            )
        self._begin_at(max(0, place))
        return frame - segments[place].start if segments else 0

    async def follow(self) -> None:
        """Keep up with the log until the video is deleted."""
        try:
            async with following(self._director, self.video_id, self._seq) as items:
                async for item in items:
                    if not isinstance(item, Progress):
                        self._note(item)
                    elif item.rendition == self._rendition:
                        self._changed.set()
        finally:
            self._is_over = True
            self._changed.set()

    async def next(self) -> SegmentRef | None:
        """The chunk at `position`, which moves on; waits for it. None when the film has ended (and stays so) or is gone."""
        while not self._is_over:
            self._changed.clear()
            if self.position in self._there:
                segment = self._there.pop(self.position)
                self.position += 1
                return segment
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._changed.wait()
            except TimeoutError:
                return None
        return None

    def skip_to_newest(self) -> None:
        """Leave out what lies between here and the newest chunk."""
        self._begin_at(max(self._there, default=self.position))

    @property
    def waiting_frames(self) -> int:
        """Frames that exist from `position` on."""
        return sum(segment.frames for segment in self._there.values())

    @property
    def is_growing(self) -> bool:
        """Whether the film is still being made."""
        return self._view.ended_by is None

    @property
    def _patience_s(self) -> float | None:
        """How long to wait for a word of the chunk at `position`; None: as long as it takes."""
        if self.is_growing:
            return None
        return LINGER_S if self.position >= self._view.chunks else HELD_S

    def _begin_at(self, position: int) -> None:
        self.position = position
        self._there = {index: segment for index, segment in self._there.items() if index >= position}

    def _note(self, entry: LogEntry) -> None:
        if entry.kind == "reset":
            self._there = {index: segment for index, segment in self._there.items() if index < entry.index}
            self.position = min(self.position, entry.index)
        elif entry.view is not None:
            self._view = entry.view
        elif entry.segment is not None and entry.segment.rendition == self._rendition and entry.index >= self.position:
            self._there[entry.index] = entry.segment
        self._changed.set()


# ---------------------------------------------------------------- playing it


@dataclass(slots=True, eq=False)
class Turn:
    """A chunk on the screen, and how many of its frames have been shown."""

    gop: Gop
    shown: int = 0


class Playback:
    """Shows the frames of a reel, each when it is due."""

    def __init__(self, reel: Reel, gops: GopShelf, *, live: bool, skip_frames: int = 0, clock: Clock | None = None) -> None:
        self.turn: Turn | None = None
        self.has_ended = False
        self.clock: Clock = clock or LoopClock()
        self._reel = reel
        self._gops = gops
        self._live = live
        self._skip_frames = skip_frames
        self._behind = 0.0
        self._rate = 1.0
        self._rung = asyncio.Event()

    async def run(self) -> None:
        """Play until the film has ended, is deleted or cannot be read."""
        try:
            async with asyncio.TaskGroup() as tasks:
                follower = tasks.create_task(self._reel.follow())
                await self._play()
                follower.cancel()
        except* St2vError as failed:
            level = logging.INFO if failed.subgroup(NotFound) else logging.ERROR  # NotFound: deleted while it was played
            log.log(level, "playing %s has ended: %s", self._reel.video_id, failed.exceptions)
        finally:
            self.has_ended = True
            self.wake()

    def listen(self) -> asyncio.Event:
        """The event of the next change. Take it before looking, then wait for it."""
        return self._rung

    def wake(self) -> None:
        """Every seat looks again."""
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()

    async def _play(self) -> None:
        due_s = self.clock.now()
        while (segment := await self._reel.next()) is not None:
            gop = await self._gops.get(segment)
            frame_s = 1 / self._reel.fps
            if self.clock.now() - due_s > frame_s:  # the picture stood still: time begins again
                due_s = self.clock.now()
            turn = self.turn = Turn(gop)
            shown_at_once, self._skip_frames = self._skip_frames, 0
            for number in range(shown_at_once + 1, len(gop.frames) + 1):
                await self.clock.sleep_until(due_s)
                turn.shown = number
                self.wake()
                self._look(gop, number - 1)  # the one on the screen stays there for its time
                due_s += frame_s / self._rate
            if self._live and self._reel.is_growing and must_jump(self._behind_s(gop, len(gop.frames)), self._reel.chunk_s):
                self._reel.skip_to_newest()

    def _look(self, gop: Gop, shown: int) -> None:
        """Decide the rate whenever a chunk has come; in between the distance shrinks with every frame and says nothing."""
        before, self._behind = self._behind, self._behind_s(gop, shown)
        if not (self._live and self._reel.is_growing):
            self._rate = 1.0
        elif self._behind > before:
            self._rate = playback_rate(self._behind, self._reel.chunk_s)

    def _behind_s(self, gop: Gop, shown: int) -> float:
        return (self._reel.waiting_frames + len(gop.frames) - shown) / self._reel.fps


class Seat:
    """One viewer's place in a playback."""

    def __init__(self, playback: Playback) -> None:
        self._playback = playback
        self._turn: Turn | None = None
        self._taken = 0
        self._replayed_s = float("-inf")

    async def next(self) -> bytes | None:
        """The next frame for this viewer, as soon as it has been shown; None after the last."""
        while True:
            rung = self._playback.listen()
            if self._turn is None or self._taken >= self._turn.shown:
                self._move_on()
            if self._turn is not None and self._taken < self._turn.shown:
                self._taken += 1
                return self._turn.gop.frames[self._taken - 1]
            if self._playback.has_ended:
                return None
            await rung.wait()

    def replay(self) -> None:
        """The viewer has lost the picture: what has been shown of the chunk on the screen comes again, key frame first."""
        now = self._playback.clock.now()
        if now - self._replayed_s >= REPLAY_S:
            self._replayed_s = now
            self._turn, self._taken = self._playback.turn, 0
            self._playback.wake()

    def _move_on(self) -> None:
        if self._turn is not self._playback.turn:
            self._turn, self._taken = self._playback.turn, 0


async def open_live(director: Director, view: VideoView, gops: GopShelf) -> Playback:
    """A playback near the newest frame of the preview."""
    reel = Reel(director, view, "preview")
    await reel.open()
    reel.start_at_newest()
    return Playback(reel, gops, live=True)


async def open_enhanced(director: Director, view: VideoView, gops: GopShelf, time_s: float) -> Playback:
    """A playback of the enhanced rendition from a moment on. Raises `BeyondTheEnd`."""
    reel = Reel(director, view, "enhanced")
    await reel.open()
    return Playback(reel, gops, live=False, skip_frames=reel.start_at(time_s))
