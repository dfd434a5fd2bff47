"""How readers of a video's log learn that there is more: one bell for all of them, and no queue for any of them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from st2v_stream.types import LogEntry, Progress

ReadLog = Callable[[int], Awaitable[Sequence[LogEntry]]]
"""read(seq): the next log entries after `seq`, in order, a page of them; empty when there are none."""

RECENT = 64
"""Entries kept at hand per video, so that viewers at the live edge do not each ask the store."""


class Bell:
    """What is newest of one video, and a way to wait for newer. Used on the event loop only.

    seq: of the newest log entry. progress: of the chunk being made; sharpening: of the one being made sharp. notice: a state
    that could not be written to the log (a full disk), with the seq of the entry before it.
    """

    def __init__(self, seq: int = 0) -> None:
        self.seq = seq
        self.progress: Progress | None = None
        self.sharpening: Progress | None = None
        self.notice: LogEntry | None = None
        self.closed = False
        self.listeners = 0
        self.arrived_at_s = 0.0
        """When the last one came, by `time.monotonic()`; 0 for nobody yet."""
        self._unwatched_since_s = time.monotonic()
        self._watched = asyncio.Event()
        self._recent: deque[LogEntry] = deque(maxlen=RECENT)
        self._rung = asyncio.Event()

    def announce(self, entries: Sequence[LogEntry]) -> None:
        """Entries were committed: wake everybody. Ignores those announced before."""
        fresh = [entry for entry in entries if entry.seq > self.seq]
        if fresh:
            if fresh[0].seq != self.seq + 1:  # what lies between is in the store
                self._recent.clear()
            for entry in fresh:
                if entry.kind == "reset":  # entries before it may name chunks that are no more: the store knows which
                    self._recent.clear()
                self._recent.append(entry)
            self.seq, self.notice = fresh[-1].seq, None
            self._ring()

    def announce_seq(self, seq: int) -> None:
        """The log reaches to `seq`: said by whoever has just read the store."""
        if seq > self.seq:
            self.seq = seq
            self._recent.clear()
            self._ring()

    def announce_progress(self, progress: Progress | None) -> None:
        """Another step is done: wake everybody."""
        self.progress = progress
        self._ring()

    def announce_sharpening(self, progress: Progress | None) -> None:
        """Another step of the enhancer is done: wake everybody."""
        self.sharpening = progress
        self._ring()

    def announce_notice(self, notice: LogEntry) -> None:
        """A state that the log could not take: wake everybody."""
        self.notice = notice
        self._ring()

    def close(self) -> None:
        """The video is gone: every follower ends."""
        self.closed = True
        self._ring()

    def listen(self) -> asyncio.Event:
        """The event of the next ring. Take it before looking for news, then wait for it."""
        return self._rung

    def recent_after(self, seq: int) -> list[LogEntry] | None:
        """The entries after `seq` if all of them are at hand."""
        if self._recent and self._recent[0].seq <= seq + 1:
            return [entry for entry in self._recent if entry.seq > seq]
        return None

    def arrive(self) -> None:
        """One more follower."""
        self.listeners += 1
        self.arrived_at_s = time.monotonic()
        self._watched.set()

    def leave(self) -> None:
        """One follower less."""
        self.listeners -= 1
        if self.listeners == 0:
            self._watched.clear()
            self._unwatched_since_s = time.monotonic()

    @property
    def unwatched_for_s(self) -> float:
        """Seconds since the last follower left (or since the beginning); 0 while there is one."""
        return 0.0 if self.listeners else time.monotonic() - self._unwatched_since_s

    async def watched(self) -> None:
        """Until there is a follower."""
        await self._watched.wait()

    def _ring(self) -> None:
        rung, self._rung = self._rung, asyncio.Event()
        rung.set()


async def follow(read: ReadLog, bell: Bell, seq: int = 0) -> AsyncGenerator[LogEntry | Progress, None]:
    """Every log entry after `seq`, once and in order, for ever; in between the newest progress or notice.

    Ends when the bell is closed. A slow reader costs nothing: what it missed is read when it asks.
    """
    told: tuple[LogEntry | Progress | None, Progress | None] = (None, None)
    bell.arrive()
    try:
        while not bell.closed:
            rung = bell.listen()
            while seq < bell.seq:
                recent = bell.recent_after(seq)
                page = recent if recent is not None else await read(seq)
                if not page:
                    break
                for entry in page:
                    yield entry
                    seq = entry.seq
            news = bell.notice or bell.progress, bell.sharpening
            fresh = [new for new, old in zip(news, told, strict=True) if new is not None and new is not old]
            told = news
            for item in fresh:
                yield item
            if not fresh:
                await rung.wait()
    finally:
        bell.leave()
