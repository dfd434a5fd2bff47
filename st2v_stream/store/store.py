"""The store as the rest sees it: DATA opened, locked, migrated, with an async face.

Commit order of a chunk: blobs (durable), then the rows in one transaction, and only when this returns are viewers woken. So
nobody has ever seen a chunk that a restart does not have. Blobs and rows are written in one call on one thread, and
removed in one: a shared blob cannot be removed while a chunk that names it is being committed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from st2v_stream.chunk import Memory
from st2v_stream.direction import Timeline
from st2v_stream.errors import Conflict, NotFound, StoreDamaged, StoreError
from st2v_stream.store import segments, videos
from st2v_stream.store.blobs import Blob, BlobFiles
from st2v_stream.store.database import Database
from st2v_stream.store.directory import DataDirectory
from st2v_stream.store.memories import memory_from_blobs
from st2v_stream.store.references import reference_from_blob, reference_to_blob
from st2v_stream.store.segments import ChunkRecord
from st2v_stream.store.videos import Order
from st2v_stream.types import LogEntry, Reference, SegmentRef, Snapshot, VideoState, VideoView

T = TypeVar("T")

logger = logging.getLogger(__name__)

LOG_PAGE = 64
"""Log entries read at once."""


class Store:
    """Everything that survives. Methods raise `StoreError` or `StoreFull` where the disk will not, `NotFound` for no row."""

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._database = Database(directory.database)
        self._blobs = BlobFiles(directory.blobs, directory.tmp)
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="st2v-read")
        self.size_bytes = 0
        """Bytes of all blobs."""
        self.trouble: StoreError | None = None
        """Why the last write failed, None if it did not."""

    @staticmethod
    async def open(data_dir: Path) -> Store:
        """Take the directory. Raises `StoreError`: in use, read-only, full, damaged or of another version."""
        directory = DataDirectory.open(data_dir)
        store = Store(directory)
        try:
            await store._database.open()
            store.size_bytes = await store._database.run(segments.read_total_bytes)
        except BaseException:
            directory.close()
            raise
        return store

    async def close(self) -> None:
        """Finish what waits, end the threads, let another process in."""
        await self._database.close()
        self._readers.shutdown()
        self._directory.close()

    # ------------------------------------------------------------ videos

    async def create(self, view: VideoView, config: Mapping[str, Any], reference: Reference | None = None) -> LogEntry:
        """A new video; config: what else can change a pixel (the model's version). The entry holds the view.

        reference: what it starts from besides the prompt; kept as long as the video.
        """
        blob = None if reference is None else await self._read(reference_to_blob, reference)
        return await self._write(self._create, view, config, blob)

    async def change(self, video_id: str, allowed: Collection[VideoState], **changes: Any) -> LogEntry:
        """Set columns (state, ended_by, error, ...) and log the state. Raises `Conflict` unless it is in an allowed one."""
        return await self._write(self._log_and_copy, video_id, videos.change_video, video_id, allowed, changes)

    async def begin_run(self, video_id: str) -> int:
        """The epoch of a new run."""
        return await self._database.run(videos.begin_run, video_id)

    async def view(self, video_id: str) -> VideoView:
        """The video as it is."""
        return await self._database.run(videos.read_video, video_id)

    async def model_version(self, video_id: str) -> str | None:
        """The version of the model it was begun with."""
        return await self._database.run(videos.read_model_version, video_id)

    async def timeline(self, video_id: str) -> Timeline:
        """Its directions."""
        return await self._database.run(videos.read_timeline, video_id)

    async def reference(self, video_id: str) -> Reference | None:
        """What it starts from besides the prompt. Raises `NotFound` also where that is lost: trying again would not help."""
        sha256 = await self._database.run(videos.read_reference, video_id)
        if sha256 is None:
            return None
        try:
            return reference_from_blob(await self._read(self._blobs.read, sha256))
        except (StoreDamaged, NotFound) as error:
            raise NotFound(f"what {video_id} starts from is lost: {error}") from error

    async def page(self, after: str | None, limit: int, order: Order) -> tuple[list[VideoView], bool]:
        """One page and whether there are more."""
        return await self._database.run(videos.list_videos, after, limit, order)

    async def in_states(self, *states: VideoState) -> list[VideoView]:
        """Videos in one of these states, the oldest first."""
        return await self._database.run(videos.list_in_states, states)

    async def delete(self, video_id: str) -> None:
        """Rows go, then the blobs nothing refers to any more; shared ones stay."""
        await self._write(self._delete, video_id)

    # ------------------------------------------------------------ chunks

    async def commit(self, video_id: str, epoch: int, record: ChunkRecord) -> tuple[LogEntry, int]:
        """Acknowledge a chunk; returns its entry and the bytes it added to the disk (shared blobs count once).

        Raises `Conflict` if it is not the next chunk of the newest run.
        """
        return await self._write(self._commit, video_id, epoch, record)

    async def newest_memory(self, video_id: str) -> tuple[Memory | None, LogEntry | None]:
        """The memory to go on from, None for a film without chunks.

        Where the newest is damaged or gone, the film is cut back to the newest chunk whose memory is whole; then the second
        value is the reset entry.
        """
        return await self._database.run(self._newest_memory, video_id)

    async def memory(self, video_id: str, index: int) -> Memory:
        """The memory after chunk `index`. Raises `NotFound` if that chunk is not there or keeps none."""
        rows = dict(await self._database.run(segments.read_memory_rows, video_id))
        row = rows.get(index)
        if row is None:
            raise NotFound("no memory there", expected=f"the index of a chunk of {video_id} that keeps one", received=index)
        return await self._read(memory_from_blobs, row, self._blobs.read)

    async def thin(self, video_id: str) -> None:
        """Forget most memories of a finished film (see `segments.thin_memories`)."""
        await self._database.run(self._thin, video_id)

    async def frame_hashes(self, video_id: str) -> list[str]:
        """sha256 of the frames of every chunk, before they were encoded."""
        return await self._database.run(segments.read_frame_hashes, video_id)

    # ------------------------------------------------------------ what followers read

    async def read_log(self, video_id: str, seq: int) -> list[LogEntry]:
        """The next page of entries after `seq`."""
        return await self._database.run(segments.read_log, video_id, seq, LOG_PAGE)

    async def snapshot(self, video_id: str) -> Snapshot:
        """What exists at one moment."""
        return await self._database.run(_snapshot, video_id)

    async def segment(self, video_id: str, index: int) -> SegmentRef | None:
        """The preview of one chunk."""
        return await self._database.run(segments.read_segment, video_id, index)

    async def read_blob(self, sha256: str) -> bytes:
        """Bytes by their hash, checked."""
        return await self._read(self._blobs.read, sha256)

    # ------------------------------------------------------------ on the threads

    async def _read(self, fn: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, fn, *args)

    async def _write(self, fn: Callable[..., T], *args: object) -> T:
        try:
            result = await self._database.run(fn, *args)
        except StoreError as error:
            self.trouble = error
            raise
        self.trouble = None
        return result

    def _log_and_copy(
        self, connection: sqlite3.Connection, video_id: str, fn: Callable[..., LogEntry], *args: object
    ) -> LogEntry:
        entry = fn(connection, *args)
        self._copy(video_id, entry, None)
        return entry

    def _create(
        self, connection: sqlite3.Connection, view: VideoView, config: Mapping[str, Any], reference: Blob | None
    ) -> LogEntry:
        fresh = segments.unknown_blobs(connection, [] if reference is None else [reference])
        try:
            for blob in fresh:
                self._blobs.write(blob)
            entry = videos.insert_video(connection, view, config, reference)
        except (OSError, sqlite3.Error):
            self._remove([blob.sha256 for blob in segments.unknown_blobs(connection, fresh)])
            raise
        self.size_bytes += sum(len(blob.data) for blob in fresh)
        self._copy(view.id, entry, None, {} if reference is None else {"reference": reference.sha256})
        return entry

    def _commit(self, connection: sqlite3.Connection, video_id: str, epoch: int, record: ChunkRecord) -> tuple[LogEntry, int]:
        fresh = segments.unknown_blobs(connection, record.blobs)
        added_bytes = sum(len(blob.data) for blob in fresh)
        try:
            for blob in fresh:
                self._blobs.write(blob)
            entry = segments.insert_chunk(connection, video_id, epoch, record, added_bytes)
        except (OSError, sqlite3.Error, Conflict):
            self._remove([blob.sha256 for blob in segments.unknown_blobs(connection, fresh)])
            raise
        self.size_bytes += added_bytes
        self._copy(video_id, entry, record)
        return entry, added_bytes

    def _newest_memory(self, connection: sqlite3.Connection, video_id: str) -> tuple[Memory | None, LogEntry | None]:
        rows = segments.read_memory_rows(connection, video_id)
        for index, row in rows:
            memory = self._memory_if_whole(video_id, index, row)
            if memory is not None:
                return memory, None if index == rows[0][0] else self._truncate(connection, video_id, index + 1)
        return None, self._truncate(connection, video_id, 0) if rows else None

    def _memory_if_whole(self, video_id: str, index: int, row: str | None) -> Memory | None:
        """None only where it is proven lost; a disk that cannot be read just now raises, and nothing is cut back."""
        if row is None:
            return None
        try:
            return memory_from_blobs(row, self._blobs.read)
        except (StoreDamaged, NotFound) as error:
            logger.error("%s: the memory after chunk %d is lost: %s", video_id, index, error)
            return None

    def _truncate(self, connection: sqlite3.Connection, video_id: str, index: int) -> LogEntry:
        entry, lost = segments.truncate(connection, video_id, index)
        self._remove(lost)
        self._copy(video_id, entry, None)
        self.size_bytes = segments.read_total_bytes(connection)
        return entry

    def _thin(self, connection: sqlite3.Connection, video_id: str) -> None:
        self._remove(segments.thin_memories(connection, video_id))
        self.size_bytes = segments.read_total_bytes(connection)

    def _delete(self, connection: sqlite3.Connection, video_id: str) -> None:
        lost = videos.delete_rows(connection, video_id)
        self._remove(lost)
        _unlink(self._directory.videos / f"{video_id}.jsonl")
        self.size_bytes = segments.read_total_bytes(connection)

    def _remove(self, hashes: list[str]) -> None:
        """Their rows are gone already: a file that stays wastes space and harms nobody, so that is logged, no more."""
        for sha256 in hashes:
            try:
                self._blobs.remove(sha256)
            except OSError as error:
                logger.warning("blob %s stays on the disk: %s", sha256, error)

    def _copy(
        self, video_id: str, entry: LogEntry, record: ChunkRecord | None, more: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Append the committed row to the video's file. The database is the truth: a copy that fails is logged, no more."""
        line: dict[str, Any] = {**asdict(entry), **more}
        if record is not None:
            line["chunk"] = {name: getattr(record, name) for name in ("frames_sha256", "direction", "memory", "making_s")}
        try:
            with (self._directory.videos / f"{video_id}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            logger.warning("%s: no copy of row %d: %s", video_id, entry.seq, error)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s stays on the disk: %s", path, error)


def _snapshot(connection: sqlite3.Connection, video_id: str) -> Snapshot:
    view = videos.read_video(connection, video_id)  # nothing else runs on this thread meanwhile: one moment
    return Snapshot(view, segments.read_newest_segments(connection, video_id), view.seq)
