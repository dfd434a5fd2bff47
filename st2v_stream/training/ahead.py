"""Work done ahead of time in other processes, handed out in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int, per_worker: int = 2) -> Iterator[Result]:
    """`function` over `items`, in order. With workers, at most `workers * per_worker` results wait; without, it is `map`.

    `function` and the items must be picklable. Closing the iterator ends the processes.
    """
    if not workers:
        yield from map(function, items)
        return
    remaining = iter(items)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        first = itertools.islice(remaining, workers * per_worker)
        waiting = deque(pool.submit(function, item) for item in first)
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in itertools.islice(remaining, 1))
                yield result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
