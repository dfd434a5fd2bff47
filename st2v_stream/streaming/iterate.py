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
        try:
            while True:
                try:
                    item = runner.run(_next(stream))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            runner.run(stream.aclose())


def _require_no_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InvalidRequest("an event loop runs here already", expected="`async for` over the stream", received="`iterate`")


async def _next(stream: AsyncGenerator[T, None]) -> T:
    return await anext(stream)
