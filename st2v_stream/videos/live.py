"""The local Director: the videos of this process, made side by side on one device."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any, Literal
from weakref import WeakValueDictionary

from st2v_stream.chunk import Chunk, StreamSpec
from st2v_stream.config import Config
from st2v_stream.errors import Conflict, InvalidRequest, NotFound, StoreError, UnknownModel
from st2v_stream.store.store import Store
from st2v_stream.store.videos import now_s
from st2v_stream.streaming.follow import Bell, follow
from st2v_stream.streaming.worker import ThreadWorker
from st2v_stream.types import (
    CreateVideo,
    LogEntry,
    ModelCard,
    ModelEntry,
    Progress,
    Reference,
    Snapshot,
    VideoState,
    VideoView,
    Worker,
)
from st2v_stream.videos.ids import new_video_id
from st2v_stream.videos.requests import continued_frames, new_view
from st2v_stream.videos.shelf import ModelShelf
from st2v_stream.videos.video import ACTIVE, Encode, Studio, Video, before

logger = logging.getLogger(__name__)

ENCODER_THREADS = 2

MAX_PAGE = 100

RESUME_ORDER: tuple[VideoState, ...] = ("stopping", "running", "loading", "paused", "queued")
"""After a restart those that had a place among the running ones get theirs first."""


def media_encoder(spec: StreamSpec) -> Encode:
    """The real encoder for films of this kind."""
    from st2v_stream.media.encode import encode_segment
    from st2v_stream.media.segment import EncodeSpec

    encode_spec = EncodeSpec.for_stream(spec, "preview")

    def encode(chunk: Chunk) -> Any:
        return encode_segment(chunk, encode_spec)

    return encode


class Live:
    """Implements `Director`. Use `async with Live.open(config, models) as director`."""

    def __init__(self, config: Config, studio: Studio, thumbnailer: Executor) -> None:
        self._config = config
        self._studio = studio
        self._store = studio.store
        self._shelf = studio.shelf
        self._thumbnailer = thumbnailer
        self._told_of_version: set[str] = set()
        self._videos: dict[str, Video] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._bells: WeakValueDictionary[str, Bell] = WeakValueDictionary()

    @staticmethod
    @asynccontextmanager
    async def open(
        config: Config,
        models: Mapping[str, ModelEntry],
        *,
        worker: Worker | None = None,
        encoder_for: Callable[[StreamSpec], Encode] = media_encoder,
        retry_s: float = 1.0,
    ) -> AsyncIterator[Live]:
        """Take config.data_dir, begin to load config.model, resume what was running; at the end stop all of it, keeping it.

        worker: where generators run; None = a thread of its own. encoder_for: what turns chunks into segments. retry_s: first
        wait after the store failed. Raises `StoreError`, `UnknownModel` for config.model, `InvalidRequest` for
        config.when_unwatched.
        """
        pause_unwatched_s = _patience(config.when_unwatched)
        async with AsyncExitStack() as stack:
            store = await Store.open(config.data_dir)
            stack.push_async_callback(store.close)
            if worker is None:
                worker = ThreadWorker("st2v-device")
                stack.push_async_callback(worker.aclose)
            encoders: Executor = stack.enter_context(ThreadPoolExecutor(ENCODER_THREADS, "st2v-encode"))
            thumbnailer = stack.enter_context(ThreadPoolExecutor(1, "st2v-thumbnail"))  # a page full of them delays no film
            shelf = ModelShelf(models, worker)
            turns = asyncio.Semaphore(config.max_running)
            studio = Studio(store, worker, shelf, encoders, encoder_for, turns, pause_unwatched_s, retry_s)
            live = Live(config, studio, thumbnailer)
            stack.push_async_callback(live._leave)
            shelf.begin_loading(config.model)
            await live._resume_all()
            yield live

    # ------------------------------------------------------------ verbs

    async def create(self, request: CreateVideo) -> VideoView:
        """A new video, being made from now on. Raises `InvalidRequest`, `UnknownModel`, `StoreFull`."""
        card = self._shelf.card(request.model or self._config.model)
        view = new_view(request, card, self._config, new_video_id(), now_s())
        creating = self._create(view, card, request.reference)
        return await asyncio.shield(creating)  # a caller that leaves does not leave a row without a maker

    async def stop(self, video_id: str) -> VideoView:
        """End it within one denoising step; everything made is kept. Raises `NotFound`, `Conflict` if it is not being made."""
        view, video = await self.get(video_id), self._videos.get(video_id)
        if video is None or view.state not in ACTIVE:
            raise Conflict(f"{video_id} is not being made", expected="one of " + ", ".join(ACTIVE), received=view.state)
        video.stop()
        try:  # so that a restart in this very moment does not resume it
            entry = await self._store.change(video_id, before("stopping"), state="stopping")
        except (Conflict, StoreError) as error:
            logger.info("%s: %s", video_id, error)
        else:
            video.take(entry)
        return await self.get(video_id)

    async def continue_(self, video_id: str, num_frames: int | None) -> VideoView:
        """Go on by `num_frames` (None = endless). Raises `NotFound`, `InvalidRequest`, `Conflict` if it is being made."""
        view = await self.get(video_id)
        if view.state in ACTIVE:
            raise Conflict(f"{video_id} is being made", expected="stopped, completed or failed", received=view.state)
        if (ending := self._tasks.get(video_id)) is not None:
            await asyncio.wait([ending])
        planned = continued_frames(view, num_frames, self._shelf.card(view.model), self._config)
        await self._tell_of_other_version(view)
        return await asyncio.shield(self._go_on(video_id, planned))

    async def delete(self, video_id: str) -> None:
        """Stop it, forget it, free its space. Raises `NotFound`, `StoreError`: then it goes on as before."""
        await asyncio.shield(self._delete(video_id))  # a caller that leaves does not leave a row without a maker

    # ------------------------------------------------------------ questions

    async def get(self, video_id: str) -> VideoView:
        """The video as it is. Raises `NotFound`."""
        video = self._videos.get(video_id)
        return await self._store.view(video_id) if video is None else video.view

    async def list(
        self, *, after: str | None = None, limit: int = 20, order: Literal["asc", "desc"] = "desc"
    ) -> tuple[list[VideoView], bool]:
        """One page and whether there are more. Raises `InvalidRequest` for a limit out of range."""
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest("limit is out of range", expected=f"1 to {MAX_PAGE}", received=limit, param="limit")
        views, more = await self._store.page(after, limit, order)
        return [self._videos[view.id].view if view.id in self._videos else view for view in views], more

    async def snapshot(self, video_id: str) -> Snapshot:
        """What exists at one moment. Raises `NotFound`."""
        return await self._store.snapshot(video_id)

    async def follow(self, video_id: str, seq: int = 0) -> AsyncGenerator[LogEntry | Progress, None]:
        """Every log entry after `seq`, in order, for ever (ends when the video is deleted); Progress in between."""
        bell = await self._bell_of(video_id)
        async with aclosing(follow(partial(self._store.read_log, video_id), bell, seq)) as entries:
            async for entry in entries:
                yield entry

    async def read_blob(self, sha256: str) -> bytes:
        """The bytes of a segment or init segment. Raises `NotFound`."""
        return await self._store.read_blob(sha256)

    async def thumbnail(self, video_id: str, index: int) -> bytes:
        """A JPEG of the first frame of chunk `index`. Raises `NotFound`."""
        segment = await self._store.segment(video_id, index)
        if segment is None:
            view = await self.get(video_id)
            raise NotFound("no such chunk", expected=f"0 to {view.chunks - 1}", received=index, param="index")
        init, data = await self.read_blob(segment.init), await self.read_blob(segment.hash)
        return await asyncio.get_running_loop().run_in_executor(self._thumbnailer, _first_frame_jpeg, init, data)

    def models(self) -> Sequence[ModelCard]:
        """The cards of all models."""
        return self._shelf.cards()

    def system(self) -> Mapping[str, Any]:
        """Plain facts for /v1/system."""
        name, trouble = self._config.model, self._store.trouble
        states = [video.view.state for video in self._videos.values()]
        return {
            "device": self._config.device,
            "preset": self._config.preset,
            "model": {"name": name, "state": self._shelf.state(name), "error": self._shelf.error(name)},
            "videos": {state: states.count(state) for state in ACTIVE},
            "running": states.count("running"),
            "max_running": self._config.max_running,
            "viewers": sum(bell.listeners for bell in self._bells.values()),
            "size_bytes": self._store.size_bytes,
            "store_error": None if trouble is None else str(trouble),
            "sqlite": sqlite3.sqlite_version,
        }

    @property
    def ready(self) -> bool:
        """The default model is loaded and the store can be written."""
        return self._shelf.state(self._config.model) == "ready" and self._store.trouble is None

    # ------------------------------------------------------------ inside

    async def _create(self, view: VideoView, card: ModelCard, reference: Reference | None) -> VideoView:
        entry = await self._store.create(view, {"model_version": card.version}, reference)
        return self._begin(_view_of(entry)).view

    async def _delete(self, video_id: str) -> None:
        video, task = self._videos.get(video_id), self._tasks.get(video_id)
        if task is not None:
            await _cancel(task)
        try:
            await self._store.delete(video_id)
        except StoreError:
            if video is not None:
                await self._begin_again(video)
            raise
        if (bell := self._bells.get(video_id)) is not None:
            bell.close()
        self._told_of_version.discard(video_id)
        self._studio.space_freed.set()
        self._studio.space_freed.clear()

    async def _begin_again(self, cancelled: Video) -> None:
        """Go on with a film whose maker was cancelled in vain."""
        view = cancelled.view
        try:
            view = await self._store.view(view.id)
        except NotFound:  # somebody else has deleted it meanwhile
            return
        except StoreError as error:
            logger.warning("%s: %s", view.id, error)
        if view.state in ACTIVE:
            self._resume(view, is_stopping=cancelled.is_stopping)

    async def _go_on(self, video_id: str, num_frames: int | None) -> VideoView:
        bell = await self._bell_of(video_id)
        fresh = {"num_frames": num_frames, "ended_by": None, "error": None, "completed_at_s": None, "paused_reason": None}
        entry = await self._store.change(video_id, before("queued") - set(ACTIVE), state="queued", **fresh)
        bell.announce([entry])
        return self._begin(_view_of(entry)).view

    def _begin(self, view: VideoView) -> Video:
        bell = self._bells.setdefault(view.id, Bell())
        bell.announce_seq(view.seq)
        video = Video(view, bell, self._studio)
        self._videos[view.id] = video
        task = asyncio.create_task(video.run(), name=view.id)
        self._tasks[view.id] = task
        task.add_done_callback(partial(self._forget, view.id))
        return video

    def _forget(self, video_id: str, task: asyncio.Task[None]) -> None:
        self._videos.pop(video_id, None)
        self._tasks.pop(video_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s was left unfinished", video_id, exc_info=error)

    async def _bell_of(self, video_id: str) -> Bell:
        """The one bell of a video, known to all before the store is asked: no entry falls between. Raises `NotFound`."""
        bell = self._bells.setdefault(video_id, Bell())
        bell.announce_seq((await self._store.view(video_id)).seq)
        return bell

    async def _resume_all(self) -> None:
        views = await self._store.in_states(*ACTIVE)
        for view in sorted(views, key=lambda view: RESUME_ORDER.index(view.state)):
            await self._tell_of_other_version(view)
            # queued before it begins: else those that are queued already would be first at the turns
            self._resume(await self._requeued(view), is_stopping=view.state == "stopping")

    def _resume(self, view: VideoView, *, is_stopping: bool) -> None:
        video = self._begin(view)
        if is_stopping:
            video.stop()

    async def _requeued(self, view: VideoView) -> VideoView:
        """The view as it is once it waits for its turn; where the store will not say so now, the film itself tries again."""
        if view.state in ("queued", "stopping"):
            return view
        try:
            return _view_of(await self._store.change(view.id, before("queued"), state="queued", paused_reason=None))
        except StoreError as error:
            logger.warning("%s: %s", view.id, error)
            return view

    async def _tell_of_other_version(self, view: VideoView) -> None:
        """Log once that a film goes on with another version of its model: from here on it may look different."""
        try:
            begun, now = await self._store.model_version(view.id), self._shelf.card(view.model).version
        except (StoreError, UnknownModel):  # the film itself will say so
            return
        if begun not in (None, now) and view.id not in self._told_of_version:
            self._told_of_version.add(view.id)
            logger.warning("%s was begun with version %s of %s and goes on with version %s", view.id, begun, view.model, now)

    async def _leave(self) -> None:
        """Cancel everything; the store is left as it is, so that the next start goes on."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._shelf.aclose()
        for bell in list(self._bells.values()):
            bell.close()


def _first_frame_jpeg(init: bytes, segment: bytes) -> bytes:
    from st2v_stream.media.decode import decode_frames
    from st2v_stream.media.thumbnail import thumbnail_jpeg

    return thumbnail_jpeg(decode_frames(init, [segment])[0])


def _view_of(entry: LogEntry) -> VideoView:
    assert entry.view is not None, "an entry of kind state has a view"
    return entry.view


def _patience(when_unwatched: str) -> float | None:
    """Seconds to go on without a viewer; None = for ever."""
    if when_unwatched == "run":
        return None
    try:
        seconds = float(when_unwatched)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        expected = "run, or a number of seconds"
        raise InvalidRequest("when_unwatched is not usable", expected=expected, received=when_unwatched, param="when_unwatched")
    return seconds


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
