"""Run a stream ahead of whoever reads it, but not far."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def prefetch(stream: AsyncGenerator[T, None], depth: int) -> AsyncGenerator[T, None]:
    """The items of `stream`, made up to `depth` ahead of the one asked for (0 = made when asked for).

    Closes `stream`. What it raises arrives after the items before it.
    """
    permits = asyncio.Semaphore(depth)
    made: asyncio.Queue[tuple[T] | None] = asyncio.Queue()  # its length is bounded by the permits
    pump = asyncio.create_task(_pump(stream, permits, made), name="st2v-prefetch")
    try:
        while True:
            permits.release()
            item = await made.get()
            if item is None:
                await pump  # raises what the stream raised
                return
            yield item[0]
    finally:
        pump.cancel()
        await asyncio.wait([pump])
        if not pump.cancelled():
            pump.exception()  # looked at, whether or not anybody asked for more


async def _pump(stream: AsyncGenerator[T, None], permits: asyncio.Semaphore, made: asyncio.Queue[tuple[T] | None]) -> None:
    try:
        async with aclosing(stream):
            await permits.acquire()
            async for item in stream:
                made.put_nowait((item,))
                await permits.acquire()
    finally:
        made.put_nowait(None)
