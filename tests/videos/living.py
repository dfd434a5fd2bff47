"""A Live for tests: test cards, a stand-in encoder, and ways to wait for what happens.

Run as a program, `python living.py DATA NUM_FRAMES` is a process that makes a film (or goes on with it) and prints each
chunk that was acknowledged; the tests kill it.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from st2v_stream.chunk import Chunk, StreamSpec
from st2v_stream.config import Config
from st2v_stream.direction import Direction
from st2v_stream.generators.testcard import TestCard
from st2v_stream.types import CreateVideo, Generator, LogEntry, ModelEntry, Progress, VideoState, VideoView
from st2v_stream.videos.live import Live, media_encoder, sharp_media_encoder

PATIENCE_S = 20


class StandIn:
    """Looks like a segment to the store; costs nothing."""

    codec, width, height, init = "avc1.42C00D", 64, 48, b"init"

    def __init__(self, chunk: Chunk) -> None:
        self.data, self.start, self.frames = chunk.frames.tobytes()[-500:], chunk.start, len(chunk.frames)


def stand_in_encoder(spec: StreamSpec) -> Callable[[Chunk], StandIn]:
    return StandIn


def small_card(**options: Any) -> TestCard:
    return TestCard(64, 48, **{"steps": 3, **options})


def entry_of(generator: Generator) -> ModelEntry:
    return ModelEntry(generator.card, lambda: generator)


@asynccontextmanager
async def living(
    data_dir: Path,
    card: TestCard | None = None,
    *,
    models: Mapping[str, ModelEntry] | None = None,
    real: bool = False,
    **config: Any,
) -> AsyncIterator[Live]:
    models = models or {"testcard": entry_of(card or small_card())}
    settings = Config(**{"data_dir": data_dir, "model": next(iter(models)), **config})
    encoders = (media_encoder, sharp_media_encoder) if real else (stand_in_encoder, stand_in_encoder)
    async with Live.open(settings, models, encoder_for=encoders[0], sharp_encoder_for=encoders[1], retry_s=0.02) as live:
        yield live


async def until(live: Live, video_id: str, *states: VideoState) -> VideoView:
    """The video, once it is in one of the states (or was so in a state entry of its log from now on)."""
    seen = await live.get(video_id)
    if seen.state in states:
        return seen
    async with asyncio.timeout(PATIENCE_S), aclosing(live.follow(video_id, seen.seq)) as news:
        async for entry in news:
            if isinstance(entry, LogEntry) and entry.view is not None and entry.view.state in states:
                return entry.view
    raise AssertionError(f"{video_id} was deleted")


async def until_chunk(live: Live, video_id: str, index: int) -> None:
    async with asyncio.timeout(PATIENCE_S), aclosing(live.follow(video_id)) as news:
        async for entry in news:
            if isinstance(entry, LogEntry) and entry.kind == "segment" and entry.index >= index:
                return


async def until_step(live: Live, video_id: str, index: int, step: int) -> None:
    async with asyncio.timeout(PATIENCE_S), aclosing(live.follow(video_id)) as news:
        async for entry in news:
            if isinstance(entry, Progress) and (entry.index, entry.step) >= (index, step):
                return


async def entries_to_the_end(live: Live, video_id: str, seq: int = 0) -> list[LogEntry]:
    """Every log entry from `seq` to the one that says how the film ended."""
    entries = list[LogEntry]()
    async with asyncio.timeout(PATIENCE_S), aclosing(live.follow(video_id, seq)) as news:
        async for entry in news:
            if isinstance(entry, LogEntry):
                entries.append(entry)
                if entry.view is not None and entry.view.state in ("stopped", "completed", "failed"):
                    break
    return entries


def unbroken_hashes(direction: Direction, chunks: int, card: TestCard | None = None) -> Sequence[str]:
    """sha256 of the frames of every chunk, made in one go without any of the flow."""
    card, memory, hashes = card or small_card(), None, list[str]()
    for _ in range(chunks):
        if memory is None:
            frames, memory = card.begin(direction, None, lambda k, n: None)
        else:
            frames, memory = card.generate(direction, memory, lambda k, n: None)
        hashes.append(hashlib.sha256(frames.tobytes()).hexdigest())
    return hashes


async def frame_hashes(live: Live, video_id: str) -> list[str]:
    return await live._store.frame_hashes(video_id)


async def make_and_tell(data_dir: Path, num_frames: int) -> None:
    async with living(data_dir, small_card(seconds_per_step=0.003), real=True) as live:
        views, _ = await live.list()
        view = views[0] if views else await live.create(CreateVideo("a film", num_frames=num_frames))
        await tell_until_completed(live, view.id)


async def tell_until_completed(live: Live, video_id: str) -> None:
    """Print the log as it grows: a parent process kills this one by what it reads."""
    async with aclosing(live.follow(video_id)) as news:
        async for entry in news:
            if isinstance(entry, LogEntry):
                print(entry.kind, entry.index, flush=True)
                if entry.view is not None and entry.view.state == "completed":
                    return


if __name__ == "__main__":
    asyncio.run(make_and_tell(Path(sys.argv[1]), int(sys.argv[2])))
