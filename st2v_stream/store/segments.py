"""Rows of chunks and segments, and the log over them. Every function runs on the store's thread with its connection."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from st2v_stream.chunk import Chunk
from st2v_stream.errors import Conflict
from st2v_stream.store.blobs import Blob
from st2v_stream.store.database import transaction
from st2v_stream.store.memories import memory_to_blobs
from st2v_stream.store.videos import forget_unreferenced, next_seq, now_s, view_from_json
from st2v_stream.types import LogEntry, SegmentRef

KEEP_EVERY = 8
"""A finished film keeps the memory of every 8th chunk: at most 7 chunks are made again to branch anywhere."""


class Encoded(Protocol):
    """What the encoder makes of a chunk: the segment's bytes, those of its init segment, and what they show."""

    @property
    def data(self) -> bytes: ...
    @property
    def init(self) -> bytes: ...
    @property
    def codec(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def frames(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """Everything of a chunk that is kept, ready to be written: its blobs, and the columns of its row."""

    segment: SegmentRef
    blobs: tuple[Blob, ...] = field(repr=False)
    frames_sha256: str
    direction: str
    memory: str
    making_s: float


def record_of(chunk: Chunk, encoded: Encoded) -> ChunkRecord:
    """Serialize and hash; pure, so it runs beside the encoder and not on the store's thread."""
    init, data = Blob.of("init", encoded.init), Blob.of("segment", encoded.data)
    memory, parts = memory_to_blobs(chunk.memory)
    segment = SegmentRef(
        hash=data.sha256,
        size_bytes=len(encoded.data),
        init=init.sha256,
        codec=encoded.codec,
        index=chunk.index,
        start=encoded.start,
        frames=encoded.frames,
        width=encoded.width,
        height=encoded.height,
    )
    return ChunkRecord(
        segment=segment,
        blobs=(init, data, *parts),
        frames_sha256=hashlib.sha256(chunk.frames.tobytes()).hexdigest(),
        direction=json.dumps(chunk.direction.to_json()),
        memory=memory,
        making_s=chunk.making_s,
    )


def unknown_blobs(connection: sqlite3.Connection, blobs: Sequence[Blob]) -> list[Blob]:
    """Those that no row names yet, each once: the ones to write."""
    sql = "SELECT 1 FROM blob WHERE sha256 = ?"
    once = {blob.sha256: blob for blob in blobs}
    return [blob for sha256, blob in once.items() if connection.execute(sql, (sha256,)).fetchone() is None]


def insert_chunk(connection: sqlite3.Connection, video_id: str, epoch: int, record: ChunkRecord, size_bytes: int) -> LogEntry:
    """The acknowledgement, in one transaction: blob, chunk, segment and log rows. size_bytes: what it added to the disk.

    Raises `Conflict` unless `epoch` is the video's newest run and the chunk is its next.
    """
    with transaction(connection):
        connection.executemany(
            "INSERT OR IGNORE INTO blob VALUES (?, ?, ?, ?)",
            [(blob.sha256, blob.kind, len(blob.data), now_s()) for blob in record.blobs],
        )
        _insert_fenced(connection, video_id, epoch, record, size_bytes)
        seq = next_seq(connection, video_id)
        _insert_segment(connection, video_id, seq, record.segment)
        _log(connection, video_id, seq, "segment", record.segment.index)
        connection.execute(
            "UPDATE video SET chunks = chunks + 1, frames = frames + ?, size_bytes = size_bytes + ? WHERE id = ?",
            (record.segment.frames, size_bytes, video_id),
        )
    return LogEntry(seq, "segment", record.segment.index, segment=record.segment)


def truncate(connection: sqlite3.Connection, video_id: str, index: int) -> tuple[LogEntry, list[str]]:
    """Take the chunks from `index` on out of the film; returns the reset entry and the blobs nobody refers to any more.

    Their log entries go too: seqs have gaps from then on. Raises `NotFound`.
    """
    with transaction(connection):
        gone = "seq IN (SELECT seq FROM segment WHERE video_id = ?1 AND idx >= ?2)"
        connection.execute(f"DELETE FROM log WHERE video_id = ?1 AND {gone}", (video_id, index))
        connection.execute("DELETE FROM chunk WHERE video_id = ? AND idx >= ?", (video_id, index))
        connection.execute(
            """UPDATE video SET (chunks, frames, size_bytes) =
                 (SELECT count(*), coalesce(sum(frames), 0), coalesce(sum(size_bytes), 0) FROM chunk WHERE video_id = ?1)
               WHERE id = ?1""",
            (video_id,),
        )
        seq = next_seq(connection, video_id)
        _log(connection, video_id, seq, "reset", index)
        return LogEntry(seq, "reset", index), forget_unreferenced(connection)


def thin_memories(connection: sqlite3.Connection, video_id: str) -> list[str]:
    """Keep the memories of chunk 0, of every `KEEP_EVERY`th chunk, of branch points and of the last chunk.

    Returns the sha256 of the blobs that nobody refers to any more.
    """
    with transaction(connection):
        connection.execute(
            """UPDATE chunk SET memory = NULL
               WHERE video_id = ?1 AND idx % ?2 != 0 AND idx < (SELECT max(idx) FROM chunk WHERE video_id = ?1)
                 AND idx NOT IN (SELECT fork_index - 1 FROM video WHERE parent_id = ?1)""",
            (video_id, KEEP_EVERY),
        )
        return forget_unreferenced(connection)


def read_log(connection: sqlite3.Connection, video_id: str, seq: int, limit: int) -> list[LogEntry]:
    """The next entries after `seq`, in order."""
    rows = connection.execute(
        """SELECT log.seq AS log_seq, log.kind, log.idx AS log_idx, log.view, segment.*
           FROM log LEFT JOIN segment ON segment.video_id = log.video_id AND segment.seq = log.seq
           WHERE log.video_id = ? AND log.seq > ? ORDER BY log.seq LIMIT ?""",
        (video_id, seq, limit),
    )
    return [_entry_of(row) for row in rows]


def read_newest_segments(connection: sqlite3.Connection, video_id: str) -> tuple[LogEntry, ...]:
    """Per chunk the newest revision of the best rendition, in the order they were made (by seq)."""
    rows = connection.execute(
        "SELECT * FROM segment WHERE video_id = ? ORDER BY idx, rendition = 'enhanced', revision", (video_id,)
    )
    best = {row["idx"]: row for row in rows}  # the last of each index wins
    return tuple(
        LogEntry(row["seq"], "segment", row["idx"], segment=_segment_of(row))
        for row in sorted(best.values(), key=lambda row: row["seq"])
    )


def read_segment(connection: sqlite3.Connection, video_id: str, index: int) -> SegmentRef | None:
    """The preview of one chunk."""
    row = connection.execute(
        "SELECT * FROM segment WHERE video_id = ? AND idx = ? AND rendition = 'preview' ORDER BY revision DESC LIMIT 1",
        (video_id, index),
    ).fetchone()
    return None if row is None else _segment_of(row)


def read_memory_rows(connection: sqlite3.Connection, video_id: str) -> list[tuple[int, str | None]]:
    """(index, memory JSON or None) of every chunk, the newest first."""
    rows = connection.execute("SELECT idx, memory FROM chunk WHERE video_id = ? ORDER BY idx DESC", (video_id,))
    return [(row["idx"], row["memory"]) for row in rows]


def read_frame_hashes(connection: sqlite3.Connection, video_id: str) -> list[str]:
    """sha256 of the frames of every chunk before they were encoded: what two makings of one film are compared by."""
    rows = connection.execute("SELECT frames_sha256 FROM chunk WHERE video_id = ? ORDER BY idx", (video_id,))
    return [row["frames_sha256"] for row in rows]


def read_total_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of all blobs."""
    return int(connection.execute("SELECT coalesce(sum(size_bytes), 0) FROM blob").fetchone()[0])


def _insert_fenced(connection: sqlite3.Connection, video_id: str, epoch: int, record: ChunkRecord, size_bytes: int) -> None:
    segment = record.segment
    inserted = connection.execute(
        """INSERT INTO chunk(
             video_id, idx, epoch, start, frames, frames_sha256, direction, memory, size_bytes, making_s, created_at_s)
           SELECT id, ?, epoch, ?, ?, ?, ?, ?, ?, ?, ? FROM video WHERE id = ? AND epoch = ? AND chunks = ?""",
        (
            segment.index,
            segment.start,
            segment.frames,
            record.frames_sha256,
            record.direction,
            record.memory,
            size_bytes,
            record.making_s,
            now_s(),
            video_id,
            epoch,
            segment.index,
        ),
    ).rowcount
    if inserted == 0:
        row = connection.execute("SELECT epoch, chunks FROM video WHERE id = ?", (video_id,)).fetchone()
        expected = "no video" if row is None else f"chunk {row['chunks']} of run {row['epoch']}"
        raise Conflict(
            f"{video_id} does not take this chunk", expected=expected, received=f"chunk {segment.index} of run {epoch}"
        )


def _insert_segment(connection: sqlite3.Connection, video_id: str, seq: int, segment: SegmentRef) -> None:
    connection.execute(
        "INSERT INTO segment VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            video_id,
            segment.index,
            segment.rendition,
            segment.revision,
            seq,
            segment.hash,
            segment.init,
            segment.size_bytes,
            segment.codec,
            segment.start,
            segment.frames,
            segment.width,
            segment.height,
        ),
    )


def _log(connection: sqlite3.Connection, video_id: str, seq: int, kind: str, index: int) -> None:
    connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, NULL)", (video_id, seq, kind, index))


def _entry_of(row: sqlite3.Row) -> LogEntry:
    segment = None if row["hash"] is None else _segment_of(row)
    view = None if row["view"] is None else view_from_json(row["view"])
    return LogEntry(row["log_seq"], row["kind"], row["log_idx"], segment=segment, view=view)


def _segment_of(row: sqlite3.Row) -> SegmentRef:
    return SegmentRef(
        hash=row["hash"],
        size_bytes=row["size_bytes"],
        init=row["init"],
        codec=row["codec"],
        index=row["idx"],
        start=row["start"],
        frames=row["frames"],
        width=row["width"],
        height=row["height"],
        rendition=row["rendition"],
        revision=row["revision"],
    )
