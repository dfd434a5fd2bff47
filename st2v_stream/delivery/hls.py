"""HLS: the playlists of a film that grows, from its log. The segments are the very ones that WebSocket viewers get.

    GET /v1/videos/{id}/index.m3u8                    which renditions there are (asks for the first chunk with patience)
    GET /v1/videos/{id}/preview.m3u8 · enhanced.m3u8  their segments so far; `?edit=` names what the list was before

A player may cache what a playlist has listed, so the text at one address only ever grows (RFC 8216, 6.2.1). What changes
a film's past, a reset or another making of a chunk, therefore moves its playlists: `edit` is the seq of the last such log
entry, the address of an older edit redirects to the newest, and the film goes on there at the same place.

Who has a playlist already may ask for what was added to it (`_HLS_skip=YES`, a delta update, rfc8216bis 6.2.5.1). Players
count on a film that grows in real time: they may hold a list that is half a skip boundary old. Ours grow faster, or at
once, so what is left out has also been listed for as long by the clock.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Set
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import get_args

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from st2v_stream.chunk import StreamSpec
from st2v_stream.delivery.events import with_heartbeat
from st2v_stream.delivery.file import REVALIDATE, is_current
from st2v_stream.delivery.film import following
from st2v_stream.errors import NotFound, NotReady
from st2v_stream.media.playlist import (
    Listed,
    PlaylistType,
    Variant,
    delta_playlist,
    join_playlist,
    master_playlist,
    segment_text,
    skip_until_s,
    target_duration_s,
)
from st2v_stream.types import Director, LogEntry, Rendition, SegmentRef, VideoView

MEDIA_TYPE = "application/vnd.apple.mpegurl"

FIRST_CHUNK_S = 15.0
"""How long a playlist that would be empty is waited for: players give up on an empty one, and hls.js after 20 s."""

COMPRESSED_FROM_BYTES, COMPRESSION = 4096, 1
"""Half of a playlist is hashes, which cannot be compressed: level 1 makes 342 KB 147 in 9 ms, level 6 makes it 142 in 23."""

STAYS_S = 12.0
"""A player that asked counts as a viewer for so long (at least three target durations): films may pause when nobody watches."""


@dataclass(frozen=True, slots=True)
class Playlist:
    """A playlist, and a name for this version of it among all at its address."""

    text: str
    version: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The playlist is at another address now (relative to the video's)."""

    uri: str


@dataclass
class _Shelf:
    """One rendition: the newest making of each chunk, and those that are listed, from chunk 0 without a gap."""

    newest: dict[int, SegmentRef] = field(default_factory=dict)
    listed: list[Listed] = field(default_factory=list)
    since_s: list[float] = field(default_factory=list)
    """When each of them was listed; never before the one ahead of it."""
    texts: list[str] = field(default_factory=list)
    """What the playlist says of them, as far as somebody has asked."""
    breaks: list[int] = field(default_factory=list)
    """Which of these begin with a discontinuity."""

    def put(self, segment: SegmentRef, cuts: Set[int], now_s: float) -> bool:
        """Another segment. Whether it takes the place of one that was known."""
        is_known = segment.index in self.newest
        if is_known:
            self.shorten(segment.index)
        self.newest[segment.index] = segment
        while (following_one := self.newest.get(len(self.listed))) is not None:
            self.listed.append(Listed(following_one, following_one.index in cuts))
            self.since_s.append(now_s)
        return is_known

    def cut(self, from_index: int) -> None:
        """Chunks from there on are no longer part of the film."""
        self.newest = {index: segment for index, segment in self.newest.items() if index < from_index}
        self.shorten(from_index)

    def shorten(self, length: int) -> None:
        """List only the first so many; what follows them is listed anew."""
        for kept in (self.listed, self.since_s, self.texts):
            del kept[length:]
        self.breaks = [place for place in self.breaks if place < length]

    def write(self, fps: int) -> list[str]:
        """The text of every listed segment."""
        for place in range(len(self.texts), len(self.listed)):
            text = segment_text(self.listed[place], self.listed[place - 1] if place else None, fps)
            if text.startswith("#EXT-X-DISCONTINUITY"):
                self.breaks.append(place)
            self.texts.append(text)
        return self.texts

    def skippable(self, spec: StreamSpec, now_s: float) -> int:
        """How many segments whoever asks for a delta update has for certain.

        None where a discontinuity is among them: hls.js before 1.6.3 lost count (video-dev/hls.js#6949, #7282).
        """
        known = bisect_right(self.since_s, now_s - skip_until_s(spec))
        boundary = _end(self.listed[-1]) - skip_until_s(spec) * spec.fps if self.listed else 0
        skipped = bisect_right(self.listed, boundary, hi=known, key=_end)
        return 0 if self.breaks and self.breaks[0] < skipped else skipped


def _end(entry: Listed) -> int:
    return entry.segment.start + entry.segment.frames


@dataclass
class Listing:
    """A film's playlists as a fold over its log: `take` every entry in order."""

    seq: int = 0
    edit: int = 0
    """seq of the last entry that changed what could have been listed before it."""
    view: VideoView | None = None
    hashes: set[str] = field(default_factory=set)
    """Every segment and init segment that was ever part of it."""
    _cuts: set[int] = field(default_factory=set)
    _shelves: dict[Rendition, _Shelf] = field(
        default_factory=lambda: {rendition: _Shelf() for rendition in get_args(Rendition)}
    )

    def take(self, entry: LogEntry, now_s: float) -> None:
        """One more entry, heard of at `now_s` by a clock that never goes back; those that were taken already are ignored."""
        if entry.seq <= self.seq:
            return
        self.seq = entry.seq
        if entry.kind == "reset":
            self._cut(entry)
        elif entry.segment is not None:
            self.hashes |= {entry.segment.hash, entry.segment.init}
            if self._shelves[entry.segment.rendition].put(entry.segment, self._cuts, now_s):
                self.edit = entry.seq
        elif entry.view is not None:
            self.view = entry.view

    def listed(self, rendition: Rendition) -> list[Listed]:
        """The chunks of a rendition from the beginning, as far as there is no gap."""
        return self._shelves[rendition].listed

    def playlist(self, rendition: Rendition, spec: StreamSpec, kind: PlaylistType, *, delta_s: float | None = None) -> Playlist:
        """The playlist of a rendition; with `delta_s`, the time by `take`'s clock, a delta update if there is anything to skip.

        Its version is no hash of the text: that is megabytes in a film of hours.
        """
        shelf, is_whole = self._shelves[rendition], self.is_whole(rendition)
        texts, newest = shelf.write(spec.fps), shelf.listed[-1].segment.hash[:16] if shelf.listed else ""
        version = f"{self.edit}-{len(texts)}-{newest}-{'whole' if is_whole else 'grows'}"
        skipped = 0 if delta_s is None or is_whole else shelf.skippable(spec, delta_s)
        if skipped:
            return Playlist(delta_playlist(texts, spec, skipped), f"{version}-{skipped}")
        return Playlist(join_playlist(texts, spec, kind, is_whole=is_whole), version)

    def is_whole(self, rendition: Rendition) -> bool:
        """Whether the film has ended and all of it is there in this rendition (it may be continued later)."""
        is_ended = self.view is not None and self.view.ended_by is not None
        return is_ended and 0 < len(self.listed("preview")) <= len(self.listed(rendition))

    @property
    def has_ended_empty(self) -> bool:
        """Whether there is nothing and nothing will come for now."""
        return self.view is not None and self.view.ended_by is not None and not self.listed("preview")

    def _cut(self, entry: LogEntry) -> None:
        self.edit = entry.seq
        self._cuts = {index for index in self._cuts if index < entry.index} | {entry.index}
        for shelf in self._shelves.values():
            shelf.cut(entry.index)


class Playlists:
    """The playlists of all films. Who asks for one is a viewer: its film's log is followed for a while, on behalf of all.

    `stop`: set when the server drains. The `max_videos` films last asked for are remembered.
    """

    def __init__(self, director: Director, stop: asyncio.Event, *, max_videos: int = 64, first_chunk_s: float = FIRST_CHUNK_S):
        self._director = director
        self._stop = stop
        self._max_videos = max_videos
        self._first_chunk_s = first_chunk_s
        self._followed: OrderedDict[str, _Followed] = OrderedDict()

    async def master(self, video_id: str) -> Playlist:
        """The master playlist. Raises `NotFound`; `NotReady` where the first chunk takes longer than players wait."""
        listing = await self._with_a_chunk(video_id, "preview")
        assert listing.view is not None
        renditions: list[Rendition] = ["preview"]
        if listing.is_whole("enhanced"):
            renditions.insert(0, "enhanced")  # as good as it gets, and no later than the preview: begin with it
        elif listing.listed("enhanced") and not listing.is_whole("preview"):
            renditions.append("enhanced")  # for those who would rather see it sharp than early
        variants = [
            Variant(_address(rendition, listing), [entry.segment for entry in listing.listed(rendition)])
            for rendition in renditions
        ]
        text = master_playlist(variants, listing.view.spec.fps)
        return Playlist(text, hashlib.sha256(text.encode()).hexdigest()[:32])

    async def media(
        self, video_id: str, rendition: Rendition, edit: int | None, kind: PlaylistType, *, delta: bool = False
    ) -> Playlist | Moved:
        """The playlist of a rendition (`delta`: what is new of it, if possible), or where it is.

        Raises `NotFound`, `NotReady` as `master`.
        """
        listing = await self._with_a_chunk(video_id, rendition)
        assert listing.view is not None
        if edit != listing.edit or (kind == "vod" and not listing.is_whole(rendition)):
            return Moved(_address(rendition, listing) + ("&_HLS_skip=YES" if delta else ""))
        now_s = asyncio.get_running_loop().time() if delta else None
        return listing.playlist(rendition, listing.view.spec, kind, delta_s=now_s)

    async def require(self, video_id: str, sha256: str) -> None:
        """Raise `NotFound` unless `sha256` is a segment or init segment of the video: a grant opens no blob of another."""
        known = self._followed.get(video_id)
        if known is None or sha256 not in known.listing.hashes:
            listing = (await self._up_to_date(video_id)).listing
            if sha256 not in listing.hashes:
                raise NotFound("this video has no such segment", received=sha256)

    def forget(self, video_id: str) -> None:
        """The video is gone."""
        if (followed := self._followed.pop(video_id, None)) is not None:
            followed.leave()

    async def _with_a_chunk(self, video_id: str, rendition: Rendition) -> Listing:
        followed = await self._up_to_date(video_id)
        listing = followed.listing
        if rendition == "preview":
            try:
                async with asyncio.timeout(self._first_chunk_s):
                    await followed.until(lambda: bool(listing.listed("preview")) or listing.has_ended_empty)
            except TimeoutError:
                expected = "the first chunk; ask again when it is there"
                raise NotReady("there is no picture of this film yet", expected=expected, received=video_id) from None
        if not listing.listed(rendition):
            raise NotFound(f"nothing of this video exists as {rendition}", received=video_id)
        return listing

    async def _up_to_date(self, video_id: str) -> _Followed:
        """What the log says now. Raises `NotFound`."""
        try:
            view = await self._director.get(video_id)
        except NotFound:
            self.forget(video_id)
            raise
        followed = self._followed.setdefault(video_id, _Followed(self._director, video_id, self._stop))
        self._followed.move_to_end(video_id)
        while len(self._followed) > self._max_videos:
            self._followed.popitem(last=False)[1].leave()
        followed.stay(max(STAYS_S, 3.0 * target_duration_s(view.spec)))
        await followed.until(lambda: followed.listing.seq >= view.seq)
        return followed


class _Followed:
    """A listing, and the task that keeps it up to date while somebody is interested."""

    def __init__(self, director: Director, video_id: str, stop: asyncio.Event) -> None:
        self.listing = Listing()
        self._director = director
        self._video_id = video_id
        self._stop = stop
        self._until_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def stay(self, for_s: float) -> None:
        """Go on following for so long."""
        self._until_s = asyncio.get_running_loop().time() + for_s
        if self._task is None or self._task.done():
            self._start()

    def leave(self) -> None:
        """Follow no longer."""
        if self._task is not None:
            self._task.cancel()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Return when the listing is so. Raises `NotFound` when the video is gone, `NotReady` when the server drains."""
        while not reached():
            assert self._task is not None, "stay() comes before until()"
            waiting = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            if self._task.done() and not reached():
                self._go_on(self._task)

    def _go_on(self, ended: asyncio.Task[None]) -> None:
        """Follow again: it left at the very moment when somebody came. Of a video that is gone this raises `NotFound`."""
        if self._stop.is_set():
            raise NotReady("the server is about to end", expected="ask again in a moment")
        if ended.cancelled():
            raise NotFound("this video is no longer followed", received=self._video_id)
        ended.result()
        self._start()

    def _start(self) -> None:
        self._task = asyncio.create_task(self._follow())
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # told to whoever asks next

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        async with (
            following(self._director, self._video_id, self.listing.seq) as items,
            aclosing(with_heartbeat(items, self._stop, 1.0)) as heard,
        ):
            async for item in heard:
                if isinstance(item, LogEntry):
                    self.listing.take(item, loop.time())
                    self._changed.set()
                    self._changed = asyncio.Event()
                if loop.time() >= self._until_s:
                    return


def _address(rendition: Rendition, listing: Listing) -> str:
    """A film that has ended has an address of its own: there the playlist is a VOD, elsewhere an EVENT that has ended."""
    return f"{rendition}.m3u8?edit={listing.edit}" + ("&type=vod" if listing.is_whole(rendition) else "")


async def playlist_response(request: Request, playlist: Playlist | Moved) -> Response:
    """The playlist, to be asked for again each time; 304 where the asker has this very one; 307 to where it is now.

    A long one is compressed for whoever can read that, off the event loop. It has a weak ETag, as its bytes differ then.
    """
    if isinstance(playlist, Moved):
        return RedirectResponse(playlist.uri, 307)
    etag = f'"{playlist.version}"'
    headers = {"ETag": f"W/{etag}", "Cache-Control": REVALIDATE, "Vary": "Accept-Encoding"}
    if is_current(request, etag):
        return Response(status_code=304, headers=headers)
    text = playlist.text.encode()
    if len(text) >= COMPRESSED_FROM_BYTES and _takes_gzip(request):
        text = await asyncio.to_thread(gzip.compress, text, COMPRESSION)
        headers["Content-Encoding"] = "gzip"
    return Response(text, media_type=MEDIA_TYPE, headers=headers)


def _takes_gzip(request: Request) -> bool:
    """Whether Accept-Encoding names gzip, and not with the weight 0."""
    said = [part.replace(" ", "").lower().partition(";") for part in request.headers.get("accept-encoding", "").split(",")]
    return any(name == "gzip" and weight not in ("q=0", "q=0.0") for name, _, weight in said)
