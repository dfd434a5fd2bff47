"""`GET /v1/videos/{id}/events`: a video's log as server-sent events, for scripts and for pages without a WebSocket.

Events: `state` (the video), `segment` (a chunk and its addresses), `reset`, `cue`, `progress`. The id of an event is its seq:
EventSource reconnects with it in `Last-Event-ID` and goes on without gap or duplicate.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from st2v_stream.delivery.film import following
from st2v_stream.delivery.resource import chunk_json, cue_note_json, progress_json, video_json
from st2v_stream.errors import NotFound
from st2v_stream.types import Director, LogEntry, Progress

HEARTBEAT_S = 15.0
"""A comment after this much silence, so that proxies keep the connection and a dead one is noticed."""


async def event_stream(
    director: Director, video_id: str, cursor: int, stop: asyncio.Event, *, allowed_for_s: float | None = None
) -> AsyncGenerator[str, None]:
    """The events after `cursor` (0: a snapshot first), until the video is deleted, `stop` is set or permission ends."""
    loop = asyncio.get_running_loop()
    ends_at = None if allowed_for_s is None else loop.time() + allowed_for_s
    try:
        if cursor == 0:
            snapshot = await director.snapshot(video_id)
            for entry in snapshot.entries:
                yield _event(entry)
            yield _format("state", video_json(snapshot.view), snapshot.seq)
            cursor = snapshot.seq
        async with (
            following(director, video_id, cursor) as items,
            aclosing(with_heartbeat(items, stop, HEARTBEAT_S)) as heard,  # first: it may still be waiting for an item
        ):
            async for item in heard:
                if ends_at is not None and loop.time() >= ends_at:
                    return
                yield ": still here\n\n" if item is None else _event(item)
    except NotFound:
        return


async def with_heartbeat(
    items: AsyncIterator[LogEntry | Progress], stop: asyncio.Event, every_s: float
) -> AsyncGenerator[LogEntry | Progress | None, None]:
    """Every item, None after `every_s` of silence, and an end as soon as `stop` is set."""
    stopped = asyncio.create_task(stop.wait())
    following_item: asyncio.Task[LogEntry | Progress | None] | None = None
    try:
        while not stop.is_set():
            if following_item is None:
                following_item = asyncio.create_task(_next(items))
            awaited: set[asyncio.Task[Any]] = {following_item, stopped}
            await asyncio.wait(awaited, timeout=every_s, return_when=asyncio.FIRST_COMPLETED)
            if not following_item.done():
                yield None
                continue
            item, following_item = following_item.result(), None
            if item is None:
                return
            yield item
    finally:
        waiting: list[asyncio.Task[Any]] = [task for task in (stopped, following_item) if task is not None]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _next(items: AsyncIterator[LogEntry | Progress]) -> LogEntry | Progress | None:
    return await anext(items, None)


def _event(item: LogEntry | Progress) -> str:
    if isinstance(item, Progress):
        return _format("progress", progress_json(item))
    if item.segment is not None:
        return _format("segment", chunk_json(item.seq, item.segment), item.seq)
    if item.view is not None:
        return _format("state", video_json(item.view), item.seq)
    fields = cue_note_json(item) if item.kind == "cue" else {"seq": item.seq, "index": item.index}
    return _format(item.kind, fields, item.seq)


def _format(name: str, fields: Any, seq: int | None = None) -> str:
    number = "" if seq is None else f"id: {seq}\n"
    return f"event: {name}\n{number}data: {json.dumps(fields, separators=(',', ':'))}\n\n"
