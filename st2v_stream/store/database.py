"""One read-write SQLite connection on one thread, with an async face.

SQLite 3.7.0 to 3.51.2 can lose committed pages when two connections checkpoint and commit at once
(https://sqlite.org/wal.html#walresetbug), so there is exactly one connection and everything happens on its thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from st2v_stream.store.migrations import migrate
from st2v_stream.store.trouble import store_errors

T = TypeVar("T")

_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 5000")


class Database:
    """`await database.run(fn, *args)` calls fn(connection, *args) on the one thread, one call after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="st2v-store")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Connect and migrate. Raises `StoreError`; then no thread is left."""
        try:
            await self._on_thread(self._connect)
        except BaseException:
            await self.close()
            raise

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        """fn(connection, *args) on the thread. Raises `StoreError` for what SQLite or a file says, and what fn raises."""
        return await self._on_thread(self._call, fn, *args)

    async def close(self) -> None:
        """Finish what waits, close the connection, end the thread."""
        await self._on_thread(self._disconnect)
        self._thread.shutdown()

    async def _on_thread(self, fn: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, fn, *args)

    def _connect(self) -> None:
        with store_errors(self._path):
            self._connection = connect(self._path)
            migrate(self._connection)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _call(self, fn: Callable[..., T], *args: object) -> T:
        assert self._connection is not None, "run() after open()"
        with store_errors(self._path.parent):
            return fn(self._connection, *args)


def connect(path: Path) -> sqlite3.Connection:
    """A connection without implicit transactions, rows by name."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has already rolled back
            connection.execute("ROLLBACK")
        raise
