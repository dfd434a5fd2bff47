"""The device's thread: blocking work, one call at a time, the most urgent first.

torch, numpy and PyAV release the GIL, so a thread leaves the event loop as free as a process would (measured: worst
lateness of a 5 ms ticker 4 to 9 ms beside a UNet, 609 ms with the UNet on the loop).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from st2v_stream.errors import NotReady

T = TypeVar("T")

_LAST = sys.maxsize
"""Less urgent than any call, so that nothing yields to it."""


@dataclass(order=True, slots=True)
class _Job:
    """A call that waits; ordered by priority, then by arrival."""

    priority: int
    number: int
    call: Callable[[], Any] = field(compare=False)
    loop: asyncio.AbstractEventLoop = field(compare=False)
    future: asyncio.Future[Any] = field(compare=False)


class ThreadWorker:
    """Implements `Worker` with one dedicated, named thread, started by the first call.

    The thread is a daemon: a program that fails before `aclose` ends instead of hanging.
    """

    def __init__(self, name: str = "st2v-worker") -> None:
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._waiting: list[_Job] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._started = self._closing = self._ended = False

    async def run(self, fn: Callable[..., T], *args: Any, priority: int = 0) -> T:
        """Await `fn(*args)` run on the thread. Raises what fn raises, `NotReady` once the worker is closing.

        Cancelled while it waits, the call is withdrawn; cancelled while it runs, it runs on and its result is dropped.
        """
        job = self._add(partial(fn, *args), priority)
        try:
            result: T = await job.future
            return result
        except asyncio.CancelledError:
            self._withdraw(job)
            raise

    def yield_to_urgent(self, priority: int) -> None:
        """On the worker thread, between steps: first run whatever waits with a lower number."""
        here = threading.current_thread()
        if here is not self._thread:
            raise RuntimeError(f"yield_to_urgent: expected on thread {self._thread.name}, received on {here.name}")
        while (job := self._take_urgent(priority)) is not None:
            _execute(job)

    async def aclose(self) -> None:
        """Finish what runs, refuse what waits, end the thread. May be called again."""
        with self._changed:
            first, self._closing = not self._closing, True
            refused, self._waiting = (self._waiting, []) if first else ([], self._waiting)
        for job in refused:
            _deliver(job, None, _closed())
        if not self._started:
            return
        last = self._add_last()
        if last is not None:
            await last.future
        self._thread.join()  # its last act is done: this takes microseconds

    def _add(self, call: Callable[[], Any], priority: int) -> _Job:
        loop = asyncio.get_running_loop()
        with self._changed:
            if self._closing:
                raise _closed()
            job = _Job(priority, next(self._numbers), call, loop, loop.create_future())
            self._put(job)
            if not self._started:
                self._started = True
                self._thread.start()
        return job

    def _add_last(self) -> _Job | None:
        loop = asyncio.get_running_loop()
        with self._changed:
            if self._ended:
                return None
            job = _Job(_LAST, next(self._numbers), lambda: None, loop, loop.create_future())
            self._put(job)
        return job

    def _put(self, job: _Job) -> None:
        heapq.heappush(self._waiting, job)
        self._changed.notify()

    def _withdraw(self, job: _Job) -> None:
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                heapq.heapify(self._waiting)

    def _serve(self) -> None:
        while (job := self._take()) is not None:
            _execute(job)
            del job  # let go of the call's arguments (frames, memories) while waiting for the next

    def _take(self) -> _Job | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if self._waiting:
                return heapq.heappop(self._waiting)
            self._ended = True
            return None

    def _take_urgent(self, priority: int) -> _Job | None:
        with self._changed:
            if self._waiting and self._waiting[0].priority < priority:
                return heapq.heappop(self._waiting)
            return None


def _execute(job: _Job) -> None:
    """Run the call and send what came of it to the loop that waits. Everything it raises belongs to the caller."""
    try:
        result = job.call()
    except StopIteration as error:  # a future cannot carry it
        _deliver(job, None, RuntimeError(f"{error!r} left the call"))
    except BaseException as error:
        _deliver(job, None, error)
    else:
        _deliver(job, result, None)


def _deliver(job: _Job, result: Any, error: BaseException | None) -> None:
    def settle() -> None:
        if job.future.done():  # cancelled meanwhile: the result is dropped
            return
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)

    with contextlib.suppress(RuntimeError):  # the loop that asked is closed: nobody waits
        job.loop.call_soon_threadsafe(settle)


def _closed() -> NotReady:
    return NotReady("the worker is closed", expected="a call before aclose", received="a call after it")
