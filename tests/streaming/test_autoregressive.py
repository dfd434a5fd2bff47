from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from st2v_stream.chunk import Chunk, Frames, Memory
from st2v_stream.direction import Cue, Direction, Timeline
from st2v_stream.errors import St2vError
from st2v_stream.generators.testcard import TestCard, read_frame_number
from st2v_stream.streaming.autoregressive import StopSignal, stream_chunks
from st2v_stream.streaming.prefetch import prefetch
from st2v_stream.streaming.worker import ThreadWorker
from st2v_stream.types import OnStep

TIMELINE = Timeline(Direction((("a", 1.0),), num_inference_steps=3), (Cue(3, {"prompts": (("b", 1.0),)}),))
LAST = 6
WHOLE = 16 + 8 * LAST


async def gathered(stream: AsyncGenerator[Chunk, None]) -> list[Chunk]:
    async with aclosing(stream) as chunks:
        return [chunk async for chunk in chunks]


def film(**options: Any) -> list[Chunk]:
    options = {"num_frames": WHOLE, **options}
    return asyncio.run(gathered(stream_chunks(TestCard(64, 48), TIMELINE, **options)))


def by_hand() -> list[tuple[Frames, Memory]]:
    """The fold, written out."""
    card, made = TestCard(64, 48), list[tuple[Frames, Memory]]()
    frames, memory = card.begin(TIMELINE.at(0), None, lambda k, n: None)
    made.append((frames, memory))
    for index in range(1, LAST + 1):
        frames, memory = card.generate(TIMELINE.at(index), memory, lambda k, n: None)
        made.append((frames, memory))
    return made


def same(chunks: list[Chunk], others: list[Chunk]) -> bool:
    pairs = list(zip(chunks, others, strict=True))
    return all(np.array_equal(a.frames, b.frames) and a.memory.digest == b.memory.digest for a, b in pairs)


def test_streamed_equals_whole() -> None:
    chunks = film()
    assert [(chunk.index, chunk.start) for chunk in chunks] == [(0, 0), *((n, 8 + 8 * n) for n in range(1, LAST + 1))]
    for chunk, (frames, memory) in zip(chunks, by_hand(), strict=True):
        assert np.array_equal(chunk.frames, frames)
        assert chunk.memory.digest == memory.digest
        assert chunk.direction == TIMELINE.at(chunk.index)
    numbers = [read_frame_number(frame) for chunk in chunks for frame in chunk.frames]
    assert numbers == list(range(WHOLE))


@pytest.mark.parametrize("index", range(LAST))
def test_resumed_equals_uninterrupted(index: int) -> None:
    whole = film()
    rest = film(memory=whole[index].memory, num_frames=8 * (LAST - index))
    assert same(whole[index + 1 :], rest)


@pytest.mark.parametrize(("frames", "expected"), [(0, 0), (1, 16), (16, 16), (17, 24), (24, 24), (25, 32)])
def test_num_frames_rounds_up_to_whole_chunks(frames: int, expected: int) -> None:
    assert sum(len(chunk.frames) for chunk in film(num_frames=frames)) == expected


@pytest.mark.parametrize(("frames", "expected"), [(0, 0), (1, 8), (8, 8), (9, 16)])
def test_num_frames_counts_from_the_memory(frames: int, expected: int) -> None:
    memory = film(num_frames=24)[-1].memory
    assert sum(len(chunk.frames) for chunk in film(num_frames=frames, memory=memory)) == expected


def test_max_frames_ends_an_endless_film() -> None:
    stream = stream_chunks(TestCard(max_frames=45), TIMELINE, num_frames=None)
    assert sum(len(chunk.frames) for chunk in asyncio.run(gathered(stream))) == 40


def test_chunks_are_made_when_they_are_asked_for() -> None:
    async def main() -> list[int]:
        steps = list[int]()
        stream = stream_chunks(TestCard(), TIMELINE, num_frames=None, on_step=lambda index, k, n: steps.append(index))
        async with aclosing(stream):
            await anext(stream)
            await anext(stream)
        return steps

    assert asyncio.run(main()) == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("at", [(0, 0), (0, 2), (2, 1), (2, 3), (4, 0)])
def test_a_stop_between_steps_leaves_whole_chunks_and_continuing_equals_unbroken(at: tuple[int, int]) -> None:
    stop = StopSignal()

    def stop_there(index: int, k: int, n: int) -> None:
        if (index, k) == at:
            stop.stop()

    whole = film()
    until = film(stop=stop, on_step=stop_there)
    assert len(until) in (at[0], at[0] + 1)  # asked during its last step, a chunk may be whole before anybody looks
    assert same(whole[: len(until)], until)
    stop.reset()
    memory = until[-1].memory if until else None
    made = sum(len(chunk.frames) for chunk in until)
    assert same(whole, until + film(memory=memory, num_frames=WHOLE - made, stop=stop))


def test_a_stop_reaches_a_film_that_waits_for_its_turn() -> None:
    async def main() -> None:
        worker, stop = ThreadWorker(), StopSignal()
        inside, leave = threading.Event(), threading.Event()
        other = asyncio.create_task(worker.run(lambda: (inside.set(), leave.wait(5))))
        await asyncio.to_thread(inside.wait, 5)
        waits = asyncio.create_task(gathered(stream_chunks(TestCard(), TIMELINE, num_frames=None, worker=worker, stop=stop)))
        await asyncio.sleep(0)
        stop.stop()
        assert await asyncio.wait_for(waits, 2) == []
        leave.set()
        await other
        await worker.aclose()

    asyncio.run(main())


def test_an_urgent_call_is_answered_within_a_step() -> None:
    async def main() -> list[tuple[int, int] | str]:
        order, worker = list[tuple[int, int] | str](), ThreadWorker()
        asked: list[asyncio.Future[None]] = []
        loop = asyncio.get_running_loop()
        queued = threading.Event()

        def ask() -> None:
            asked.append(asyncio.ensure_future(worker.run(order.append, "urgent", priority=-1)))
            loop.call_soon(queued.set)

        def note(index: int, k: int, n: int) -> None:
            order.append((index, k))
            if (index, k) == (1, 0):
                loop.call_soon_threadsafe(ask)
                queued.wait(5)

        await gathered(stream_chunks(TestCard(), TIMELINE, num_frames=24, worker=worker, on_step=note))
        await asyncio.gather(*asked)
        await worker.aclose()
        return order

    order = asyncio.run(main())
    assert order[order.index((1, 0)) + 1 :] == ["urgent", (1, 1), (1, 2), (1, 3)]


@pytest.mark.parametrize("leave", ["close", "cancel"])
def test_leaving_stops_the_running_chunk_and_leaves_no_thread_and_no_task(leave: str) -> None:
    reached, before = list[tuple[int, int]](), threading.enumerate()

    async def main() -> None:
        started, loop = asyncio.Event(), asyncio.get_running_loop()

        def note(index: int, k: int, n: int) -> None:
            reached.append((index, k))
            if (index, k) == (2, 1):
                loop.call_soon_threadsafe(started.set)

        slow = TestCard(64, 48, steps=300, seconds_per_step=0.0005)
        stream = prefetch(stream_chunks(slow, TIMELINE, num_frames=None, on_step=note), 2)
        reader = asyncio.create_task(read_on(stream, started if leave == "close" else asyncio.Event()))
        await started.wait()
        if leave == "cancel":
            reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert max(reached) < (2, 250), "the chunk ran on to its end"
    assert threading.enumerate() == before


async def read_on(stream: AsyncGenerator[Chunk, None], until: asyncio.Event) -> None:
    async with aclosing(stream):
        await anext(stream)
        await until.wait()


def test_errors_of_the_generator_arrive() -> None:
    class Broken(TestCard):
        def generate(self, direction: Direction, memory: Memory, on_step: OnStep) -> tuple[Frames, Memory]:
            raise ValueError("out of memory")

    class Liar(TestCard):
        def generate(self, direction: Direction, memory: Memory, on_step: OnStep) -> tuple[Frames, Memory]:
            frames, memory = super().generate(direction, memory, on_step)
            return frames[:-1], memory

    with pytest.raises(ValueError, match="out of memory"):
        asyncio.run(gathered(stream_chunks(Broken(), TIMELINE, num_frames=24)))
    with pytest.raises(St2vError, match="broke its promise at chunk 1"):
        asyncio.run(gathered(stream_chunks(Liar(), TIMELINE, num_frames=24)))


def test_films_on_one_worker_take_turns() -> None:
    async def main() -> list[str]:
        worker, order = ThreadWorker(), list[str]()

        def noting(name: str) -> Callable[[int, int, int], None]:
            return lambda index, k, n: order.append(f"{name}{index}") if k == 0 else None

        streams = [stream_chunks(TestCard(), TIMELINE, num_frames=32, worker=worker, on_step=noting(name)) for name in "ab"]
        await asyncio.gather(*(gathered(stream) for stream in streams))
        await worker.aclose()
        return order

    assert asyncio.run(main()) == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_a_signal_handler_can_stop_whatever_it_has_interrupted() -> None:
    async def main() -> None:
        stop = StopSignal()
        waits = asyncio.create_task(stop.wait())
        await asyncio.sleep(0)
        with stop._lock:  # as in wait() and in stop() themselves
            stop.stop()
        await asyncio.wait_for(waits, 2)
        await asyncio.wait_for(stop.wait(), 2)

    asyncio.run(main())
