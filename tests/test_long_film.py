"""Films of the length the product is for. Minutes, so `make test-long` only."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from st2v_stream import Timeline, load_generator, stream_chunks
from st2v_stream.cli import main

BOAT = "a red boat drifts left over the sea"


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_memory_does_not_grow_with_the_film() -> None:
    """1,200 frames of storybook: what the process holds after chunk 20 is what it holds at the end."""

    async def resident_bytes() -> list[int]:
        generator = load_generator("storybook", device="cpu")
        timeline = Timeline(generator.card.direction(BOAT, preset="live", seed=3))
        process, held = psutil.Process(), []
        async with aclosing(stream_chunks(generator, timeline, num_frames=1200)) as chunks:
            async for chunk in chunks:
                held.append(process.memory_info().rss)
                assert chunk.frames.std() > 5, "the picture has not gone flat"
        return held

    held = asyncio.run(resident_bytes())
    assert len(held) == 149
    assert np.median(held[-20:]) - np.median(held[20:40]) < 32 * 2**20


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_two_minute_film_is_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    assert main(["generate", "--prompt", BOAT, "--num-frames", "960", "--preset", "live", "-o", str(path)]) == 0
    with av.open(str(path)) as film:
        times = [frame.time for frame in film.decode(video=0)]
    assert times == [index / 8 for index in range(960)]
