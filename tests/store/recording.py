"""Every write to the disk as a list, SQLite's own included; what a power loss could leave of it; and disks that fail.

`os` is patched for what Python writes. SQLite's writes go through a VFS of ours: the default one with three of its file
methods replaced (https://sqlite.org/vfs.html).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import pytest

_VFS_FIELDS = (
    *(("iVersion", ctypes.c_int), ("szOsFile", ctypes.c_int), ("mxPathname", ctypes.c_int)),
    *((name, ctypes.c_void_p) for name in ("pNext", "zName", "pAppData", "xOpen", "xDelete", "xAccess", "xFullPathname")),
    *((name, ctypes.c_void_p) for name in ("xDlOpen", "xDlError", "xDlSym", "xDlClose", "xRandomness", "xSleep")),
    *((name, ctypes.c_void_p) for name in ("xCurrentTime", "xGetLastError", "xCurrentTimeInt64", "xSetSystemCall")),
    *((name, ctypes.c_void_p) for name in ("xGetSystemCall", "xNextSystemCall")),
)
_METHODS = ("xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize", "xLock", "xUnlock", "xCheckReservedLock")
_MORE_METHODS = ("xFileControl", "xSectorSize", "xDeviceCharacteristics", "xShmMap", "xShmLock", "xShmBarrier", "xShmUnmap")


class _Vfs(ctypes.Structure):
    _fields_ = list(_VFS_FIELDS)


class _Methods(ctypes.Structure):
    _fields_ = [
        ("iVersion", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in (*_METHODS, *_MORE_METHODS, "xFetch", "xUnfetch")),
    ]


class _File(ctypes.Structure):
    _fields_ = [("pMethods", ctypes.POINTER(_Methods))]


_XOPEN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_XDELETE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
_XWRITE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
_XTRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
_XSYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)

_STATUS = {errno.ENOSPC: 13, errno.EROFS: 8, errno.EIO: 778}
"""What SQLite's unix VFS makes of a failed write: FULL, READONLY, IOERR_WRITE."""
_IOERR_FSYNC = 1034

Op = tuple[Any, ...]
"""(kind, container, ...): what is un-synced in a container, a file or a folder, can be lost."""


@dataclass
class Recording:
    """What was written, in order. A file is a number (its name can change), a folder is its path."""

    root: Path
    base: dict[str, bytes]
    """Path below root -> content, of what was on the disk before."""
    ops: list[Op] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    """Number of ops when each acknowledgement was given."""
    inodes: dict[str, int] = field(default_factory=dict)
    trouble: int | None = None
    """Every write fails with this errno."""
    sync_trouble: bool = False
    """What SQLite writes arrives, and its syncs fail."""
    trouble_at: int | None = None
    """Only the one fails that many writes from now."""

    def __post_init__(self) -> None:
        self.inodes = {name: number for number, name in enumerate(self.base)}
        self._next = len(self.inodes)

    def name(self, path: object) -> str | None:
        """Its path below root; None for what is not part of what must survive."""
        try:
            name = str(Path(os.fsdecode(path)).relative_to(self.root))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
        return None if name.endswith("-shm") or name.startswith(("videos", "LOCK", "cache")) else name

    def failure(self) -> int | None:
        """The errno of the write that is about to happen."""
        if self.trouble is None or self.trouble_at is None:
            return self.trouble
        self.trouble_at -= 1
        return self.trouble if self.trouble_at == -1 else None

    def fail(self, name: str | None) -> None:
        if name is not None and (number := self.failure()) is not None:
            raise OSError(number, os.strerror(number))

    def create(self, name: str) -> None:
        if name not in self.inodes:
            self.inodes[name] = self._next
            self._next += 1
            self.ops.append(("create", folder_of(name), name, self.inodes[name]))

    def write(self, name: str, offset: int, data: bytes) -> None:
        self.ops.append(("write", self.inodes[name], offset, data))

    def truncate(self, name: str, size: int) -> None:
        self.ops.append(("truncate", self.inodes[name], size))

    def sync(self, name: str) -> None:
        if name in self.inodes:
            self.ops.append(("sync", self.inodes[name]))
        else:
            self.ops.append(("sync", name))

    def rename(self, source: str, target: str) -> None:
        inode = self.inodes[target] = self.inodes.pop(source)
        self.ops.append(("rename", folder_of(target), source, target, inode))

    def unlink(self, name: str) -> None:
        if self.inodes.pop(name, None) is not None:
            self.ops.append(("unlink", folder_of(name), name))

    def mkdir(self, name: str) -> None:
        self.ops.append(("mkdir", folder_of(name), name))


def folder_of(name: str) -> str:
    return str(Path(name).parent)


@contextmanager
def recorded(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recording]:
    """Everything written below root meanwhile. Skips where SQLite cannot be reached."""
    base = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    recording = Recording(root, base)
    with monkeypatch.context() as patched, _sqlite_recorded(recording):
        _record_os(recording, patched)
        yield recording


def _record_os(recording: Recording, patched: pytest.MonkeyPatch) -> None:
    opened, offsets = dict[int, str](), dict[int, int]()
    plain: dict[str, Callable[..., Any]] = {
        name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "mkdir", "unlink")
    }

    def open_(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT:
            recording.fail(recording.name(path))
        file: int = plain["open"](path, flags, *rest, **more)
        opened.pop(file, None)
        if (name := recording.name(path)) is not None:
            opened[file], offsets[file] = name, 0
            if flags & os.O_CREAT:
                recording.create(name)
        return file

    def write(file: int, data: Any) -> int:
        recording.fail(opened.get(file))
        written: int = plain["write"](file, data)
        if file in opened:
            recording.write(opened[file], offsets[file], bytes(data[:written]))
            offsets[file] += written
        return written

    def fsync(file: int) -> None:
        recording.fail(opened.get(file))
        plain["fsync"](file)
        if file in opened:
            recording.sync(opened[file])

    def replace(source: Any, target: Any) -> None:
        recording.fail(recording.name(target))
        plain["replace"](source, target)
        names = recording.name(source), recording.name(target)
        assert names[0] is not None
        assert names[1] is not None
        recording.rename(names[0], names[1])

    def mkdir(path: Any, *rest: Any, **more: Any) -> None:
        recording.fail(recording.name(path))
        plain["mkdir"](path, *rest, **more)
        if (name := recording.name(path)) is not None:
            recording.mkdir(name)

    def unlink(path: Any, *rest: Any, **more: Any) -> None:
        plain["unlink"](path, *rest, **more)
        if (name := recording.name(path)) is not None:
            recording.unlink(name)

    for name, fn in (("write", write), ("fsync", fsync), ("replace", replace), ("mkdir", mkdir), ("unlink", unlink)):
        patched.setattr(os, name, fn)
    patched.setattr(os, "open", open_)


@contextmanager
def _sqlite_recorded(recording: Recording) -> Iterator[None]:
    library = _sqlite_library()
    plain = library.sqlite3_vfs_find(None)
    files, keep = dict[int, str](), list[Any]()
    vfs = _Vfs.from_buffer_copy(plain.contents)

    def opened(self: int, path: int | None, file: int, flags: int, out: int) -> int:
        status = int(_XOPEN(plain.contents.xOpen)(self, path, file, flags, out))  # the pointer itself: SQLite keeps it
        name = None if path is None else recording.name(ctypes.string_at(path))
        if status == 0 and name is not None:
            recording.create(name)
            files[file] = name
            header = ctypes.cast(file, ctypes.POINTER(_File)).contents
            header.pMethods = ctypes.pointer(_recording_methods(recording, files, header.pMethods.contents, keep))
        return status

    def deleted(self: int, path: bytes, sync: int) -> int:
        status = int(_XDELETE(plain.contents.xDelete)(self, path, sync))
        if status == 0 and (name := recording.name(path)) is not None:
            recording.unlink(name)
            if sync:
                recording.sync(folder_of(name))
        return status

    callbacks = _XOPEN(opened), _XDELETE(deleted)
    vfs.xOpen, vfs.xDelete = (ctypes.cast(callback, ctypes.c_void_p).value for callback in callbacks)
    vfs.zName = ctypes.cast(ctypes.c_char_p(b"recording"), ctypes.c_void_p).value
    vfs.pNext = None
    library.sqlite3_vfs_register(ctypes.byref(vfs), 1)
    try:
        yield
    finally:
        library.sqlite3_vfs_unregister(ctypes.byref(vfs))
        library.sqlite3_vfs_register(plain, 1)


def _sqlite_library() -> Any:
    """The SQLite that this Python uses, not a second copy of it."""
    name = ctypes.util.find_library("sqlite3")
    maps = Path("/proc/self/maps").read_text() if Path("/proc/self/maps").exists() else ""
    if name is None or name.rpartition(".so")[0] not in maps:
        pytest.skip("this Python has SQLite inside, out of reach")
    library = ctypes.CDLL(name)
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    return library


def _recording_methods(recording: Recording, files: dict[int, str], plain: _Methods, keep: list[Any]) -> _Methods:
    original = _Methods.from_buffer_copy(plain)
    methods = _Methods.from_buffer_copy(plain)
    unsynced_name = set[str]()

    def write(file: int, data: int, size: int, offset: int) -> int:
        if (number := recording.failure()) is not None:
            return _STATUS[number]
        status = int(_XWRITE(original.xWrite)(file, data, size, offset))
        recording.write(files[file], offset, ctypes.string_at(data, size))
        return status

    def truncate(file: int, size: int) -> int:
        status = int(_XTRUNCATE(original.xTruncate)(file, size))
        recording.truncate(files[file], size)
        return status

    def sync(file: int, flags: int) -> int:
        if recording.sync_trouble or recording.failure() is not None:
            return _IOERR_FSYNC
        status = int(_XSYNC(original.xSync)(file, flags))
        recording.sync(files[file])
        if files[file].endswith("-wal") and files[file] not in unsynced_name:  # SQLite syncs the folder of a new WAL as well
            unsynced_name.add(files[file])
            recording.sync(folder_of(files[file]))
        return status

    callbacks = _XWRITE(write), _XTRUNCATE(truncate), _XSYNC(sync)
    methods.xWrite, methods.xTruncate, methods.xSync = (ctypes.cast(c, ctypes.c_void_p).value for c in callbacks)
    keep += [callbacks, methods]
    return methods


# ---------------------------------------------------------------- what a power loss leaves


def states_after(recording: Recording, count: int) -> Iterator[tuple[str, dict[str, bytes], set[str]]]:
    """What the first `count` operations can have left: (what was lost, content by path, folders), everything lost or nothing,
    and every mixture by container; the last write torn; an earlier write lost and a later one kept.
    """
    ops = recording.ops[:count]
    synced = {op[1]: number for number, op in enumerate(ops) if op[0] == "sync"}
    pending = sorted({op[1] for n, op in enumerate(ops) if op[0] != "sync" and n > synced.get(op[1], -1)}, key=str)
    for lost in _mixtures(pending):
        skipped = {n for n, op in enumerate(ops) if op[1] in lost and n > synced.get(op[1], -1)}
        yield f"lost: {lost}", *_replayed(recording, ops, skipped)
    unsynced = [n for n, op in enumerate(ops) if op[0] == "write" and n > synced.get(op[1], -1)]
    if unsynced and unsynced[-1] == count - 1:
        kind, inode, offset, data = ops[-1]
        yield "torn", *_replayed(recording, [*ops[:-1], (kind, inode, offset, data[: len(data) // 2])], set())
    if len(unsynced) > 1:
        yield "out of order", *_replayed(recording, ops, {unsynced[0]})


def _mixtures(pending: list[Any]) -> Iterator[tuple[Any, ...]]:
    """Every subset of a few; of many: none, all, each one, all but each one."""
    few = len(pending) <= 4
    sizes = range(len(pending) + 1) if few else sorted({0, 1, len(pending) - 1, len(pending)})
    return chain.from_iterable(combinations(pending, size) for size in sizes)


def _replayed(recording: Recording, ops: list[Op], skipped: set[int]) -> tuple[dict[str, bytes], set[str]]:
    names = {name: number for number, name in enumerate(recording.base)}
    content = {number: bytearray(data) for number, data in enumerate(recording.base.values())}
    folders = {folder_of(name) for name in recording.base} | {".", "blobs", "tmp", "videos", "cache"}
    for number, (kind, _, *details) in enumerate(ops):
        if number not in skipped and kind != "sync":
            _APPLY[kind](names, content, folders, ops[number][1], *details)
    return {name: bytes(content.get(inode, b"")) for name, inode in names.items() if folder_of(name) in folders}, folders


def _write(names: Any, content: Any, folders: Any, inode: int, offset: int, data: bytes) -> None:
    held = content.setdefault(inode, bytearray())
    held.extend(b"\0" * (offset - len(held)))
    held[offset : offset + len(data)] = data


def _truncate(names: Any, content: Any, folders: Any, inode: int, size: int) -> None:
    del content.setdefault(inode, bytearray())[size:]


def _create(names: Any, content: Any, folders: Any, folder: str, name: str, inode: int) -> None:
    names[name] = inode


def _rename(names: Any, content: Any, folders: Any, folder: str, source: str, target: str, inode: int) -> None:
    names.pop(source, None)
    names[target] = inode


def _unlink(names: Any, content: Any, folders: Any, folder: str, name: str) -> None:
    names.pop(name, None)


def _mkdir(names: Any, content: Any, folders: Any, folder: str, name: str) -> None:
    folders.add(name)


_APPLY: dict[str, Callable[..., None]] = {
    "write": _write,
    "truncate": _truncate,
    "create": _create,
    "rename": _rename,
    "unlink": _unlink,
    "mkdir": _mkdir,
}
