"""What there is of a film: reading its log, choosing the segments of one rendition, knowing which hashes belong to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, cast

from st2v_stream.errors import NotFound
from st2v_stream.types import Director, LogEntry, Progress, Rendition, SegmentRef, Snapshot, VideoView

RenditionChoice = Literal["auto", "preview", "enhanced"]


@dataclass(frozen=True, slots=True)
class Film:
    """A video's chunks in one rendition, in order and without a gap."""

    view: VideoView
    rendition: Rendition
    segments: tuple[SegmentRef, ...]


def following(director: Director, video_id: str, seq: int) -> aclosing[AsyncGenerator[LogEntry | Progress, None]]:
    """`director.follow` as a context that closes it."""
    return aclosing(cast(AsyncGenerator[LogEntry | Progress, None], director.follow(video_id, seq)))


async def read_film(director: Director, video_id: str, choice: RenditionChoice = "auto") -> Film:
    """What exists now in one rendition, never mixed: auto is enhanced if all of it is, else preview.

    Raises `NotFound` when there is no video, or nothing of it in that rendition.
    """
    snapshot = await director.snapshot(video_id)
    rendition = _resolve(choice, snapshot)
    segments = [entry.segment for entry in snapshot.entries if entry.segment is not None]
    if any(segment.rendition != rendition for segment in segments):
        segments = await _read_rendition(director, snapshot, rendition)
    whole = _from_the_beginning(segments)
    if not whole:
        raise NotFound(f"nothing of this video exists as {rendition} yet", received=video_id)
    return Film(snapshot.view, rendition, whole)


def _resolve(choice: RenditionChoice, snapshot: Snapshot) -> Rendition:
    if choice != "auto":
        return choice
    renditions = {entry.segment.rendition for entry in snapshot.entries if entry.segment is not None}
    return "enhanced" if renditions == {"enhanced"} else "preview"


async def _read_rendition(director: Director, snapshot: Snapshot, rendition: Rendition) -> list[SegmentRef]:
    """Walk the log up to the snapshot: the newest revision of every chunk in one rendition (the snapshot holds the best)."""
    newest: dict[int, SegmentRef] = {}
    async with following(director, snapshot.view.id, 0) as items:
        async for item in items:
            if isinstance(item, Progress):
                continue
            if item.kind == "reset":
                newest = {index: segment for index, segment in newest.items() if index < item.index}
            elif item.segment is not None and item.segment.rendition == rendition:
                newest[item.segment.index] = item.segment
            if item.seq >= snapshot.seq:
                break
    return list(newest.values())


def _from_the_beginning(segments: list[SegmentRef]) -> tuple[SegmentRef, ...]:
    ordered = sorted(segments, key=lambda segment: segment.index)
    return tuple(segment for place, segment in enumerate(ordered) if segment.index == place)
