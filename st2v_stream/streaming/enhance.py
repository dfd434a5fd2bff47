"""The second stage: chunks of the preview in, the same chunks made sharp out, some frames later.

Composing is calling: `enhance_chunks(enhancer, stream_chunks(...))`. What was begun and is not finished rides on every chunk
that comes out, as its memory: with it the stage goes on, after a stop, a crash or on another machine, without a seam.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TypeAlias

from st2v_stream.chunk import Chunk, Memory
from st2v_stream.errors import Stopped
from st2v_stream.streaming.autoregressive import OnChunkStep, StopSignal, between_steps
from st2v_stream.streaming.worker import ThreadWorker
from st2v_stream.types import EnhancedChunk, Enhancer, Worker

LESS_URGENT = 1
"""Priority of enhancement on a worker that also makes the preview: between two steps the preview goes first."""

Made: TypeAlias = tuple[Sequence[EnhancedChunk], Memory]
"""What one call of an enhancer gives."""


async def enhance_chunks(
    enhancer: Enhancer,
    chunks: AsyncIterator[Chunk],
    *,
    carry: Memory | None = None,
    worker: Worker | None = None,
    priority: int = LESS_URGENT,
    stop: StopSignal | None = None,
    on_step: OnChunkStep | None = None,
) -> AsyncGenerator[EnhancedChunk, None]:
    """Preview chunks in order -> the same chunks sharp, in order, on the same grid; those at the end are provisional.

    carry: of the last chunk that came out before; chunks before `carry.next_index` are passed over. None begins, with any
    chunk. The last chunks wait for what follows them: when `chunks` ends they are made without, and when the film goes on
    (another call, with the last carry) again, as the next revision. worker: where the enhancer runs; None = a thread of its
    own. stop: ends the stream at the next step, without the provisional end; closing it does too. Whoever made `chunks`
    closes it. Raises what the enhancer and `chunks` raise.
    """
    left, stop = StopSignal(), stop or StopSignal()
    async with AsyncExitStack() as stack:
        if worker is None:
            worker = ThreadWorker("st2v-enhance")
            stack.push_async_callback(worker.aclose)
        stack.callback(left.stop)
        index = carry.next_index if carry is not None else 0

        async def run(fn: Callable[..., Made], *args: object) -> Made:
            step = between_steps(index, worker, priority, (left, stop), on_step)
            return await stop.interrupt(worker.run(timed, fn, *args, step, priority=priority))

        try:
            async for chunk in chunks:
                if carry is not None and chunk.index < carry.next_index:
                    continue
                index = chunk.index
                sharp, carry = await run(enhancer.enhance, chunk, carry)
                for each in sharp:
                    yield each
            if carry is not None:
                sharp, _ = await run(enhancer.finish, carry)
                for each in sharp:
                    yield each
        except Stopped:
            return


def timed(fn: Callable[..., Made], *args: object) -> Made:
    """The call's seconds, in equal parts on the chunks that came of it."""
    began = time.perf_counter()
    sharp, carry = fn(*args)
    took = time.perf_counter() - began
    return [replace(each, chunk=replace(each.chunk, making_s=took / len(sharp))) for each in sharp], carry
