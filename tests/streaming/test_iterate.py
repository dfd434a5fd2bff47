"""A stream in a plain `for`."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator

import pytest

from st2v_stream import Timeline, iterate, stream_chunks
from st2v_stream.errors import InvalidRequest
from st2v_stream.generators.testcard import TestCard


def test_a_film_is_made_in_a_plain_loop() -> None:
    card = TestCard(64, 48)
    film = stream_chunks(card, Timeline(card.card.direction("a numbered film")), num_frames=32)
    assert [(chunk.index, chunk.start, len(chunk.frames)) for chunk in iterate(film)] == [(0, 0, 16), (1, 16, 8), (2, 24, 8)]


class Counting:
    def __init__(self) -> None:
        self.is_closed = False

    async def numbers(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(3):
                await asyncio.sleep(0)
                yield number
            raise ZeroDivisionError
        finally:
            await asyncio.sleep(0)
            self.is_closed = True


def test_leaving_the_loop_closes_the_stream() -> None:
    counting = Counting()
    pieces = iterate(counting.numbers())
    assert next(pieces) == 0
    pieces.close()
    assert counting.is_closed


def test_what_the_stream_raises_arrives_after_what_came_before() -> None:
    counting, seen = Counting(), []
    with pytest.raises(ZeroDivisionError):
        seen.extend(iterate(counting.numbers()))
    pieces = iterate(Counting().numbers())
    assert [next(pieces), next(pieces), next(pieces)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(pieces)
    assert counting.is_closed


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="Ctrl-C goes to the main thread")
def test_pressing_ctrl_c_twice_closes_the_stream_as_well() -> None:
    said = []

    async def slow_to_end() -> AsyncGenerator[int, None]:
        try:
            yield 0
            asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
            await asyncio.sleep(60)
        finally:
            asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
            await asyncio.sleep(0.05)
            said.append("closed")

    with pytest.raises(KeyboardInterrupt):
        list(iterate(slow_to_end()))
    assert said == ["closed"]


def test_where_a_loop_runs_it_says_what_to_write_instead() -> None:
    async def in_a_loop() -> None:
        next(iterate(Counting().numbers()))

    with pytest.raises(InvalidRequest, match="async for"):
        asyncio.run(in_a_loop())
