"""Immutable bytes by their sha256: DATA/blobs/ab/<sha256>. A file with that name is whole, or the disk is broken."""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from st2v_stream.errors import NotFound
from st2v_stream.store.trouble import damaged, store_errors

BlobKind = Literal["segment", "init", "memory", "input"]

CACHE_BYTES = 32 * 2**20
"""The newest segments, read once for all viewers at the live edge."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes on their way to the disk, and their name."""

    kind: BlobKind
    data: bytes = field(repr=False)
    sha256: str

    @staticmethod
    def of(kind: BlobKind, data: bytes) -> Blob:
        """Name the bytes."""
        return Blob(kind, data, hashlib.sha256(data).hexdigest())


class BlobFiles:
    """The files. Writing is done on the store's thread; reading may be done on any."""

    def __init__(self, root: Path, tmp: Path) -> None:
        self._root = root
        self._tmp = tmp
        self._cache = _Cache(CACHE_BYTES)
        self._durable_folders = set[Path]()

    def path(self, sha256: str) -> Path:
        """Where these bytes lie. Raises `NotFound` for what is no sha256."""
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise NotFound("no such blob", expected="64 hexadecimal digits", received=sha256)
        return self._root / sha256[:2] / sha256

    def write(self, blob: Blob) -> None:
        """Durable when it returns: temporary file, fsync, rename, fsync of the directory. Raises OSError."""
        target, unfinished = self.path(blob.sha256), self._tmp / uuid.uuid4().hex
        self._make_folder(target.parent)
        try:
            _write_synced(unfinished, blob.data)
            os.replace(unfinished, target)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)

    def at_hand(self, sha256: str) -> bytes | None:
        """The bytes if they were read lately, without touching the disk."""
        return self._cache.get(sha256)

    def read(self, sha256: str) -> bytes:
        """The bytes, checked against their name. Raises `NotFound`, `StoreError` when they are damaged."""
        cached = self._cache.get(sha256)
        if cached is not None:
            return cached
        path = self.path(sha256)
        with store_errors(path):
            data = _read_if_there(path)
        if data is None:
            raise NotFound("no such blob", expected="the hash of a segment or init segment", received=sha256)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise damaged(path, f"bytes with sha256 {sha256}", found)
        self._cache.put(sha256, data)
        return data

    def _make_folder(self, folder: Path) -> None:
        """Durable too: one that is there may have been made by a process that was killed before it could see to that."""
        if folder not in self._durable_folders:
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
            self._durable_folders.add(folder)

    def is_there(self, sha256: str) -> bool:
        """Whether there is a file of that name; it is not read."""
        return self.path(sha256).exists()

    def is_whole(self, sha256: str) -> bool:
        """Whether the file is there and its bytes have that hash. Raises OSError where it cannot be read just now."""
        data = _read_if_there(self.path(sha256))
        return data is not None and hashlib.sha256(data).hexdigest() == sha256

    def names(self) -> set[str]:
        """Names of all files, whether a row names them or not."""
        return {path.name for path in self._root.glob("??/*")}

    def remove(self, sha256: str) -> None:
        """Forget the bytes; gone already is fine."""
        self._cache.drop(sha256)
        self.path(sha256).unlink(missing_ok=True)


class _Cache:
    """The most recently read blobs, up to a number of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._blobs: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, sha256: str) -> bytes | None:
        with self._lock:
            if sha256 in self._blobs:
                self._blobs.move_to_end(sha256)
            return self._blobs.get(sha256)

    def put(self, sha256: str, data: bytes) -> None:
        with self._lock:
            if sha256 in self._blobs:
                return
            self._blobs[sha256] = data
            self._held_bytes += len(data)
            while self._held_bytes > self._limit_bytes:
                self._held_bytes -= len(self._blobs.popitem(last=False)[1])

    def drop(self, sha256: str) -> None:
        with self._lock:
            self._held_bytes -= len(self._blobs.pop(sha256, b""))


def _read_if_there(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write_synced(path: Path, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(folder: Path) -> None:
    """The names in it are on the disk when this returns. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
