"""What the operating system and SQLite say, in words a user can act on."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from st2v_stream.errors import StoreDamaged, StoreError, StoreFull

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn the errors of files and of SQLite into `StoreError` or `StoreFull`, naming `path`."""
    try:
        yield
    except OSError as error:
        raise _of_system(path, error) from error
    except sqlite3.Error as error:
        raise _of_sqlite(path, error) from error


def damaged(path: Path, expected: object, received: object) -> StoreDamaged:
    """Something that is there is not what was written."""
    return StoreDamaged(f"{path} is damaged", expected=expected, received=received)


def _of_system(path: Path, error: OSError) -> StoreError:
    received = f"{error.strerror} ({errno.errorcode.get(error.errno or 0, error.errno)})"
    if error.errno in _NO_SPACE:
        return StoreFull(f"no space left in {path}", expected="free space on its disk", received=received)
    if error.errno in _NOT_WRITABLE:
        return StoreError(f"{path} cannot be written", expected="a writable directory", received=received)
    return StoreError(f"{path} cannot be used", expected="a working disk", received=received)


def _of_sqlite(path: Path, error: sqlite3.Error) -> StoreError:
    name = getattr(error, "sqlite_errorname", "")  # absent on errors that Python itself raises
    received = f"{error} ({name})"
    if name == "SQLITE_FULL":
        return StoreFull(f"no space left in {path}", expected="free space on its disk", received=received)
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return StoreError(f"{path} cannot be written", expected="a writable directory", received=received)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreDamaged(f"{path} is damaged", expected="the SQLite file st2v wrote", received=received)
    return StoreError(f"{path} cannot be used", expected="a working SQLite file", received=received)
