"""One film being made: its states in the open, and `Video.run()`, the one that pulls.

queued ──> loading ──> running ──> completed          ended_by length
                         │  ↑
                         ↓  │
                        paused                        nobody watches, or the disk is full
any of these ──> stopping ──> stopped                 ended_by stopped; what exists is whole
any of these ──> failed                               ended_by error
stopped, completed, failed ──> queued                 continue; redo, from any state
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Executor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from st2v_stream.chunk import Chunk, Memory, StreamSpec
from st2v_stream.direction import Cue, Timeline
from st2v_stream.errors import Conflict, St2vError, Stopped, StoreError
from st2v_stream.store.determinism import break_warning, determinism_class
from st2v_stream.store.enhancement import SharpCommit
from st2v_stream.store.segments import ChunkRecord, Encoded, record_of
from st2v_stream.store.store import Store
from st2v_stream.store.videos import now_s
from st2v_stream.streaming.autoregressive import StopSignal, stream_chunks
from st2v_stream.streaming.follow import Bell
from st2v_stream.streaming.prefetch import prefetch
from st2v_stream.types import EndedBy, Generator, LogEntry, Progress, Reference, VideoState, VideoView, Worker
from st2v_stream.videos.requests import patience_s
from st2v_stream.videos.shelf import ModelShelf, describe

T = TypeVar("T")

logger = logging.getLogger(__name__)

LOOKAHEAD = 1
"""Chunks made while the one before is encoded and written. More would only delay what a stop or a cue changes."""

LEGAL: Mapping[VideoState, frozenset[VideoState]] = {
    "queued": frozenset({"loading", "running", "paused", "stopping", "stopped", "completed", "failed"}),
    "loading": frozenset({"queued", "running", "paused", "stopping", "stopped", "failed"}),
    "running": frozenset({"queued", "running", "paused", "stopping", "stopped", "completed", "failed"}),
    "paused": frozenset({"queued", "loading", "running", "stopping", "stopped", "completed", "failed"}),
    "stopping": frozenset({"stopped", "completed", "failed"}),
    "stopped": frozenset({"queued"}),
    "completed": frozenset({"queued"}),
    "failed": frozenset({"queued"}),
}
"""The states that may follow each state. `queued` after `loading` or `running` is a restart of the process."""

ACTIVE: tuple[VideoState, ...] = ("queued", "loading", "running", "paused", "stopping")
"""States of a video that is being made; after a restart such a video resumes by itself."""

Encode = Callable[[Chunk], Encoded]


def before(state: VideoState) -> frozenset[VideoState]:
    """The states from which `state` may be entered."""
    return frozenset(earlier for earlier, later in LEGAL.items() if state in later)


@dataclass(frozen=True)
class Studio:
    """What all videos of a process share."""

    store: Store
    worker: Worker
    shelf: ModelShelf
    encoders: Executor
    encoder_for: Callable[[StreamSpec], Encode]
    turns: asyncio.Semaphore
    """max_running of them; videos with a turn alternate chunk by chunk, because each has one call on the worker at most."""
    pause_unwatched_s: float | None = None
    retry_s: float = 1.0
    """First wait before the store is tried again; doubles up to 30 times that."""
    space_freed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set and cleared when a video was deleted: a reason to try at once."""
    on_news: list[Callable[[VideoView, Chunk | None], None]] = field(default_factory=list)
    """Called with a video that changed, and with the chunk that was just acknowledged, if it is that."""


class Video:
    """A film while it is being made. `view` is what it is now, `bell` tells followers."""

    def __init__(self, view: VideoView, bell: Bell, studio: Studio) -> None:
        self.view = view
        self.bell = bell
        self._studio = studio
        self._state_seq = view.seq
        """Of the newest state entry that the view shows."""
        self._stop = StopSignal()
        self._edited = asyncio.Event()
        self._directing = asyncio.Lock()
        self._timeline: Timeline | None = None
        self._next_index = view.chunks
        """The first chunk that is not begun: what a cue can still change."""
        self._turn = _Turn(studio.turns)
        self._pace = Pace()
        self._held_up = False
        self._made_with: Mapping[str, Any] | None = None

    def stop(self) -> None:
        """Ask it to end within one denoising step."""
        self._stop.stop()

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to end."""
        return self._stop.is_set

    @property
    def ahead_s(self) -> float:
        """Seconds of film that are made and that nobody can have seen yet who watches since it began to be made."""
        return self._pace.ahead_s(self.view.spec.fps)

    def take(self, entry: LogEntry) -> None:
        """A state entry that somebody else has written."""
        if entry.seq > self._state_seq:
            self._announce(entry)
        self._edited.set()

    async def cue(self, make: Callable[[int], Cue]) -> LogEntry:
        """Add the cue that `make(first chunk not begun)` gives; no chunk begins until it is durable. Raises `StoreError`."""
        async with self._directing:
            (entry,) = await self._studio.store.cue(self.view.id, make(self._next_index))
            assert entry.cue is not None, "an entry of kind cue has a cue"
            if self._timeline is not None:
                self._timeline = Timeline(self._timeline.first, (*self._timeline.cues, entry.cue))
        self.view = replace(self.view, seq=max(self.view.seq, entry.seq))
        self.bell.announce([entry])
        return entry

    async def take_back_cue(self, seq: int) -> LogEntry:
        """Undo a cue whose first chunk is not begun, and does not begin meanwhile. Raises `NotFound`, `Conflict`."""
        async with self._directing:
            entry = await self._studio.store.take_back_cue(self.view.id, seq, self._next_index)
            self._timeline = None  # read again before the next chunk
        self.view = replace(self.view, seq=max(self.view.seq, entry.seq))
        self.bell.announce([entry])
        return entry

    async def run(self) -> None:
        """Make the film from where it is to its end. Cancelled, it leaves the store as it is: the next start goes on."""
        try:
            await self._make()
        except Stopped:
            await self._end("stopped", "stopped")
            await self._thin()
        except St2vError as error:
            await self._end("failed", "error", describe(error))
        except Exception as error:  # a model can raise anything; the film has to say so
            logger.exception("%s failed", self.view.id)
            await self._end("failed", "error", describe(error))
        else:
            await self._end("completed", "length")
            await self._thin()
        self.bell.announce_progress(None)

    # ------------------------------------------------------------ making

    async def _make(self) -> None:
        self._stop.check()
        if self.view.state != "queued":
            await self._move("queued", paused_reason=None)
        if self._is_whole():
            return
        try:
            await self._stop.interrupt(self._turn.take())
            await self._pull(await self._load())
        finally:
            self._turn.give()

    async def _pull(self, generator: Generator) -> None:
        self._made_with = determinism_class(generator)
        epoch, memory = await self._take_up(generator)
        await self._move("running", paused_reason=None, **await self._warnings_of_a_break(self._made_with))
        self._pace.begin()
        async with aclosing(prefetch(self._while_watched(self._chunks(generator, memory)), LOOKAHEAD)) as chunks:
            async for chunk in chunks:
                await self._keep(chunk, epoch)
        if not self._is_whole():
            self._stop.check()

    def _is_whole(self) -> bool:
        return self.view.num_frames is not None and self.view.frames >= self.view.num_frames

    async def _load(self) -> Generator:
        shelf, name = self._studio.shelf, self.view.model
        if shelf.state(name) != "ready":
            await self._move("loading")
        generator = await self._stop.interrupt(shelf.generator(name))
        if generator.spec != self.view.spec:
            message = f"{name} is not what {self.view.id} was begun with"
            raise Conflict(message, expected=self.view.spec, received=generator.spec)
        return generator

    async def _take_up(self, generator: Generator) -> tuple[int, Memory | None]:
        """The epoch of this run and the memory to go on from; the film is cut back where memories are damaged."""
        store, video_id = self._studio.store, self.view.id
        epoch = await self._patiently(partial(store.begin_run, video_id))
        await self._remember(generator)
        memory, reset = await self._patiently(partial(store.newest_memory, video_id))
        self.view = await self._patiently(partial(store.view, video_id))
        self._next_index = 0 if memory is None else memory.next_index
        if reset is not None:
            self.bell.announce([reset])
        return epoch, memory

    async def _warnings_of_a_break(self, made_with: Mapping[str, Any]) -> dict[str, Any]:
        """All its warnings with one more, where the last chunk was made in another determinism class; else no change."""
        view = self.view
        if view.chunks == 0:
            return {}
        (last,) = await self._patiently(partial(self._studio.store.chunks, view.id, view.chunks - 1))
        start_s = view.frames / view.spec.fps
        said = None if last.made_with is None else break_warning(view.chunks, start_s, last.made_with, made_with)
        return {} if said is None or said in view.warnings else {"warnings": (*view.warnings, said)}

    async def _remember(self, generator: Generator) -> None:
        """Make again the chunks whose memories were thinned away: a branch, or a redo, begins between two that were kept.

        They come out as they were, or else the film is cut back to the newest memory and made anew from there.
        """
        store, view = self._studio.store, await self._patiently(partial(self._studio.store.view, self.view.id))
        memory = await self._patiently(partial(store.memory_before, view.id, view.chunks))
        while memory is not None and memory.next_index < view.chunks:
            chunk = await self._next_chunk(generator, memory, None)
            if chunk is None:
                self._stop.check()
                return
            record = await asyncio.get_running_loop().run_in_executor(
                self._studio.encoders, partial(_encode_and_record, self._studio.encoder_for, self.view.spec, chunk)
            )
            if not await self._patiently(partial(store.remember, view.id, record)):
                return
            memory = chunk.memory

    async def _chunks(self, generator: Generator, memory: Memory | None) -> AsyncGenerator[Chunk, None]:
        planned = self.view.num_frames
        reference = None if memory is not None else await self._patiently(partial(self._studio.store.reference, self.view.id))
        while planned is None or memory is None or memory.next_start < planned:
            chunk = await self._next_chunk(generator, memory, reference)
            if chunk is None:
                return
            yield chunk
            memory = chunk.memory

    async def _next_chunk(self, generator: Generator, memory: Memory | None, reference: Reference | None) -> Chunk | None:
        """The chunk that follows; None when the film is stopped or can become no longer."""
        stream = stream_chunks(
            generator,
            await self._directions(0 if memory is None else memory.next_index),
            num_frames=1,
            worker=self._studio.worker,
            reference=reference,
            memory=memory,
            on_step=self._progress_reporter(),
            stop=self._stop,
        )
        async with aclosing(stream):
            return await anext(stream, None)

    async def _directions(self, index: int) -> Timeline:
        """The timeline for chunk `index`, which begins now: no later cue will change it."""
        async with self._directing:
            if self._timeline is None:
                self._timeline = await self._patiently(partial(self._studio.store.timeline, self.view.id))
            self._next_index = max(self._next_index, index + 1)
            return self._timeline

    async def _while_watched(self, chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        """Do not ask for more while nobody watches, if that is what the configuration says."""
        async with aclosing(chunks):
            await self._wait_for_viewers()
            async for chunk in chunks:
                yield chunk
                await self._wait_for_viewers()

    async def _wait_for_viewers(self) -> None:
        if not self._is_forsaken():
            return
        self._turn.give()
        await self._move("paused", paused_reason="nobody is watching")
        while self._is_forsaken():
            self._edited.clear()
            await self._stop.interrupt(_first_of(self.bell.watched(), self._edited.wait()))
        await self._move("queued", paused_reason=None)
        await self._stop.interrupt(self._turn.take())
        await self._move("running")
        self._pace.begin()

    def _is_forsaken(self) -> bool:
        """Whether nobody has watched for as long as it is to go on so."""
        own = self.view.when_unwatched
        patient_s = self._studio.pause_unwatched_s if own is None else patience_s(own)
        return patient_s is not None and min(self.bell.unwatched_for_s, self._pace.running_for_s) >= patient_s

    async def _keep(self, chunk: Chunk, epoch: int) -> None:
        """Encode the chunk, make it durable, and only then tell."""
        studio = self._studio
        prepare = partial(_encode_and_record, studio.encoder_for, self.view.spec, chunk, self._made_with)
        record = await asyncio.get_running_loop().run_in_executor(studio.encoders, prepare)
        entry, added_bytes = await self._patiently(partial(studio.store.commit, self.view.id, epoch, record))
        self._pace.count(record.segment.frames)
        self.view = replace(
            self.view,
            seq=max(self.view.seq, entry.seq),
            chunks=self.view.chunks + 1,
            frames=self.view.frames + record.segment.frames,
            size_bytes=self.view.size_bytes + added_bytes,
        )
        self.bell.announce([entry])
        self._tell(chunk)
        if self._held_up:
            await self._move("running", paused_reason=None)

    def _progress_reporter(self) -> Callable[[int, int, int], None]:
        loop = asyncio.get_running_loop()

        def report(index: int, k: int, n: int) -> None:  # on the worker's thread
            loop.call_soon_threadsafe(self.bell.announce_progress, Progress(index, k, n, self._pace.frames_per_second))

        return report

    # ------------------------------------------------------------ states

    async def _move(self, state: VideoState, **changes: Any) -> None:
        """Enter `state`; where that is not legal (it is stopping), stay."""
        with suppress(Conflict):
            self._announce(await self._patiently(self._change_to(state, **changes)))
            self._held_up = False

    async def _end(self, state: VideoState, ended_by: EndedBy, error: str | None = None) -> None:
        """Enter a final state, however long the store takes."""
        ending = self._change_to(state, ended_by=ended_by, error=error, completed_at_s=now_s(), paused_reason=None)
        self._announce(await self._patiently(ending, unless_stopped=False))

    async def _thin(self) -> None:
        view = self.view
        if view.enhancer is not None and view.enhance != "none" and view.enhanced_frames < view.frames:
            return  # what is to be made sharp is given from the memories: whoever does so thins them
        try:
            await self._studio.store.thin(self.view.id)
        except StoreError as error:
            logger.warning("%s keeps all its memories for now: %s", self.view.id, error)

    def _change_to(self, state: VideoState, **changes: Any) -> Callable[[], Awaitable[LogEntry]]:
        return partial(self._studio.store.change, self.view.id, before(state), state=state, **changes)

    def sharpened(self, commit: SharpCommit) -> None:
        """Chunks of it became sharp: the view says so."""
        self.view = replace(
            self.view,
            seq=max([self.view.seq, *(entry.seq for entry in commit.entries)]),
            enhanced_frames=commit.enhanced_frames,
            enhanced_prefix_frames=commit.enhanced_prefix_frames,
            size_bytes=self.view.size_bytes + commit.added_bytes,
        )

    def _announce(self, entry: LogEntry) -> None:
        if entry.view is not None:
            self.view = entry.view if entry.seq > self.view.seq else replace(entry.view, **_of_enhancer(self.view))
            self._state_seq = entry.seq
        self.bell.announce([entry])
        self._tell(None)

    def _tell(self, chunk: Chunk | None) -> None:
        for tell in self._studio.on_news:
            tell(self.view, chunk)

    async def _patiently(self, write: Callable[[], Awaitable[T]], *, unless_stopped: bool = True) -> T:
        """Do it; while the store will not, pause the film and try again. Raises `Stopped` if it is stopped meanwhile."""
        delay_s = self._studio.retry_s
        while True:
            try:
                return await write()
            except StoreError as error:
                await self._hold(error)
            again = self._wait_to_retry(delay_s)
            await (self._stop.interrupt(again) if unless_stopped else again)
            delay_s = min(2 * delay_s, 30 * self._studio.retry_s)

    async def _hold(self, error: StoreError) -> None:
        """Show why it is paused: in the log if the store still takes a row, else as a notice to those who watch."""
        self._held_up = True
        state: VideoState = "stopping" if self._stop.is_set else "paused"
        if self.view.state == state and self.view.paused_reason == str(error):
            return
        logger.warning("%s is held up: %s", self.view.id, error)
        try:
            self._announce(await self._change_to(state, paused_reason=str(error))())
            self._studio.store.trouble = error  # that this row could be written does not mean that chunks can
        except (StoreError, Conflict):
            self.view = replace(self.view, state=state, paused_reason=str(error))
            self.bell.announce_notice(LogEntry(self.bell.seq, "state", self.view.chunks, view=self.view))

    async def _wait_to_retry(self, delay_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._studio.space_freed.wait(), delay_s)


def _encode_and_record(
    encoder_for: Callable[[StreamSpec], Encode], spec: StreamSpec, chunk: Chunk, made_with: Mapping[str, Any] | None = None
) -> ChunkRecord:
    return record_of(chunk, encoder_for(spec)(chunk), made_with)


def _of_enhancer(view: VideoView) -> Mapping[str, Any]:
    """What commits of the enhancer have changed since an entry was written that is told of later."""
    return {name: getattr(view, name) for name in ("seq", "enhanced_frames", "enhanced_prefix_frames", "size_bytes")}


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Until one of them is done; the others are cancelled."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Turn:
    """One of the places among the running videos; giving it back twice is giving it back once."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns = turns
        self._held = False

    async def take(self) -> None:
        await self._turns.acquire()
        self._held = True

    def give(self) -> None:
        if self._held:
            self._held = False
            self._turns.release()


class Pace:
    """Frames per second over the last few chunks, by the wall clock: whether the film keeps up with its playback."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque(maxlen=6)
        self._began_s = time.monotonic()
        self._first_s: float | None = None
        self._frames = 0

    def begin(self) -> None:
        """Measure from now on."""
        self._began_s = time.monotonic()
        self._first_s, self._frames = None, 0
        self._marks.clear()
        self._marks.append((self._began_s, 0))

    def count(self, frames: int) -> None:
        """So many more frames are made."""
        now_s = time.monotonic()
        self._first_s = self._first_s or now_s
        self._frames += frames
        self._marks.append((now_s, frames))

    def ahead_s(self, fps: float) -> float:
        """How far all that was made is ahead of a playback that began with the first chunk; 0 before it."""
        return 0.0 if self._first_s is None else self._frames / fps - (time.monotonic() - self._first_s)

    @property
    def running_for_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began_s

    @property
    def frames_per_second(self) -> float | None:
        """None before the first chunk."""
        marks = list(self._marks)
        if len(marks) < 2:
            return None
        elapsed_s = marks[-1][0] - marks[0][0]
        return sum(frames for _, frames in marks[1:]) / max(elapsed_s, 1e-6)
