"""A stand-in whose segments can be decoded: every frame shows its number, so that tests see which frames a player shows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from server.running import TOKEN, running
from server.standin import SPEC, Standin

from st2v_stream.chunk import Chunk, Memory
from st2v_stream.delivery.grants import GrantKey
from st2v_stream.direction import Direction
from st2v_stream.generators.testcard import draw_frames
from st2v_stream.media.encode import encode_segment
from st2v_stream.media.segment import EncodeSpec, Segment
from st2v_stream.types import LogEntry, Rendition, SegmentRef

COLOUR = np.array([90, 120, 150], np.uint8)


@cache
def encoded(index: int, rendition: Rendition, first: int) -> Segment:
    """A chunk whose frames show their numbers, counted from `first`."""
    numbers = range(SPEC.start_of(index) + first, SPEC.start_of(index + 1) + first)
    frames = draw_frames(SPEC, numbers, COLOUR, bytes(32))
    memory = Memory("test", 1, index + 1, SPEC.start_of(index + 1), {})
    chunk = Chunk(index, SPEC.start_of(index), frames, Direction((("numbers", 1.0),)), memory)
    return encode_segment(chunk, EncodeSpec.for_stream(SPEC, rendition))


class Numbered(Standin):
    """Its segments can be decoded; frames of a revision count on from 1000 times its number."""

    def segment(
        self, video_id: str, index: int, *, rendition: Rendition = "preview", revision: int = 0, size: int = 100
    ) -> LogEntry:
        made = encoded(index, rendition, 1000 * revision)
        self.blobs |= {made.hash: made.data, made.init_hash: made.init}
        shelf = self.shelves[video_id]
        ref = SegmentRef(
            made.hash, len(made.data), made.init_hash, made.codec, index, made.start, made.frames, made.width, made.height,
            rendition, revision,
        )  # fmt: skip
        if rendition == "preview":
            shelf.view = replace(shelf.view, chunks=index + 1, frames=SPEC.start_of(index + 1))
        return self._append(shelf, LogEntry(len(shelf.log) + 1, "segment", index, segment=ref))


def link(port: int, video_id: str, playlist: str = "index.m3u8") -> str:
    key = GrantKey(TOKEN)
    return f"http://127.0.0.1:{port}/g/{key.sign(key.new(video_id, 60))}/v1/videos/{video_id}/{playlist}"


Do = Callable[[Callable[[], object]], None]


@contextmanager
def served_by_hand(data_dir: Path, **settings: Any) -> Iterator[tuple[Numbered, int, Do]]:
    """A server on a thread of its own, whose film's log the test writes: the director, the port, do(work) on that thread."""
    director, loop, is_up, stop = Numbered(), asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    ports: list[int] = []

    async def serve() -> None:
        async with running(director, data_dir, **settings) as server:
            ports.append(server.port)
            is_up.set()
            await stop.wait()

    def do(work: Callable[[], object]) -> None:
        done = threading.Event()
        loop.call_soon_threadsafe(lambda: (work(), done.set()))
        assert done.wait(5)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert is_up.wait(20)
    try:
        yield director, ports[0], do
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()
