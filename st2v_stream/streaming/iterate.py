"""A stream for programs without an event loop: `for chunk in iterate(stream_chunks(...))`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import TypeVar

from st2v_stream.errors import InvalidRequest

T = TypeVar("T")


def iterate(stream: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """The items of `stream`, each made when it is asked for, on an event loop of its own.

    Leaving the `for` closes the stream, as its end does. Ctrl-C arrives as `KeyboardInterrupt`. Raises `InvalidRequest` where
    a loop runs already (a notebook, a server): there it is `async for chunk in stream`.
    """
    _require_no_loop()
    with asyncio.Runner() as runner:
        steps: list[asyncio.Task[T]] = []
        try:
            while True:
                try:
                    item = runner.run(_next(stream, steps))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            runner.run(_close(stream, steps))


def _require_no_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InvalidRequest("an event loop runs here already", expected="`async for` over the stream", received="`iterate`")


async def _next(stream: AsyncGenerator[T, None], steps: list[asyncio.Task[T]]) -> T:
    task = asyncio.current_task()
    assert task is not None
    steps[:] = [task]
    return await anext(stream)


async def _close(stream: AsyncGenerator[T, None], steps: list[asyncio.Task[T]]) -> None:
    """A second Ctrl-C leaves the step that the first one cancelled where it is: it ends before the stream is closed."""
    for step in steps:
        if not step.cancelling():
            step.cancel()
    await asyncio.gather(*steps, return_exceptions=True)
    await stream.aclose()
