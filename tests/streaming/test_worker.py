from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from st2v_stream.errors import NotReady
from st2v_stream.streaming.worker import ThreadWorker
from st2v_stream.types import Worker


async def occupied(worker: Worker) -> tuple[threading.Event, asyncio.Task[bool]]:
    """The worker is inside a call that ends when the event is set."""
    inside, leave = threading.Event(), threading.Event()

    def hold() -> bool:
        inside.set()
        return leave.wait(5)

    task = asyncio.create_task(worker.run(hold))
    await asyncio.to_thread(inside.wait, 5)
    return leave, task


def noting(order: list[str], name: str) -> Callable[[], None]:
    return lambda: order.append(name)


def test_calls_run_on_one_named_thread_and_results_and_errors_come_back() -> None:
    async def main() -> None:
        worker = ThreadWorker("st2v-test")
        names = {await worker.run(lambda: threading.current_thread().name) for _ in range(3)}
        assert names == {"st2v-test"}
        assert await worker.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await worker.run(divmod, 7, 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await worker.run(next, iter(()))
        await worker.aclose()

    asyncio.run(main())
    assert "st2v-test" not in {thread.name for thread in threading.enumerate()}


def test_urgent_first_and_in_order_of_arrival_within_a_priority() -> None:
    async def main() -> list[str]:
        worker, order = ThreadWorker(), list[str]()
        leave, held = await occupied(worker)
        waiting = [("later", 5), ("a", 1), ("b", 1), ("now", 0), ("c", 1)]
        tasks = [asyncio.create_task(worker.run(noting(order, name), priority=priority)) for name, priority in waiting]
        await asyncio.sleep(0)
        leave.set()
        await asyncio.gather(held, *tasks)
        await worker.aclose()
        return order

    assert asyncio.run(main()) == ["now", "a", "b", "c", "later"]


def test_a_running_call_lets_urgent_ones_in_between_its_steps() -> None:
    async def main() -> list[str]:
        worker, order = ThreadWorker(), list[str]()
        inside, go_on = threading.Event(), threading.Event()

        def enhance() -> None:
            order.append("step 0")
            inside.set()
            go_on.wait(5)
            worker.yield_to_urgent(10)
            order.append("step 1")

        slow = asyncio.create_task(worker.run(enhance, priority=10))
        await asyncio.to_thread(inside.wait, 5)
        urgent = asyncio.create_task(worker.run(noting(order, "urgent"), priority=0))
        equal = asyncio.create_task(worker.run(noting(order, "equal"), priority=10))
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(slow, urgent, equal)
        with pytest.raises(RuntimeError, match="yield_to_urgent"):
            worker.yield_to_urgent(10)
        await worker.aclose()
        return order

    assert asyncio.run(main()) == ["step 0", "urgent", "step 1", "equal"]


def test_cancelling_withdraws_what_waits_and_drops_the_result_of_what_runs() -> None:
    async def main() -> list[str]:
        worker, order = ThreadWorker(), list[str]()
        leave, held = await occupied(worker)
        waits = asyncio.create_task(worker.run(noting(order, "never")))
        await asyncio.sleep(0)
        for task in (waits, held):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        leave.set()
        await worker.run(noting(order, "next"))
        await worker.aclose()
        return order

    assert asyncio.run(main()) == ["next"]


def test_closing_finishes_what_runs_and_refuses_what_waits() -> None:
    async def main() -> None:
        worker, order = ThreadWorker("st2v-closing"), list[str]()
        leave, held = await occupied(worker)
        waits = asyncio.create_task(worker.run(noting(order, "never")))
        await asyncio.sleep(0)
        closing = [asyncio.create_task(worker.aclose()) for _ in range(2)]
        with pytest.raises(NotReady, match="closed"):
            await waits
        assert not held.done()
        leave.set()
        await asyncio.gather(*closing)
        assert await held is True
        assert order == []
        with pytest.raises(NotReady, match="closed"):
            await worker.run(noting(order, "never"))
        await worker.aclose()

    asyncio.run(main())
    assert "st2v-closing" not in {thread.name for thread in threading.enumerate()}


def test_closing_a_worker_that_never_ran() -> None:
    asyncio.run(ThreadWorker().aclose())


def test_a_result_for_a_loop_that_is_gone_is_dropped() -> None:
    worker = ThreadWorker("st2v-orphan")

    async def ask_and_leave() -> threading.Event:
        leave, task = await occupied(worker)
        task.cancel()
        return leave

    leave = asyncio.run(ask_and_leave())
    leave.set()
    asyncio.run(worker.aclose())
