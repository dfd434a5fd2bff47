"""The data directory: its folders, its version, and the lock that lets one process in."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from st2v_stream.errors import StoreError
from st2v_stream.store.blobs import sync_folder
from st2v_stream.store.trouble import store_errors

VERSION = "1"


class DataDirectory:
    """DATA/{blobs, tmp, videos, cache}, held by an flock on DATA/LOCK as long as it is open."""

    def __init__(self, root: Path, lock: int) -> None:
        self.root = root
        self._lock = lock

    @property
    def database(self) -> Path:
        """The SQLite file that is the truth."""
        return self.root / "st2v.db"

    @property
    def blobs(self) -> Path:
        """Immutable bytes by their sha256."""
        return self.root / "blobs"

    @property
    def tmp(self) -> Path:
        """Files being written."""
        return self.root / "tmp"

    @property
    def videos(self) -> Path:
        """A copy of the rows of each video, one JSON line each."""
        return self.root / "videos"

    @staticmethod
    def open(root: Path) -> DataDirectory:
        """Make what is missing, take the lock. Raises `StoreError`; then nothing stays locked."""
        with store_errors(root):
            for folder in (root, root / "blobs", root / "tmp", root / "videos", root / "cache"):
                folder.mkdir(parents=True, exist_ok=True)
            sync_folder(root)
            lock = os.open(root / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with store_errors(root):
                _take_lock(root, lock)
                _check_version(root)
                for leftover in (*(root / "tmp").iterdir(), *(root / "cache").iterdir()):
                    if leftover.is_symlink() or not leftover.is_dir():  # a folder is not ours
                        leftover.unlink()
        except BaseException:
            os.close(lock)
            raise
        return DataDirectory(root, lock)

    def require_database(self) -> None:
        """Raise `StoreError` where films are copied and the database is gone: an empty one would be taken for the truth."""
        films = sum(1 for _ in self.videos.glob("*.jsonl"))
        if films and not self.database.exists():
            expected = "the database, or st2v fsck --rebuild first"
            raise StoreError(f"{self.database} is missing", expected=expected, received=f"copies of {films} films")

    @staticmethod
    def lock(root: Path) -> DataDirectory:
        """Take the lock of one that is there, and change nothing. Raises `StoreError`."""
        with store_errors(root):
            lock = os.open(root / "LOCK", os.O_RDWR | os.O_CLOEXEC)
        try:
            with store_errors(root):
                _take_lock(root, lock)
                _check_version(root)
        except BaseException:
            os.close(lock)
            raise
        return DataDirectory(root, lock)

    def close(self) -> None:
        """Let another process in."""
        os.close(self._lock)


def _take_lock(root: Path, lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        raise StoreError(
            f"{root} is in use", expected="no other st2v on this data directory", received=f"process {holder}"
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def _check_version(root: Path) -> None:
    path = root / "VERSION"
    found = path.read_text().strip() if path.exists() else ""
    if not found:
        path.write_text(VERSION + "\n")
    elif found != VERSION:
        raise StoreError(f"{path} names another layout", expected=VERSION, received=found)
