"""The stage itself, with an enhancer that lags and counts: order, resuming, stopping, closing, whose turn it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from st2v_stream.chunk import Chunk, Memory, StreamSpec
from st2v_stream.direction import Direction, Timeline
from st2v_stream.enhancers.passthrough import Passthrough
from st2v_stream.errors import InvalidRequest
from st2v_stream.generators.testcard import TestCard, read_frame_number
from st2v_stream.streaming.autoregressive import StopSignal, stream_chunks
from st2v_stream.streaming.enhance import enhance_chunks
from st2v_stream.streaming.worker import ThreadWorker
from st2v_stream.types import EnhancedChunk, OnStep

DIRECTION = Direction((("a", 1.0),), num_inference_steps=1)
STEPS = 3


class OneBehind:
    """A chunk is sharp when the next one is there: each pixel is its own plus the next chunk's first, modulo 256."""

    name = "one behind"
    lag_frames = 24

    def sharp_spec(self, preview: StreamSpec) -> StreamSpec:
        return preview

    def enhance(self, chunk: Chunk, carry: Memory | None, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        work(on_step)
        after = Memory("one", 1, chunk.index + 1, chunk.start + len(chunk.frames), {"waiting": chunk.frames})
        if carry is None:
            return [], after
        return [self._made(carry, int(chunk.frames[0, 0, 0, 0]), after, int(carry.parts.get("made", np.zeros(1))[0]))], after

    def finish(self, carry: Memory, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        work(on_step)
        after = replace(carry, parts=dict(carry.parts) | {"made": np.ones(1)})
        return [replace(self._made(carry, 0, after, 0), is_provisional=True)], after

    def _made(self, carry: Memory, seen: int, after: Memory, revision: int) -> EnhancedChunk:
        frames = np.asarray(carry.parts["waiting"]) + np.uint8(seen)
        chunk = Chunk(carry.next_index - 1, carry.next_start - len(frames), frames, DIRECTION, after)
        return EnhancedChunk(chunk, revision)


def work(on_step: OnStep) -> None:
    for k in range(STEPS):
        on_step(k, STEPS)
    on_step(STEPS, STEPS)


def film(num_frames: int) -> list[Chunk]:
    async def gather() -> list[Chunk]:
        async with aclosing(stream_chunks(TestCard(64, 48), Timeline(DIRECTION), num_frames=num_frames)) as chunks:
            return [chunk async for chunk in chunks]

    return asyncio.run(gather())


async def given(chunks: Sequence[Chunk]) -> AsyncGenerator[Chunk, None]:
    for chunk in chunks:
        yield chunk


def enhanced(chunks: Sequence[Chunk], enhancer: Any = None, **options: Any) -> list[EnhancedChunk]:
    async def gather() -> list[EnhancedChunk]:
        async with aclosing(enhance_chunks(enhancer or OneBehind(), given(chunks), **options)) as sharp:
            return [each async for each in sharp]

    return asyncio.run(gather())


def same(some: Sequence[EnhancedChunk], others: Sequence[EnhancedChunk]) -> bool:
    return all(
        a.chunk.index == b.chunk.index and np.array_equal(a.chunk.frames, b.chunk.frames)
        for a, b in zip(some, others, strict=True)
    )


def test_composing_is_calling() -> None:
    async def run() -> list[int]:
        preview = stream_chunks(TestCard(64, 48), Timeline(DIRECTION), num_frames=40)
        async with aclosing(preview), aclosing(enhance_chunks(Passthrough(), preview)) as sharp:
            return [read_frame_number(frame) async for each in sharp for frame in each.chunk.frames]

    assert asyncio.run(run()) == list(range(40))


def test_every_chunk_once_in_order_the_end_provisional() -> None:
    made = enhanced(film(48))
    assert [each.chunk.index for each in made] == [0, 1, 2, 3, 4]
    assert [each.is_provisional for each in made] == [False] * 4 + [True]


def test_nothing_comes_of_nothing() -> None:
    assert enhanced([]) == []


def test_a_stop_and_a_crash_make_no_seam() -> None:
    preview = film(64)
    unbroken = enhanced(preview)
    first = enhanced(preview[:3])
    assert (first[-1].is_provisional, first[-1].revision) == (True, 0)
    then = enhanced(preview, carry=first[-1].chunk.memory)  # what it has seen is passed over
    assert (then[0].chunk.index, then[0].revision, then[0].is_provisional) == (2, 1, False)
    assert same([*first[:-1], *then], unbroken)
    crashed = enhanced(preview[2:], carry=unbroken[0].chunk.memory)
    assert same(crashed, unbroken[1:])


def test_stopping_ends_at_the_next_step_without_an_end() -> None:
    stop, steps = StopSignal(), list[tuple[int, int, int]]()

    def on_step(index: int, k: int, n: int) -> None:
        steps.append((index, k, n))
        if (index, k) == (2, 1):
            stop.stop()

    made = enhanced(film(48), stop=stop, on_step=on_step)
    assert [each.chunk.index for each in made] == [0]
    assert steps[-1] == (2, 1, STEPS)
    assert steps[: STEPS + 1] == [(0, k, STEPS) for k in range(STEPS + 1)]


def test_closing_ends_it_and_its_thread() -> None:
    async def run() -> None:
        async with aclosing(enhance_chunks(OneBehind(), given(film_))) as sharp:
            await anext(sharp)

    film_ = film(48)
    asyncio.run(run())
    assert not [thread for thread in threading.enumerate() if thread.name == "st2v-enhance"]


def test_the_preview_goes_first_on_a_shared_worker() -> None:
    """Between two steps of the enhancer what is more urgent runs."""

    async def run() -> list[str]:
        worker, order = ThreadWorker("test"), list[str]()

        def on_step(index: int, k: int, n: int) -> None:
            order.append(f"{index}:{k}")
            if (index, k) == (0, 0):
                urgent.append(asyncio.run_coroutine_threadsafe(worker.run(order.append, "preview"), loop))
                while not worker._waiting:
                    pass

        urgent: list[Any] = []
        loop = asyncio.get_running_loop()
        async with aclosing(enhance_chunks(OneBehind(), given(film_), worker=worker, on_step=on_step)) as sharp:
            async for _ in sharp:
                pass
        await worker.aclose()
        return order

    film_ = film(24)
    order = asyncio.run(run())
    assert order[:3] == ["0:0", "preview", "0:1"]


def test_what_the_enhancer_refuses_arrives() -> None:
    preview = film(48)
    with pytest.raises(InvalidRequest, match="in order"):
        enhanced([preview[0], preview[2]], Passthrough())


def test_what_the_preview_raises_arrives_after_what_was_made() -> None:
    async def broken() -> AsyncIterator[Chunk]:
        for chunk in preview[:3]:
            yield chunk
        raise RuntimeError("the preview broke")

    made: list[int] = []

    async def run() -> None:
        async with aclosing(enhance_chunks(OneBehind(), broken())) as sharp:
            async for each in sharp:
                made.append(each.chunk.index)

    preview = film(48)
    with pytest.raises(RuntimeError, match="the preview broke"):
        asyncio.run(run())
    assert made == [0, 1]
