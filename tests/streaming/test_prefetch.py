from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from st2v_stream.streaming.prefetch import prefetch


class Source:
    """Counts what was asked of it."""

    def __init__(self, length: int, error: Exception | None = None) -> None:
        self.length, self.error, self.made, self.closed = length, error, 0, False

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self.length):
                self.made += 1
                yield number
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


async def let_everything_run() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_items_are_those_of_the_source(depth: int) -> None:
    async def main() -> list[int]:
        async with aclosing(prefetch(Source(7).items(), depth)) as stream:
            return [item async for item in stream]

    assert asyncio.run(main()) == list(range(7))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_it_runs_ahead_by_depth_and_no_further(depth: int) -> None:
    async def main() -> None:
        source = Source(100)
        async with aclosing(prefetch(source.items(), depth)) as stream:
            for taken in range(1, 10):
                await anext(stream)
                await let_everything_run()
                assert source.made == taken + depth
        assert source.closed

    asyncio.run(main())


def test_errors_arrive_after_what_was_made_before_them() -> None:
    async def main() -> list[int]:
        async with aclosing(prefetch(Source(4, ValueError("boom")).items(), 10)) as stream:
            taken = [await anext(stream)]
            await let_everything_run()
            taken += [await anext(stream) for _ in range(3)]
            with pytest.raises(ValueError, match="boom"):
                await anext(stream)
        return taken

    assert asyncio.run(main()) == [0, 1, 2, 3]


def test_leaving_early_closes_the_source_and_leaves_no_task() -> None:
    async def main() -> None:
        for error in (None, ValueError("nobody asked")):
            source = Source(3, error)
            async with aclosing(prefetch(source.items(), 10)) as stream:
                await anext(stream)
                await let_everything_run()
            assert source.closed
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
