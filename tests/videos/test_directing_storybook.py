"""The equalities of tests/videos/test_directing.py once more, with a real model: the same frames, bit for bit."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from pathlib import Path

import pytest

from st2v_stream.config import Config
from st2v_stream.direction import Timeline
from st2v_stream.streaming.autoregressive import stream_chunks
from st2v_stream.types import AddCue, BranchVideo, Changes, CreateVideo, ModelEntry
from st2v_stream.videos.live import Live
from videos.living import frame_hashes, stand_in_encoder, until, until_chunk

BOAT = CreateVideo("a red boat drifts left over the sea", num_frames=40, seed=7, preset="live")
"""Four chunks."""


@pytest.mark.slow
def test_stopped_branched_resumed_and_streamed_are_one_film(tmp_path: Path) -> None:
    from st2v_stream import load_generator

    generator = load_generator("storybook", device="cpu")
    models = {"storybook": ModelEntry(generator.card, lambda: generator)}

    async def unbroken(timeline: Timeline, num_frames: int) -> list[str]:
        async with aclosing(stream_chunks(generator, timeline, num_frames=num_frames)) as chunks:
            return [hashlib.sha256(chunk.frames.tobytes()).hexdigest() async for chunk in chunks]

    async def direct() -> None:
        night = AddCue(Changes("a red boat drifts left in the night sky"), from_s=3, transition_chunks=1)
        async with Live.open(Config(data_dir=tmp_path), models, encoder_for=stand_in_encoder) as live:
            film = await live.create(CreateVideo(BOAT.prompt, num_frames=None, seed=7, preset="live", cues=(night,)))
            await until_chunk(live, film.id, 0)
            await live.stop(film.id)
            stopped = await until(live, film.id, "stopped")
        async with Live.open(Config(data_dir=tmp_path), models, encoder_for=stand_in_encoder) as live:
            await live.continue_(film.id, max(8, 40 - stopped.frames))
            film = await until(live, film.id, "completed")
            timeline = await live.timeline(film.id)
            made = await frame_hashes(live, film.id)
            assert made == await unbroken(timeline, film.frames)
            same = await live.branch(film.id, BranchVideo(3))  # the memory it begins from was thinned away
            await until(live, same.id, "completed")
            assert await frame_hashes(live, same.id) == made
            redone, kept = await live.redo(film.id, 3, seed=8)
            await until(live, redone.id, "completed")
            assert await frame_hashes(live, kept.id) == made
            assert (await frame_hashes(live, film.id))[:3] == made[:3]
            assert (await frame_hashes(live, film.id))[3:] != made[3:]

    asyncio.run(direct())
