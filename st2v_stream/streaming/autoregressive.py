"""The fold: each chunk is made from the memory of the one before.

`begin` makes the first chunk and its memory, `generate` every further one from the memory of the last.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from st2v_stream.chunk import Chunk, Frames, Memory, StreamSpec
from st2v_stream.direction import Direction, Timeline
from st2v_stream.errors import St2vError, Stopped
from st2v_stream.streaming.worker import ThreadWorker
from st2v_stream.types import Generator, OnStep, Reference, Worker

T = TypeVar("T")

OnChunkStep = Callable[[int, int, int], None]
"""on_step(index, k, n): `OnStep` with the chunk's index; called on the worker's thread."""


class StopSignal:
    """Asks a stream, from any thread or signal handler, to end within one denoising step."""

    def __init__(self) -> None:
        self._asked = False
        self._lock = threading.RLock()  # a signal handler runs on the thread it interrupts, which may hold the lock
        self._waiters: set[asyncio.Future[None]] = set()

    def stop(self) -> None:
        """Ask."""
        with self._lock:
            self._asked = True
            waiters = tuple(self._waiters)
        for waiter in waiters:
            waiter.get_loop().call_soon_threadsafe(_resolve, waiter)

    def reset(self) -> None:
        """Take it back, so that the next stream can run."""
        self._asked = False

    @property
    def is_set(self) -> bool:
        """Whether it was asked."""
        return self._asked

    def check(self) -> None:
        """Raise `Stopped` if it was asked."""
        if self._asked:
            raise Stopped("asked to stop")

    async def wait(self) -> None:
        """Until it is asked."""
        waiter = asyncio.get_running_loop().create_future()
        try:
            with self._lock:
                self._waiters.add(waiter)  # before looking: a handler that runs in between finds it
                if self._asked:
                    return
            await waiter
        finally:
            with self._lock:
                self._waiters.discard(waiter)

    async def interrupt(self, call: Coroutine[Any, Any, T]) -> T:
        """Await the call; if it is asked to stop before the call is done, cancel the call and raise `Stopped`."""
        work, asked = asyncio.create_task(call), asyncio.create_task(self.wait())
        try:
            await asyncio.wait([work, asked], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise Stopped("asked to stop")
        finally:
            work.cancel()
            asked.cancel()
            await asyncio.gather(work, asked, return_exceptions=True)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def stream_chunks(
    generator: Generator,
    timeline: Timeline,
    *,
    num_frames: int | None,
    worker: Worker | None = None,
    reference: Reference | None = None,
    memory: Memory | None = None,
    on_step: OnChunkStep | None = None,
    stop: StopSignal | None = None,
    priority: int = 0,
) -> AsyncGenerator[Chunk, None]:
    """Make a film chunk by chunk, each when it is asked for.

    num_frames: frames to make from here, rounded up to whole chunks; None = endless (or to the generator's max_frames).
    memory: of the last chunk that exists; None begins the film, with `reference` if one is given. worker: where the
    generator runs; None = a thread of its own, ended with the stream. stop: ends the stream at the next step; the chunks so
    far stand. Closing or cancelling the stream makes a running chunk stop at its next step as well.
    """
    left, stop = StopSignal(), stop or StopSignal()
    async with AsyncExitStack() as stack:
        if worker is None:
            worker = ThreadWorker("st2v-stream")
            stack.push_async_callback(worker.aclose)
        stack.callback(left.stop)
        for index in chunk_indices(generator.spec, num_frames, memory):
            step = between_steps(index, worker, priority, (left, stop), on_step)
            args = generator, index, timeline.at(index), memory, reference, step
            try:
                chunk = await stop.interrupt(worker.run(_make_chunk, *args, priority=priority))
            except Stopped:
                return
            yield chunk
            memory = chunk.memory


def chunk_indices(spec: StreamSpec, num_frames: int | None, memory: Memory | None) -> Iterator[int]:
    """Indices of the chunks that hold `num_frames` frames from here on, as far as `spec.max_frames` allows."""
    first, start = (0, 0) if memory is None else (memory.next_index, memory.next_start)
    wanted = None if num_frames is None else start + num_frames
    for index in itertools.count(first):
        begins, ends = spec.start_of(index), spec.start_of(index + 1)
        if wanted is not None and begins >= wanted:
            return
        if spec.max_frames is not None and ends > spec.max_frames:
            return
        yield index


def _make_chunk(
    generator: Generator, index: int, direction: Direction, memory: Memory | None, reference: Reference | None, step: OnStep
) -> Chunk:
    began = time.perf_counter()
    if memory is None:
        frames, after = generator.begin(direction, reference, step)
    else:
        frames, after = generator.generate(direction, memory, step)
    _check(generator.spec, index, frames, after)
    return Chunk(index, generator.spec.start_of(index), frames, direction, after, time.perf_counter() - began)


def _check(spec: StreamSpec, index: int, frames: Frames, memory: Memory) -> None:
    expected = (spec.frames_of(index), spec.height, spec.width, 3), "uint8", index + 1, spec.start_of(index + 1)
    received = frames.shape, str(frames.dtype), memory.next_index, memory.next_start
    if expected != received:
        names = "(shape, dtype, next_index, next_start)"
        raise St2vError(f"the generator broke its promise at chunk {index}, {names}", expected=expected, received=received)


def between_steps(
    index: int, worker: Worker, priority: int, signals: tuple[StopSignal, ...], on_step: OnChunkStep | None
) -> OnStep:
    """What happens between two denoising steps, on the worker's thread."""

    def step(k: int, n: int) -> None:
        for signal in signals:
            signal.check()
        worker.yield_to_urgent(priority)
        if on_step is not None:
            on_step(index, k, n)

    return step
