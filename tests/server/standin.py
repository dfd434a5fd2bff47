"""A Director in memory: tests write its log by hand, so that every order of events can be had without waiting for one."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from st2v_stream.chunk import StreamSpec
from st2v_stream.direction import Cue, Direction, Timeline
from st2v_stream.errors import Conflict, NotFound
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
    Progress,
    Rendition,
    SegmentRef,
    Snapshot,
    VideoView,
)

SPEC = StreamSpec(width=256, height=192, fps=8, first_chunk_frames=16, chunk_frames=8)
CARD = ModelCard("testcard", "Test card", "1", "Apache-2.0", SPEC, example_prompts=("a numbered film",))
FIRST = Timeline(Direction((("a red ball", 1.0),)))
INIT = b"init of preview"
ENHANCED_INIT = b"init of enhanced"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Shelf:
    view: VideoView
    log: list[LogEntry] = field(default_factory=list)
    progress: Progress | None = None
    timeline: Timeline = FIRST
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    is_deleted: bool = False

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Standin:
    """Implements `Director`."""

    def __init__(self, cards: Sequence[ModelCard] = (CARD,)) -> None:
        self.shelves: dict[str, Shelf] = {}
        self.blobs: dict[str, bytes] = {}
        self.cards = cards
        self.requests: list[CreateVideo] = []
        self.asked: list[object] = []
        self.is_ready = True
        self.followers = 0

    # ------------------------------------------------------------ written by tests

    def add(self, chunks: int = 0, *, ended: bool = False, size: int = 100, **changes: Any) -> str:
        """A video with so many chunks."""
        video_id = f"v{len(self.shelves):03d}"
        view = VideoView(
            id=video_id, state="running", title="A film", model="testcard", preset="live", seed=33, prompt="a red ball",
            spec=SPEC, created_at_s=1_700_000_000 + len(self.shelves), num_frames=120,
        )  # fmt: skip
        self.shelves[video_id] = Shelf(replace(view, **changes))
        self.state(video_id)
        for index in range(chunks):
            self.segment(video_id, index, size=size)
        if ended:
            self.state(video_id, state="completed", ended_by="length")
        return video_id

    def segment(
        self, video_id: str, index: int, *, rendition: Rendition = "preview", revision: int = 0, size: int = 100
    ) -> LogEntry:
        """One more segment in the log; its bytes tell what it is."""
        shelf = self.shelves[video_id]
        init = INIT if rendition == "preview" else ENHANCED_INIT
        payload = f"{video_id}/{index}/{rendition}/{revision};".encode().ljust(size, b".")
        self.blobs |= {sha(init): init, sha(payload): payload}
        ref = SegmentRef(
            sha(payload), len(payload), sha(init), "avc1.42C00B", index, SPEC.start_of(index), SPEC.frames_of(index), 256, 192,
            rendition, revision,
        )  # fmt: skip
        if rendition == "preview" and revision == 0:
            shelf.view = replace(shelf.view, chunks=index + 1, frames=SPEC.start_of(index + 1))
        return self._append(shelf, LogEntry(len(shelf.log) + 1, "segment", index, segment=ref))

    def state(self, video_id: str, **changes: Any) -> LogEntry:
        """A state entry."""
        shelf = self.shelves[video_id]
        shelf.view = replace(shelf.view, seq=len(shelf.log) + 1, **changes)
        return self._append(shelf, LogEntry(len(shelf.log) + 1, "state", 0, view=shelf.view))

    def reset(self, video_id: str, index: int) -> LogEntry:
        shelf = self.shelves[video_id]
        return self._append(shelf, LogEntry(len(shelf.log) + 1, "reset", index))

    def step(self, video_id: str, progress: Progress) -> None:
        self.shelves[video_id].progress = progress
        self.shelves[video_id].wake()

    def _append(self, shelf: Shelf, entry: LogEntry) -> LogEntry:
        shelf.log.append(entry)
        shelf.view = replace(shelf.view, seq=entry.seq)
        shelf.wake()
        return entry

    # ------------------------------------------------------------ Director

    async def create(self, request: CreateVideo) -> VideoView:
        self.requests.append(request)
        title = request.title or request.prompt
        video_id = self.add(prompt=request.prompt, num_frames=request.num_frames, state="queued", title=title)
        return self.shelves[video_id].view

    async def get(self, video_id: str) -> VideoView:
        return self._shelf(video_id).view

    async def list(
        self, *, after: str | None = None, limit: int = 20, order: Literal["asc", "desc"] = "desc", search: str = ""
    ) -> tuple[list[VideoView], bool]:
        views = [shelf.view for shelf in self.shelves.values() if not shelf.is_deleted and search in shelf.view.title]
        views = views if order == "asc" else views[::-1]
        if after is not None:
            views = views[[view.id for view in views].index(self._shelf(after).view.id) + 1 :]
        return views[:limit], len(views) > limit

    async def delete(self, video_id: str) -> None:
        shelf = self._shelf(video_id)
        shelf.is_deleted = True
        shelf.wake()

    async def stop(self, video_id: str) -> VideoView:
        if self._shelf(video_id).view.ended_by is not None:
            raise Conflict("the video is not running", expected="state running", received=self._shelf(video_id).view.state)
        self.state(video_id, state="stopped", ended_by="stopped")
        return self._shelf(video_id).view

    async def continue_(self, video_id: str, num_frames: int | None) -> VideoView:
        view = self._shelf(video_id).view
        self.state(video_id, state="queued", ended_by=None, num_frames=None if num_frames is None else view.frames + num_frames)
        return self._shelf(video_id).view

    async def undelete(self, video_id: str) -> VideoView:
        self.shelves[video_id].is_deleted = False
        return self._shelf(video_id).view

    async def deleted(self) -> Sequence[DeletedVideo]:
        return [DeletedVideo(shelf.view, 1000, 87_400) for shelf in self.shelves.values() if shelf.is_deleted]

    async def edit(
        self,
        video_id: str,
        *,
        title: str | None = None,
        when_unwatched: str | None = None,
        enhance: EnhancePolicy | None = None,
    ) -> VideoView:
        view = self._shelf(video_id).view
        self.state(video_id, title=title or view.title, when_unwatched=when_unwatched, enhance=enhance or view.enhance)
        return self._shelf(video_id).view

    async def enhance(self, video_id: str, request: EnhanceVideo) -> VideoView:
        self.asked.append(request)
        return self._shelf(video_id).view

    async def timeline(self, video_id: str) -> Timeline:
        return self._shelf(video_id).timeline

    async def cue(self, video_id: str, request: AddCue) -> AddedCue:
        shelf = self._shelf(video_id)
        self.asked.append(request)
        soonest = shelf.view.chunks + 1
        cue = Cue(max(soonest, request.from_index or 0), {"seed": request.changes.seed}, request.transition_chunks)
        shelf.timeline = Timeline(shelf.timeline.first, (*shelf.timeline.cues, cue))
        entry = self._append(shelf, LogEntry(len(shelf.log) + 1, "cue", cue.index, cue=cue))
        return AddedCue(entry.seq, cue, SPEC.start_of(cue.index), ("a warning",))

    async def cues(self, video_id: str) -> Sequence[tuple[int, Cue]]:
        shelf = self._shelf(video_id)
        back = {entry.taken_back for entry in shelf.log}
        return [(entry.seq, entry.cue) for entry in shelf.log if entry.cue is not None and entry.seq not in back]

    async def take_back_cue(self, video_id: str, seq: int) -> LogEntry:
        shelf, cue = self._shelf(video_id), dict(await self.cues(video_id)).get(seq)
        if cue is None:
            raise NotFound("no such cue", received=seq)
        return self._append(shelf, LogEntry(len(shelf.log) + 1, "cue", cue.index, taken_back=seq))

    async def branch(self, video_id: str, request: BranchVideo) -> VideoView:
        self.asked.append(request)
        parent = self._shelf(video_id).view
        return self.shelves[self.add(parent_id=parent.id, fork_index=request.from_index, state="queued")].view

    async def redo(self, video_id: str, from_index: int, seed: int | None = None) -> tuple[VideoView, VideoView]:
        self.asked.append((from_index, seed))
        kept = self.add(parent_id=video_id, fork_index=from_index, state="stopped", ended_by="stopped")
        self.reset(video_id, from_index)
        self.state(video_id, state="queued", ended_by=None)
        return self._shelf(video_id).view, self._shelf(kept).view

    async def manifest(self, video_id: str) -> Mapping[str, Any]:
        return {"id": self._shelf(video_id).view.id, "chunks": []}

    async def snapshot(self, video_id: str) -> Snapshot:
        shelf = self._shelf(video_id)
        best: dict[int, LogEntry] = {}
        for entry in shelf.log:
            if entry.kind == "reset":
                best = {index: kept for index, kept in best.items() if index < entry.index}
            elif entry.segment is not None:
                known = best.get(entry.index)
                if known is None or known.segment is None or not (
                    known.segment.rendition == "enhanced" and entry.segment.rendition == "preview"
                ):  # fmt: skip
                    best[entry.index] = entry
        return Snapshot(shelf.view, tuple(sorted(best.values(), key=lambda entry: entry.seq)), shelf.view.seq)

    async def follow(self, video_id: str, seq: int = 0) -> AsyncIterator[LogEntry | Progress]:
        shelf = self._shelf(video_id)
        told: Progress | None = None
        self.followers += 1
        try:
            while not shelf.is_deleted:
                changed = shelf.changed
                while seq < len(shelf.log):
                    yield shelf.log[seq]
                    seq += 1
                if shelf.progress is not None and shelf.progress is not told:
                    told = shelf.progress
                    yield told
                    continue
                if seq == len(shelf.log) and not shelf.is_deleted:
                    await changed.wait()
        finally:
            self.followers -= 1

    async def read_blob(self, sha256: str) -> bytes:
        if sha256 not in self.blobs:
            raise NotFound("no such blob", received=sha256)
        return self.blobs[sha256]

    async def thumbnail(self, video_id: str, index: int) -> bytes:
        if index >= self._shelf(video_id).view.chunks:
            raise NotFound("no such chunk", received=index)
        return b"\xff\xd8 jpeg of " + f"{video_id}/{index}".encode()

    async def bundle(self, video_id: str) -> AsyncIterator[bytes]:
        yield self._shelf(video_id).view.title.encode()
        yield b", all of it"

    async def import_bundle(self, pieces: AsyncIterator[bytes]) -> VideoView:
        self.asked.append(b"".join([piece async for piece in pieces]))
        return self.shelves[self.add(1, ended=True)].view

    async def spritesheet(self, video_id: str) -> bytes:
        return b"\xff\xd8 sheet of " + f"{self._shelf(video_id).view.chunks} chunks".encode()

    def models(self) -> Sequence[ModelCard]:
        return self.cards

    def system(self) -> Mapping[str, Any]:
        return {"device": "cpu", "running": 0, "store": {"size_bytes": 5}}

    @property
    def ready(self) -> bool:
        return self.is_ready

    def _shelf(self, video_id: str) -> Shelf:
        shelf = self.shelves.get(video_id)
        if shelf is None or shelf.is_deleted:
            raise NotFound("no such video", received=video_id)
        return shelf
