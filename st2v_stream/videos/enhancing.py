"""The second puller: makes films sharp, one call of the enhancer after the other, the film watched most recently first.

Between two calls nothing is held but what the store has: the carry is written with the chunks that came of it, in one
transaction. So another film's turn, a stop, a crash or a restart make no seam, and films that wait cost no memory. On the
device everything that makes the preview comes first, between two denoising steps, unless it is well ahead of its playback.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from st2v_stream.chunk import Chunk, Memory, StreamSpec
from st2v_stream.errors import Conflict, InvalidRequest, NotFound, St2vError, Stopped, StoreDamaged, StoreError
from st2v_stream.store.enhancement import MAX_ATTEMPTS, NextWork, SharpCommit, SharpSegment, sharp_record, sharp_segment
from st2v_stream.streaming.autoregressive import StopSignal, between_steps
from st2v_stream.streaming.enhance import LESS_URGENT, Made, timed
from st2v_stream.streaming.follow import Bell
from st2v_stream.types import (
    EnhancedChunk,
    EnhancePolicy,
    Enhancer,
    EnhanceVideo,
    LogEntry,
    OnStep,
    Progress,
    VideoState,
    VideoView,
)
from st2v_stream.videos.exact import ExactFrames, FramesLost
from st2v_stream.videos.shelf import describe
from st2v_stream.videos.video import Encode, Pace, Studio, Video

logger = logging.getLogger(__name__)

WATCHED_FOR_S = 10.0
"""A film counts as watched for so long after its last viewer left: a page that is loaded again costs no work."""

LONGEST_RETRY = 30
"""Times the first wait."""

AHEAD_S = 4.0
"""So much of a film may lie ready before its next chunk waits for one call of the enhancer: nobody misses that chunk yet."""

MAKING: frozenset[VideoState] = frozenset({"queued", "loading", "running", "stopping"})
"""States in which a film keeps the device busy."""


@dataclass
class _Call:
    """A call of the enhancer. everything: because of the film's policy, not because it was asked for."""

    video_id: str
    everything: bool
    stop: StopSignal = field(default_factory=StopSignal)


class Enhancing:
    """Everything of a process that makes films sharp. Used on the event loop; `run` is its one task."""

    def __init__(
        self,
        studio: Studio,
        sharp_encoder_for: Callable[[StreamSpec], Encode],
        bells: Mapping[str, Bell],
        videos: Mapping[str, Video],
    ) -> None:
        self._studio, self._encoder_for = studio, sharp_encoder_for
        self._store, self._shelf = studio.store, studio.shelf
        self._bells, self._videos = bells, videos
        self._exact = ExactFrames(studio.store, studio.worker)
        self._films: dict[str, EnhancePolicy] = {}
        """On which there may be something to do."""
        self._waiting: dict[str, bool] = {}
        """Of those, where there was nothing for now; whether their policy allowed to look for everything."""
        self._not_before_s: dict[str, float] = {}
        self._delays_s: dict[str, float] = {}
        self._to_thin = set[str]()
        self._visited = set[str]()
        self._nudged = asyncio.Event()
        self._call: _Call | None = None
        self._held: tuple[str, Memory] | None = None
        self._pace = Pace()
        self.frames = 0
        """Made sharp since the process began."""
        self.behind_s = 0.0
        """Of the film that was worked on last: how much of it is not sharp."""

    # ------------------------------------------------------------ news

    def hear(self, view: VideoView, chunk: Chunk | None) -> None:
        """A film that is being made changed; chunk: that was just acknowledged."""
        if chunk is not None and view.enhancer is not None and view.enhance != "none":
            self._exact.keep(view.id, chunk)
        if view.ended_by is not None:
            self._to_thin.add(view.id)
        self.look(view)
        if self._call is not None and not self._may_go_on(self._call):
            self._call.stop.stop()

    def look(self, view: VideoView, *, is_asked: bool = False) -> None:
        """There may be something to do with this film; is_asked: whatever its policy, and at once."""
        if self._shelf.enhancer_name(view.model) is None:
            return
        if is_asked:
            self._not_before_s.pop(view.id, None)
        if view.enhance != "none" or view.id in self._films or is_asked:
            self._films[view.id] = view.enhance
            self._waiting.pop(view.id, None)
        self._nudged.set()

    def visited(self, video_id: str) -> None:
        """Somebody begins to watch this film."""
        self._visited.add(video_id)
        self._nudged.set()

    def break_off(self, video_id: str, *, for_good: bool = False) -> None:
        """What is being done with this film is of no use: its chunks, its policy changed. for_good: it is no more."""
        if for_good:
            self._forget(video_id)
        if self._call is not None and self._call.video_id == video_id:
            self._call.stop.stop()
        self._nudged.set()

    @property
    def films(self) -> int:
        """On so many there may be something to do."""
        return len(self._films)

    @property
    def frames_per_second(self) -> float | None:
        """Over the last chunks made sharp."""
        return self._pace.frames_per_second

    # ------------------------------------------------------------ whose turn it is

    async def run(self) -> None:
        """For ever. Cancelled, it leaves the store as it is: the next start goes on."""
        try:
            await self._find_unfinished()
            while True:
                self._nudged.clear()
                await self._look_at_visited()
                if not await self._do_something():
                    await self._wait()
        finally:
            if self._call is not None:
                self._call.stop.stop()

    async def _find_unfinished(self) -> None:
        try:
            for view in await self._store.unfinished_enhancements():
                self.look(view, is_asked=True)
        except StoreError as error:
            logger.warning("films that nobody watches are not made sharp for now: %s", error)

    async def _look_at_visited(self) -> None:
        while self._visited:
            video_id = self._visited.pop()
            with suppress(NotFound, StoreError):  # deleted meanwhile; or else whoever watches next is heard
                self.look(await self._store.view(video_id))

    async def _do_something(self) -> bool:
        """One call of the enhancer, for the film it matters most for; False where there is nothing to do."""
        for video_id in sorted(self._films, key=self._interest):
            if self._is_due(video_id) and await self._serve(video_id):
                return True
        return False

    def _interest(self, video_id: str) -> tuple[bool, float, str]:
        """Watched now before not watched; then the one that was begun to be watched last."""
        bell = self._bells.get(video_id)
        return (True, 0.0, video_id) if bell is None else (not bell.listeners, -bell.arrived_at_s, video_id)

    def _is_due(self, video_id: str) -> bool:
        if self._not_before_s.get(video_id, 0.0) > time.monotonic():
            return False
        looked_at_everything = self._waiting.get(video_id)
        return looked_at_everything is None or (self._allows(video_id) and not looked_at_everything)

    def _allows(self, video_id: str) -> bool:
        """Whether the film's policy lets everything be made sharp now."""
        policy = self._films.get(video_id)
        if policy == "watched":
            return self._is_watched(video_id)
        if policy == "idle":
            return all(video.view.state not in MAKING for video in self._videos.values())
        return policy == "all"

    def _is_watched(self, video_id: str) -> bool:
        bell = self._bells.get(video_id)
        return bell is not None and bell.arrived_at_s > 0 and bell.unwatched_for_s < WATCHED_FOR_S

    def _may_go_on(self, call: _Call) -> bool:
        return call.video_id in self._films and (not call.everything or self._allows(call.video_id))

    async def _wait(self) -> None:
        """Until there is news, or a film that failed has waited long enough."""
        now_s = time.monotonic()
        waits_s = [at_s - now_s for video_id, at_s in self._not_before_s.items() if video_id in self._films and at_s > now_s]
        with suppress(TimeoutError):
            await asyncio.wait_for(self._nudged.wait(), min(waits_s, default=None))

    async def _rest(self, video_id: str, everything: bool) -> None:
        """Nothing is to be done with this film for now."""
        if (bell := self._bells.get(video_id)) is not None:
            bell.announce_sharpening(None)
        has_ended = (await self._store.view(video_id)).ended_by is not None
        if not has_ended or (self._films.get(video_id) == "idle" and not everything):
            self._waiting[video_id] = everything
            return
        self._forget(video_id)  # a viewer who comes, or whoever asks, says so
        if video_id in self._to_thin:
            self._to_thin.discard(video_id)
            await self._store.thin(video_id)

    def _forget(self, video_id: str) -> None:
        self._films.pop(video_id, None)
        for notes in (self._waiting, self._not_before_s, self._delays_s):
            notes.pop(video_id, None)

    # ------------------------------------------------------------ a call

    async def _serve(self, video_id: str) -> bool:
        """One call for this film; False where there was nothing to do."""
        everything, work = self._allows(video_id), None
        self._call = call = _Call(video_id, everything)
        try:
            work = await self._store.next_work(video_id, everything=everything)
            if work is None:
                await self._rest(video_id, everything)
                return False
            await self._work(call, work)
            self._delays_s.pop(video_id, None)
        except (Stopped, Conflict) as error:  # chunks, policy or viewers changed meanwhile: look again
            logger.info("%s: %s", video_id, error)
        except StoreError as error:
            self._put_off(video_id, error)
        except Exception as error:  # an enhancer can raise anything; the preview must not suffer
            await self._failed(video_id, work, error)
        finally:
            call.stop.stop()
            self._call = None
        return True

    async def _work(self, call: _Call, work: NextWork) -> None:
        view = await self._store.view(call.video_id)
        enhancer = await self._shelf.enhancer(view.model)
        chunk = None if work.is_end else await self._chunk(call, view, work)
        carry = await self._carry(view.id, work)
        if work.carry is not None and carry is None:
            return
        try:
            made, after = await self._made(call, work, partial(_run, enhancer, chunk, carry))
        except InvalidRequest as error:
            if error.param != "carry" or work.carry is None:
                raise
            logger.warning("%s goes on without a carry: %s", view.id, error)
            await self._store.drop_carry(view.id, work.carry)
            return
        await self._keep(view, work, enhancer.sharp_spec(view.spec), made, after)

    async def _chunk(self, call: _Call, view: VideoView, work: NextWork) -> Chunk:
        """The chunk to take next, exactly as it was made."""
        chunk = self._exact.at_hand(view.id, work.index, work.sha256)
        if chunk is not None:
            return chunk
        generator = await self._shelf.generator(view.model)
        return await self._exact.chunk(generator, view.id, work.index, lambda index, k, n: self._check(call))

    async def _carry(self, video_id: str, work: NextWork) -> Memory | None:
        """What to go on with; None begins, or says that it was lost, and is forgotten now."""
        if self._held is not None and self._held[0] == work.carry:
            return self._held[1]
        self._held = None
        try:
            return await self._store.carry(work)
        except (StoreDamaged, NotFound) as error:
            logger.error("%s: what was begun of chunk %d is lost: %s", video_id, work.target, error)
            assert work.carry is not None, "no carry cannot be lost"
            await self._store.drop_carry(video_id, work.carry)
            return None

    async def _made(self, call: _Call, work: NextWork, fn: Callable[..., Made]) -> Made:
        worker, loop, bell = self._studio.worker, asyncio.get_running_loop(), self._bells.get(call.video_id)

        def on_step(index: int, k: int, n: int) -> None:  # on the worker's thread
            self._check(call)
            if bell is not None:
                progress = Progress(index, k, n, self._pace.frames_per_second, "enhanced")
                loop.call_soon_threadsafe(bell.announce_sharpening, progress)

        def step(k: int, n: int) -> None:
            priority = 0 if self._can_wait() else LESS_URGENT
            between_steps(work.target, worker, priority, (call.stop,), on_step)(k, n)

        return await call.stop.interrupt(worker.run(timed, fn, step, priority=LESS_URGENT))

    def _can_wait(self) -> bool:
        """Whether every film that is being made is far enough ahead of its playback."""
        making = (video for video in list(self._videos.values()) if video.view.state in MAKING - {"queued"})
        return all(video.ahead_s >= AHEAD_S for video in making)

    def _check(self, call: _Call) -> None:
        """On the worker's thread. Raises `Stopped` where it is of no use any more; only viewers leave without saying so."""
        call.stop.check()
        if call.everything and self._films.get(call.video_id) == "watched" and not self._is_watched(call.video_id):
            raise Stopped("nobody watches")

    async def _keep(
        self, view: VideoView, work: NextWork, spec: StreamSpec, made: Sequence[EnhancedChunk], after: Memory
    ) -> None:
        """Encode, make durable, and only then tell."""
        if work.is_end and work.target not in [each.chunk.index for each in made]:
            raise St2vError(
                "the enhancer held a chunk back at the film's end", expected=f"chunk {work.target}", received="none"
            )
        encode, loop = partial(_encoded, self._encoder_for, spec), asyncio.get_running_loop()
        sharp = [await loop.run_in_executor(self._studio.encoders, encode, each) for each in made]
        if not after.parts:  # what carries nothing has no neighbours
            work = replace(work, run=replace(work.run, apart=False))
        record = await loop.run_in_executor(self._studio.encoders, sharp_record, work, sharp, after)
        commit = await self._store.commit_sharp(view.id, record)
        self._held = None if record.carry is None else (record.carry, after)
        self._tell(view, commit)

    def _tell(self, view: VideoView, commit: SharpCommit) -> None:
        if (video := self._videos.get(view.id)) is not None:
            video.sharpened(commit)
            view = video.view
        if (bell := self._bells.get(view.id)) is not None:
            bell.announce(commit.entries)
        frames = sum(entry.segment.frames for entry in commit.entries if entry.segment is not None)
        self._pace.count(frames)
        self.frames += frames
        self.behind_s = (view.frames - commit.enhanced_prefix_frames) / view.spec.fps

    # ------------------------------------------------------------ what goes wrong

    def _put_off(self, video_id: str, error: Exception) -> None:
        delay_s = self._delays_s.get(video_id, self._studio.retry_s)
        self._not_before_s[video_id] = time.monotonic() + delay_s
        self._delays_s[video_id] = min(2 * delay_s, LONGEST_RETRY * self._studio.retry_s)
        logger.warning("%s is made sharp no further for %.3g s: %s", video_id, delay_s, error)

    async def _failed(self, video_id: str, work: NextWork | None, error: Exception) -> None:
        """Try again a few times; then say so in the film, and leave it to whoever asks."""
        if work is None:  # the film is no more
            logger.log(logging.INFO if isinstance(error, NotFound) else logging.ERROR, "%s: %s", video_id, describe(error))
            self._forget(video_id)
            return
        logger.error("%s: chunk %d was not made sharp", video_id, work.target, exc_info=error)
        self._put_off(video_id, error)
        attempts = MAX_ATTEMPTS if isinstance(error, FramesLost) else 1
        with suppress(StoreError, NotFound):
            entry = await self._store.count_failure(video_id, work.target, describe(error), attempts)
            if entry is not None:
                self._announce(video_id, entry)

    def _announce(self, video_id: str, entry: LogEntry) -> None:
        if (video := self._videos.get(video_id)) is not None:
            video.take(entry)
        elif (bell := self._bells.get(video_id)) is not None:
            bell.announce([entry])


def _run(enhancer: Enhancer, chunk: Chunk | None, carry: Memory | None, on_step: OnStep) -> Made:
    """chunk: None where the film has ended for now."""
    if chunk is not None:
        return enhancer.enhance(chunk, carry, on_step)
    assert carry is not None, "a film has an end only after a beginning"
    return enhancer.finish(carry, on_step)


def _encoded(encoder_for: Callable[[StreamSpec], Encode], spec: StreamSpec, made: EnhancedChunk) -> SharpSegment:
    return sharp_segment(made, encoder_for(spec)(made.chunk))


def enhanced_range(request: EnhanceVideo, view: VideoView) -> tuple[int, int | None]:
    """(first chunk, the one after the last, None = the film's end). Raises `InvalidRequest` for a range without a chunk."""
    spec = view.spec
    first, end = request.from_index or 0, request.to_index
    if request.from_s is not None:
        first = spec.chunks_for(int(request.from_s * spec.fps) + 1) - 1
    if request.to_s is not None:
        end = spec.chunks_for(math.ceil(request.to_s * spec.fps))
    for way in ("from", "to"):
        if getattr(request, f"{way}_index") is not None and getattr(request, f"{way}_s") is not None:
            raise InvalidRequest(
                "a moment is given twice", expected=f"{way}_index or {way}_s", received="both", param=f"{way}_s"
            )
    if not 0 <= first < max(view.chunks, 1) or (end is not None and end <= first):
        received = f"{first} to {'the end' if end is None else end}"
        raise InvalidRequest("there is no chunk to make sharp", expected=f"chunks from 0 to {view.chunks}", received=received)
    return first, end
