"""The local Director: the videos of this process, made side by side on one device."""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal
from weakref import WeakValueDictionary

from st2v_stream.chunk import Chunk, Frames, StreamSpec
from st2v_stream.config import Config
from st2v_stream.direction import Cue, Timeline
from st2v_stream.errors import Conflict, InvalidRequest, NotFound, StoreError, UnknownModel
from st2v_stream.store.determinism import without_breaks_from
from st2v_stream.store.store import Store
from st2v_stream.store.videos import now_s
from st2v_stream.streaming.follow import Bell, follow
from st2v_stream.streaming.worker import ThreadWorker
from st2v_stream.types import (
    AddCue,
    AddedCue,
    BranchVideo,
    CreateVideo,
    DeletedVideo,
    EnhancePolicy,
    EnhanceVideo,
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
from st2v_stream.videos.branches import (
    ModelDoesNotFit,
    branch_timeline,
    branch_view,
    check_fits,
    check_index,
    check_seed_counts,
    fork_of,
    takes,
)
from st2v_stream.videos.bundles import bundle_pieces, import_pieces
from st2v_stream.videos.cues import cue_of, cue_warnings, seed_warnings, timeline_of
from st2v_stream.videos.enhancing import Enhancing, enhanced_range
from st2v_stream.videos.ids import new_video_id
from st2v_stream.videos.provenance import manifest_of
from st2v_stream.videos.requests import checked_title, continued_frames, new_view, patience_s, whole_frames
from st2v_stream.videos.shelf import ModelShelf
from st2v_stream.videos.verification import check_chunks, check_range
from st2v_stream.videos.video import ACTIVE, Encode, Studio, Video, before

logger = logging.getLogger(__name__)

ENCODER_THREADS = 2

MAX_PAGE = 100

SEEDS = 2**31
"""Seeds that are drawn are below it: short enough to be read out, and exact in every language."""

_AFRESH: Mapping[str, Any] = {"ended_by": None, "error": None, "completed_at_s": None, "paused_reason": None}
"""What a film that goes on no longer is."""

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


def sharp_media_encoder(spec: StreamSpec) -> Encode:
    """The real encoder for the enhanced rendition; spec: of the sharp film."""
    from st2v_stream.media.encode import encode_segment
    from st2v_stream.media.segment import EncodeSpec

    return partial(encode_segment, spec=EncodeSpec.for_stream(spec, "enhanced"))


class Live:
    """Implements `Director`. Use `async with Live.open(config, models) as director`."""

    def __init__(
        self, config: Config, studio: Studio, thumbnailer: Executor, sharp_encoder_for: Callable[[StreamSpec], Encode]
    ) -> None:
        self._config = config
        self._studio = studio
        self._store = studio.store
        self._shelf = studio.shelf
        self._thumbnailer = thumbnailer
        self._told_of_version: set[str] = set()
        self._videos: dict[str, Video] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._bells: WeakValueDictionary[str, Bell] = WeakValueDictionary()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._verifying = asyncio.Lock()
        self._is_leaving = False
        self._enhancing = Enhancing(studio, sharp_encoder_for, self._bells, self._videos)
        studio.on_news.append(self._enhancing.hear)

    @staticmethod
    @asynccontextmanager
    async def open(
        config: Config,
        models: Mapping[str, ModelEntry],
        *,
        worker: Worker | None = None,
        encoder_for: Callable[[StreamSpec], Encode] = media_encoder,
        sharp_encoder_for: Callable[[StreamSpec], Encode] = sharp_media_encoder,
        retry_s: float = 1.0,
    ) -> AsyncIterator[Live]:
        """Take config.data_dir, begin to load config.model, resume what was running; at the end stop all of it, keeping it.

        worker: where generators run; None = a thread of its own. encoder_for, sharp_encoder_for: what turns chunks into
        segments. retry_s: first
        wait after the store failed. Raises `StoreError`, `UnknownModel` for config.model, `InvalidRequest` for
        config.when_unwatched.
        """
        pause_unwatched_s = patience_s(config.when_unwatched)
        async with AsyncExitStack() as stack:
            store = await Store.open(config.data_dir, grace_s=config.grace_s)
            stack.push_async_callback(store.close)
            if worker is None:
                worker = ThreadWorker("st2v-device")
                stack.push_async_callback(worker.aclose)
            encoders: Executor = stack.enter_context(ThreadPoolExecutor(ENCODER_THREADS, "st2v-encode"))
            thumbnailer = stack.enter_context(ThreadPoolExecutor(1, "st2v-thumbnail"))  # a page full of them delays no film
            shelf = ModelShelf(models, worker)
            turns = asyncio.Semaphore(config.max_running)
            studio = Studio(store, worker, shelf, encoders, encoder_for, turns, pause_unwatched_s, retry_s)
            live = Live(config, studio, thumbnailer, sharp_encoder_for)
            stack.push_async_callback(live._leave)
            shelf.begin_loading(config.model)
            await live._resume_all()
            enhancing = asyncio.create_task(live._enhancing.run(), name="st2v-enhancing")
            stack.push_async_callback(_cancel, enhancing)
            yield live

    # ------------------------------------------------------------ verbs

    async def create(self, request: CreateVideo) -> VideoView:
        """A new video, being made from now on. Raises `InvalidRequest`, `UnknownModel`, `StoreFull`."""
        card = self._shelf.card(request.model or self._config.model)
        timeline = timeline_of(request, card, self._config)
        view = new_view(request, timeline, card, self._config, new_video_id(), now_s())
        view = replace(view, **self._enhancement(request.enhance, card.name))
        if view.enhancer is None and view.enhance != "none":
            view = replace(view, warnings=(*view.warnings, f"nothing makes the films of {card.title} sharp here"))
        creating = self._create(view, card, request.reference, timeline.cues)
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

    async def cue(self, video_id: str, request: AddCue) -> AddedCue:
        """Change what is made from a chunk on, in whatever state it is. Raises `NotFound`, `InvalidRequest`, `StoreError`."""
        view, timeline = await self.get(video_id), await self._store.timeline(video_id)
        card = self._shelf.card(view.model)
        entry = await asyncio.shield(self._cue(video_id, partial(cue_of, request, view.spec, timeline, self._config)))
        assert entry.cue is not None, "an entry of kind cue has a cue"
        warnings = (*cue_warnings(request, entry.cue, card, view.num_frames), *seed_warnings(entry.cue, timeline))
        return AddedCue(entry.seq, entry.cue, view.spec.start_of(entry.cue.index), warnings)

    async def cues(self, video_id: str) -> Sequence[tuple[int, Cue]]:
        """Those that hold, each with the seq of its log entry. Raises `NotFound`."""
        return await self._store.cues(video_id)

    async def take_back_cue(self, video_id: str, seq: int) -> LogEntry:
        """Undo a cue, in whatever state the film is. Raises `NotFound`, `Conflict` where its first chunk is begun."""
        return await asyncio.shield(self._take_back_cue(video_id, seq))

    async def branch(self, video_id: str, request: BranchVideo) -> VideoView:
        """A new video that shares chunks with this one, being made from now on.

        Raises `NotFound`, `InvalidRequest`, `UnknownModel`, and `ModelDoesNotFit` where another model cannot go on from there.
        """
        parent, timeline = await self._store.view(video_id), await self._store.timeline(video_id)
        card, fork = self._shelf.card(request.model or parent.model), fork_of(request, parent)
        directions = branch_timeline(request, fork, timeline, card, self._config)
        fresh = branch_view(request, parent, fork, directions, card, self._config)
        view = replace(parent, id=new_video_id(), created_at_s=now_s(), completed_at_s=None, error=None, ended_by=None, **fresh)
        view = replace(view, enhance_error=None, **self._enhancement(parent.enhance, card.name))
        try:
            await self._check_can_go_on(parent, fork, card, directions)
        except ModelDoesNotFit:
            if not request.or_new_film:
                raise
            return await self._new_film_from(parent, fork, view, directions)
        return await asyncio.shield(self._branch(view, directions, parent))

    async def redo(self, video_id: str, from_index: int, seed: int | None = None) -> tuple[VideoView, VideoView]:
        """Make the chunks from `from_index` on anew; the film as it was is kept as the second video.

        Raises `NotFound`, `InvalidRequest` for a chunk that is not there, `StoreError`: then all is as before.
        """
        return await asyncio.shield(self._redo(video_id, from_index, secrets.randbelow(SEEDS) if seed is None else seed))

    async def edit(
        self,
        video_id: str,
        *,
        title: str | None = None,
        when_unwatched: str | None = None,
        enhance: EnhancePolicy | None = None,
    ) -> VideoView:
        """Another title, patience with nobody watching, or policy of what is made sharp when.

        Raises `NotFound`, `InvalidRequest`, `StoreError`.
        """
        changes = {"title": None if title is None else checked_title(title), "when_unwatched": when_unwatched}
        if when_unwatched is not None:
            patience_s(when_unwatched)
        given = {name: value for name, value in changes.items() if value is not None}
        if enhance is None:
            self._take(video_id, await self._store.change(video_id, None, **given))
            return await self.get(video_id)
        enhancer = self._shelf.enhancer_name((await self.get(video_id)).model)
        entry = await self._store.change_policy(video_id, enhancer, given | {"enhance": enhance})
        self._take(video_id, entry)
        self._enhancing.break_off(video_id)
        self._enhancing.look(_view_of(entry))
        return await self.get(video_id)

    async def enhance(self, video_id: str, request: EnhanceVideo) -> VideoView:
        """Make these chunks sharp, whatever the policy; harmless for those that are.

        Raises `NotFound`, `InvalidRequest` for a range that is none, `Conflict` where nothing makes such films sharp.
        """
        view = await self.get(video_id)
        enhancer = self._shelf.enhancer_name(view.model)
        if enhancer is None:
            message = f"nothing makes the films of {view.model} sharp here"
            raise Conflict(message, expected="a server with --enhancer", received="none")
        first, end = enhanced_range(request, view)
        entry = await self._store.ask_to_enhance(video_id, first, end, enhancer)
        self._take(video_id, entry)
        self._enhancing.look(_view_of(entry), is_asked=True)
        return await self.get(video_id)

    async def undelete(self, video_id: str) -> VideoView:
        """Have a deleted video back; what was being made is stopped then. Raises `NotFound` once its grace is over."""
        view = _view_of(await self._store.undelete(video_id))
        self._enhancing.look(view)
        return view

    async def deleted(self) -> Sequence[DeletedVideo]:
        """What can be had back, the newest deletion first."""
        return await self._store.deleted()

    async def delete(self, video_id: str) -> None:
        """Stop it and hide it; its space is freed when its grace is over. Raises `NotFound`, `StoreError`: it goes on."""
        await asyncio.shield(self._delete(video_id))  # a caller that leaves does not leave a row without a maker

    # ------------------------------------------------------------ questions

    async def get(self, video_id: str) -> VideoView:
        """The video as it is. Raises `NotFound`."""
        video = self._videos.get(video_id)
        return await self._store.view(video_id) if video is None else video.view

    async def list(
        self, *, after: str | None = None, limit: int = 20, order: Literal["asc", "desc"] = "desc", search: str = ""
    ) -> tuple[list[VideoView], bool]:
        """One page and whether there are more; search: words that title, prompts or id contain. Raises `InvalidRequest`."""
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidRequest("limit is out of range", expected=f"1 to {MAX_PAGE}", received=limit, param="limit")
        views, more = await self._store.page(after, limit, order, search)
        return [self._videos[view.id].view if view.id in self._videos else view for view in views], more

    async def timeline(self, video_id: str) -> Timeline:
        """Its Direction and its cues. Raises `NotFound`."""
        return await self._store.timeline(video_id)

    async def snapshot(self, video_id: str) -> Snapshot:
        """What exists at one moment. Raises `NotFound`."""
        return await self._store.snapshot(video_id)

    async def follow(self, video_id: str, seq: int = 0) -> AsyncGenerator[LogEntry | Progress, None]:
        """Every log entry after `seq`, in order, for ever (ends when the video is deleted); Progress in between."""
        if self._is_leaving:
            return
        bell = await self._bell_of(video_id)
        async with aclosing(follow(partial(self._store.read_log, video_id), bell, seq)) as entries:
            self._enhancing.visited(video_id)
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

    async def spritesheet(self, video_id: str) -> bytes:
        """A JPEG with the first frames of up to 100 chunks, evenly spread. Raises `NotFound`, also for a film without any."""
        from st2v_stream.media.thumbnail import sprite_jpeg, tile_indexes

        loop, tiles = asyncio.get_running_loop(), []
        for index in tile_indexes((await self._store.view(video_id)).chunks):
            if (segment := await self._store.segment(video_id, index)) is None:  # a reset came in between
                break
            init, data = await self.read_blob(segment.init), await self.read_blob(segment.hash)
            tiles.append(await loop.run_in_executor(self._thumbnailer, _first_frame_tile, init, data))
        if not tiles:
            raise NotFound("no such chunk", expected="a film with a chunk or more", received=video_id)
        return await loop.run_in_executor(self._thumbnailer, sprite_jpeg, tiles)

    async def manifest(self, video_id: str) -> Mapping[str, Any]:
        """How every chunk of it was made. Raises `NotFound`."""
        store, view = self._store, await self._store.view(video_id)
        rows, timeline = await store.chunks(video_id), await store.timeline(video_id)
        version, reference = await store.model_version(video_id), await store.reference_sha256(video_id)
        return await asyncio.to_thread(manifest_of, view, rows, timeline, model_version=version, reference_sha256=reference)

    async def verify(self, video_id: str, first: int = 0, last: int | None = None) -> AsyncGenerator[Mapping[str, Any], None]:
        """Make chunks again and compare, one verification after the other. Raises `NotFound`, `InvalidRequest`."""
        view = await self._store.view(video_id)
        chunks = check_range(first, last, view.chunks)
        async with self._verifying:
            generator = await self._shelf.generator(view.model)
            async with aclosing(check_chunks(self._store, generator, video_id, chunks, self._studio.worker)) as checked:
                async for each in checked:
                    yield each.to_json()

    async def bundle(self, video_id: str) -> AsyncGenerator[bytes, None]:
        """The film as one file, piece by piece. Raises `NotFound`."""
        async with aclosing(bundle_pieces(self._store, video_id)) as pieces:
            async for piece in pieces:
                yield piece

    async def import_bundle(self, pieces: AsyncIterator[bytes]) -> VideoView:
        """Take in a film that `bundle` gave elsewhere: all of it, or nothing. Raises `InvalidRequest`, `StoreError`."""
        return await import_pieces(self._store, pieces)

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
            "enhancing": {
                "films": self._enhancing.films,
                "frames": self._enhancing.frames,
                "frames_per_second": self._enhancing.frames_per_second,
                "behind_s": self._enhancing.behind_s,
            },
            "store_error": None if trouble is None else str(trouble),
            "grace_s": self._config.grace_s,
            "sqlite": sqlite3.sqlite_version,
        }

    @property
    def ready(self) -> bool:
        """The default model is loaded and the store can be written."""
        return self._shelf.state(self._config.model) == "ready" and self._store.trouble is None

    # ------------------------------------------------------------ inside

    async def _create(
        self, view: VideoView, card: ModelCard, reference: Reference | None, cues: Sequence[Cue] = ()
    ) -> VideoView:
        entry = await self._store.create(view, {"model_version": card.version}, reference, cues)
        return self._begin(_view_of(entry)).view

    async def _delete(self, video_id: str) -> None:
        async with self._changing(video_id):
            await self._hide(video_id)

    async def _hide(self, video_id: str) -> None:
        video, task = self._videos.get(video_id), self._tasks.get(video_id)
        if task is not None:
            await _cancel(task)
        self._enhancing.break_off(video_id, for_good=True)
        try:
            await self._store.delete(video_id)
        except StoreError:
            if video is not None:
                await self._begin_again(video)
            raise
        if (bell := self._bells.pop(video_id, None)) is not None:  # one that comes back has a bell of its own
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

    async def _cue(self, video_id: str, make: Callable[[int], Cue]) -> LogEntry:
        async with self._changing(video_id):
            if (video := self._videos.get(video_id)) is not None:
                return await video.cue(make)
            bell = await self._bell_of(video_id)
            (entry,) = await self._store.cue(video_id, make((await self._store.view(video_id)).chunks))
            bell.announce([entry])
            return entry

    async def _take_back_cue(self, video_id: str, seq: int) -> LogEntry:
        async with self._changing(video_id):
            if (video := self._videos.get(video_id)) is not None:
                return await video.take_back_cue(seq)
            bell = await self._bell_of(video_id)
            entry = await self._store.take_back_cue(video_id, seq, (await self._store.view(video_id)).chunks)
            bell.announce([entry])
            return entry

    async def _branch(self, view: VideoView, timeline: Timeline, parent: VideoView) -> VideoView:
        begins_anew = view.model != parent.model or view.fork_index == 0
        config = {"model_version": self._shelf.card(view.model).version} if begins_anew else None
        entry = await self._store.branch(view, timeline, config)
        await self._tell_of_other_version(view)
        return self._begin(_view_of(entry)).view

    async def _check_can_go_on(self, parent: VideoView, fork: int, card: ModelCard, timeline: Timeline) -> None:
        """Raise `ModelDoesNotFit` unless this model can make chunk `fork`."""
        if fork == 0 or card.name == parent.model:
            return
        check_fits(card, parent.spec)
        memory = await self._store.memory_before(parent.id, fork)
        if memory is None or memory.next_index != fork:
            near = "no chunk" if memory is None else f"from_index {memory.next_index}"
            message = f"what chunk {fork} follows was thinned away, and only {parent.model} can make it again"
            raise Conflict(message, expected=near, received=fork, param="from_index")
        generator = await self._shelf.generator(card.name)
        if not await self._studio.worker.run(takes, generator, timeline, memory):
            raise ModelDoesNotFit(card.name, "a memory of its own kind", f"one of kind {memory.kind}, version {memory.version}")

    async def _new_film_from(self, parent: VideoView, fork: int, view: VideoView, timeline: Timeline) -> VideoView:
        """A film of its own that starts from the last frame before chunk `fork`, as its viewers saw it."""
        segment = await self._store.segment(parent.id, fork - 1)
        assert segment is not None, "a fork has a chunk before it"
        init, data = await self.read_blob(segment.init), await self.read_blob(segment.hash)
        decode = partial(_last_frame, init, data)
        reference = Reference(await asyncio.get_running_loop().run_in_executor(self._thumbnailer, decode))
        card = self._shelf.card(view.model)
        begun = Timeline(replace(timeline.at(fork), first_chunk_guidance_scale=None, first_chunk_num_inference_steps=None))
        left = None if view.num_frames is None else whole_frames(card.spec, max(1, view.num_frames - segment.start))
        fresh = replace(view, parent_id=None, fork_index=None, direction=begun.first, num_frames=left)
        return await asyncio.shield(self._create(fresh, card, reference))

    async def _redo(self, video_id: str, from_index: int, seed: int) -> tuple[VideoView, VideoView]:
        async with self._changing(video_id):
            chunks = (await self.get(video_id)).chunks
            if chunks == 0:
                raise Conflict(f"nothing of {video_id} is made yet", expected="a chunk or more", received="none")
            check_index(from_index, chunks - 1)
            timeline = await self._store.timeline(video_id)
            check_seed_counts(Cue(from_index, {"seed": seed}), timeline)
            video, task = self._videos.get(video_id), self._tasks.get(video_id)
            if task is not None:
                await _cancel(task)
            kept = new_video_id()
            try:
                view = await self._store.view(video_id)
                bell = await self._bell_of(video_id)
                length = view.frames if view.ended_by == "stopped" else view.num_frames
                fork = None if view.fork_index is None else min(view.fork_index, from_index)
                entries = await self._store.reset(
                    video_id,
                    from_index,
                    timeline=timeline.turned(Cue(from_index, {"seed": seed})),
                    keep_as=kept,
                    state="queued",
                    num_frames=length,
                    fork_index=fork,
                    warnings=without_breaks_from(view.warnings, from_index),
                    **_AFRESH,
                )
            except (NotFound, InvalidRequest, StoreError):
                if video is not None:
                    await self._begin_again(video)
                raise
            bell.announce(entries)
            self._enhancing.break_off(video_id)
            return self._begin(_view_of(entries[-1])).view, await self._store.view(kept)

    def _take(self, video_id: str, entry: LogEntry) -> None:
        """Tell of a state entry, whoever makes or watches the film."""
        if (video := self._videos.get(video_id)) is not None:
            video.take(entry)
        elif (bell := self._bells.get(video_id)) is not None:
            bell.announce([entry])

    def _enhancement(self, asked: EnhancePolicy | None, model: str) -> dict[str, Any]:
        """A new film's policy, and what makes it sharp."""
        enhancer = self._shelf.enhancer_name(model)
        by_default = "none" if enhancer is None else self._config.enhance
        return {"enhancer": enhancer, "enhance": by_default if asked is None else asked}

    def _changing(self, video_id: str) -> asyncio.Lock:
        """One at a time changes a video in more than one step."""
        return self._locks.setdefault(video_id, asyncio.Lock())

    async def _go_on(self, video_id: str, num_frames: int | None) -> VideoView:
        async with self._changing(video_id):
            return await self._queue(video_id, num_frames)

    async def _queue(self, video_id: str, num_frames: int | None) -> VideoView:
        bell = await self._bell_of(video_id)
        allowed = before("queued") - set(ACTIVE)
        entry = await self._store.change(video_id, allowed, state="queued", num_frames=num_frames, **_AFRESH)
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
        if self._is_leaving:  # whoever comes now is not to wait for news that nobody will bring
            bell.close()
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
        self._is_leaving = True
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


def _first_frame_tile(init: bytes, segment: bytes) -> Any:
    from st2v_stream.media.decode import decode_frames
    from st2v_stream.media.thumbnail import tile

    return tile(decode_frames(init, [segment])[0])


def _last_frame(init: bytes, segment: bytes) -> Frames:
    """(1, H, W, 3) uint8."""
    from st2v_stream.media.decode import decode_frames

    frames: Frames = decode_frames(init, [segment])[-1:]
    return frames


def _view_of(entry: LogEntry) -> VideoView:
    assert entry.view is not None, "an entry of kind state has a view"
    return entry.view


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
