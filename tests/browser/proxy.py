"""A TCP proxy in front of a server, so that a test can take the network away: stalled, or cut."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Proxy:
    """Listens on a port of its own; `pause` lets nothing through, `cut` ends every connection and takes no new one."""

    def __init__(self) -> None:
        self.port = 0
        self.target = 0
        """Port of the server behind it."""
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def pause(self) -> None:
        """Everything stays connected, no byte arrives."""
        self._do(self._flows.clear)

    def resume(self) -> None:
        self._do(self._flows.set)

    def cut(self) -> None:
        """Every connection is reset, new ones are refused."""

        def act() -> None:
            assert self._server is not None
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()

        self._do(act)

    def restore(self) -> None:
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    # ------------------------------------------------------------ inside

    def _do(self, act: Callable[[], Any]) -> None:
        async def in_loop() -> None:
            act()

        asyncio.run_coroutine_threadsafe(in_loop(), self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, family=socket.AF_INET)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._forward(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        self._writers.add(sink)
        with suppress(OSError):
            while part := await source.read(65536):
                await self._flows.wait()
                sink.write(part)
                await sink.drain()
        sink.close()
        self._writers.discard(sink)

    def run(self) -> None:
        """Serve on this thread until `stop`."""
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    def stop(self) -> None:
        self._do(lambda: self._server and self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)


@contextmanager
def proxied() -> Iterator[Proxy]:
    """A proxy that listens; its `target` is to be set once there is a server."""
    proxy = Proxy()
    thread = threading.Thread(target=proxy.run)
    thread.start()
    proxy.restore()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join(20)
