"""Rows of chunks and segments, and the log over them. Every function runs on the store's thread with its connection."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from st2v_stream.chunk import Chunk
from st2v_stream.direction import Cue, Direction
from st2v_stream.errors import Conflict, NotFound
from st2v_stream.store.blobs import Blob
from st2v_stream.store.database import transaction
from st2v_stream.store.memories import memory_to_blobs
from st2v_stream.store.sweep import blobs_of, mark_gone
from st2v_stream.store.videos import insert_config, keep_blobs, next_seq, now_s, refresh_size, view_from_json
from st2v_stream.types import LogEntry, SegmentRef

OF_MEMORY = "name NOT GLOB 'carry/*'"
"""Rows of `part` that name what chunks are made from; the others name what an enhancer has begun (store/enhancement.py)."""

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
    memory_digest: str
    making_s: float
    made_with: Mapping[str, Any] | None = None


def record_of(chunk: Chunk, encoded: Encoded, made_with: Mapping[str, Any] | None = None) -> ChunkRecord:
    """Serialize and hash; pure, so it runs beside the encoder and not on the store's thread.

    made_with: the determinism class, all in whose equality the same arguments give the same bits (plain values).
    """
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
        memory_digest=chunk.memory.digest,
        making_s=chunk.making_s,
        made_with=made_with,
    )


def insert_chunk(connection: sqlite3.Connection, video_id: str, epoch: int, record: ChunkRecord) -> tuple[LogEntry, int]:
    """The acknowledgement, in one transaction: blob, chunk, part, segment and log rows.

    Returns the entry, and the bytes of what the film did not refer to before. Raises `Conflict` unless `epoch` is the
    video's newest run and the chunk is its next.
    """
    with transaction(connection):
        added_bytes = bytes_new_to(connection, video_id, record.blobs)
        keep_blobs(connection, record.blobs)
        _insert_fenced(connection, video_id, epoch, record, added_bytes)
        _insert_parts(connection, video_id, record)
        seq = next_seq(connection, video_id)
        insert_segment(connection, video_id, seq, record.segment)
        log_row(connection, video_id, seq, "segment", record.segment.index)
        connection.execute(
            "UPDATE video SET chunks = chunks + 1, frames = frames + ?, size_bytes = size_bytes + ? WHERE id = ?",
            (record.segment.frames, added_bytes, video_id),
        )
    return LogEntry(seq, "segment", record.segment.index, segment=record.segment), added_bytes


def truncate(connection: sqlite3.Connection, video_id: str, index: int) -> LogEntry:
    """Take the chunks from `index` on out of the film; returns the reset entry. Raises `NotFound`."""
    with transaction(connection):
        return take_out_chunks(connection, video_id, index)


def take_out_chunks(connection: sqlite3.Connection, video_id: str, index: int) -> LogEntry:
    """The chunks from `index` on and their log entries go (seqs have gaps from then on), a reset entry comes.

    Inside a transaction. Raises `NotFound`.
    """
    lost = blobs_of(connection, video_id, index)
    gone = "seq IN (SELECT seq FROM segment WHERE video_id = ?1 AND idx >= ?2)"
    connection.execute(f"DELETE FROM log WHERE video_id = ?1 AND {gone}", (video_id, index))
    connection.execute("DELETE FROM chunk WHERE video_id = ? AND idx >= ?", (video_id, index))
    connection.execute(
        """UPDATE video SET (chunks, frames) = (SELECT count(*), coalesce(sum(frames), 0) FROM chunk WHERE video_id = ?1),
             enhanced_frames = (SELECT coalesce(sum(frames), 0) FROM chunk WHERE video_id = ?1 AND EXISTS
               (SELECT 1 FROM segment WHERE video_id = ?1 AND segment.idx = chunk.idx AND rendition = 'enhanced'))
           WHERE id = ?1""",
        (video_id,),
    )
    connection.execute("UPDATE video SET enhanced_prefix = min(enhanced_prefix, ?) WHERE id = ?", (index, video_id))
    # carries that have seen the chunks are gone with them; what was made sharp with a look at them is made again
    connection.execute("UPDATE enhancement SET state = 'again' WHERE video_id = ? AND seen >= ?", (video_id, index))
    refresh_size(connection, video_id)
    mark_gone(connection, lost)
    seq = next_seq(connection, video_id)
    log_row(connection, video_id, seq, "reset", index)
    return LogEntry(seq, "reset", index)


def thin_memories(connection: sqlite3.Connection, video_id: str) -> None:
    """Keep the memories of chunk 0, of every `KEEP_EVERY`th chunk, of branch points and of the last chunk."""
    thinned = """SELECT idx FROM chunk
        WHERE video_id = ?1 AND idx % ?2 != 0 AND idx < (SELECT max(idx) FROM chunk WHERE video_id = ?1)
          AND idx NOT IN (SELECT fork_index - 1 FROM video WHERE parent_id = ?1 AND fork_index IS NOT NULL)"""
    values = video_id, KEEP_EVERY
    with transaction(connection):
        rows = connection.execute(
            f"SELECT DISTINCT sha256 FROM part WHERE video_id = ?1 AND idx IN ({thinned}) AND {OF_MEMORY}", values
        )
        lost = [row["sha256"] for row in rows.fetchall()]
        connection.execute(f"UPDATE chunk SET memory = NULL WHERE video_id = ?1 AND idx IN ({thinned})", values)
        connection.execute(
            f"""DELETE FROM part WHERE video_id = ?1 AND {OF_MEMORY}
                  AND idx IN (SELECT idx FROM chunk WHERE video_id = ?1 AND memory IS NULL)""",
            (video_id,),
        )
        refresh_size(connection, video_id)
        mark_gone(connection, lost)


def is_the_same(connection: sqlite3.Connection, video_id: str, record: ChunkRecord) -> bool:
    """Whether a chunk made again came out bit for bit as the one that is there. Raises `NotFound` where there is none."""
    sql, index = "SELECT frames_sha256, memory_digest FROM chunk WHERE video_id = ? AND idx = ?", record.segment.index
    row = connection.execute(sql, (video_id, index)).fetchone()
    if row is None:
        raise NotFound("no such chunk", expected=f"the index of a chunk of {video_id}", received=index, param="index")
    digests: tuple[str | None, ...] = (None, record.memory_digest)
    return row["frames_sha256"] == record.frames_sha256 and row["memory_digest"] in digests


def insert_memory(connection: sqlite3.Connection, video_id: str, record: ChunkRecord, parts: Sequence[Blob]) -> None:
    """Give a chunk that is there its memory back."""
    index = record.segment.index
    with transaction(connection):
        keep_blobs(connection, parts)
        sql = "UPDATE chunk SET memory = ?, memory_digest = ? WHERE video_id = ? AND idx = ?"
        connection.execute(sql, (record.memory, record.memory_digest, video_id, index))
        connection.execute(f"DELETE FROM part WHERE video_id = ? AND idx = ? AND {OF_MEMORY}", (video_id, index))
        _insert_parts(connection, video_id, record)
        refresh_size(connection, video_id)


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """What is kept of a chunk besides its bytes: what a manifest says and a verification compares.

    made_with: the determinism class, None where it was not written down. memory_digest outlives the memory itself.
    segments: every rendition and revision, in the order they were made.
    """

    index: int
    start: int
    frames: int
    epoch: int
    frames_sha256: str
    direction: Direction
    memory_digest: str | None
    has_memory: bool
    made_with: Mapping[str, Any] | None
    making_s: float
    created_at_s: int
    segments: tuple[SegmentRef, ...]


def read_chunks(connection: sqlite3.Connection, video_id: str, first: int = 0, last: int | None = None) -> list[ChunkRow]:
    """The chunks from `first` to `last`, both included (None = to the end), in order."""
    values = video_id, first, sys.maxsize if last is None else last
    segments = dict[int, list[SegmentRef]]()
    for row in connection.execute("SELECT * FROM segment WHERE video_id = ? AND idx BETWEEN ? AND ? ORDER BY seq", values):
        segments.setdefault(row["idx"], []).append(_segment_of(row))
    rows = connection.execute(
        """SELECT chunk.*, config.json AS made_with_json FROM chunk LEFT JOIN config ON config.hash = chunk.made_with
           WHERE video_id = ? AND idx BETWEEN ? AND ? ORDER BY idx""",
        values,
    )
    return [_chunk_of(row, tuple(segments.get(row["idx"], ()))) for row in rows]


def read_log(connection: sqlite3.Connection, video_id: str, seq: int, limit: int) -> list[LogEntry]:
    """The next entries after `seq`, in order."""
    rows = connection.execute(
        """SELECT log.seq AS log_seq, log.kind, log.idx AS log_idx, log.view, segment.*,
             cue.json AS cue_json, iif(cue.dropped_at_seq = log.seq, (SELECT min(first.seq) FROM log AS first
               WHERE first.video_id = log.video_id AND first.cue = log.cue), NULL) AS taken_back
           FROM log LEFT JOIN segment ON segment.video_id = log.video_id AND segment.seq = log.seq
           LEFT JOIN cue ON cue.video_id = log.video_id AND cue.number = log.cue
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
             video_id, idx, epoch, start, frames, frames_sha256, direction, memory, memory_digest, made_with, size_bytes,
             making_s, created_at_s)
           SELECT id, ?, epoch, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM video
           WHERE id = ? AND epoch = ? AND chunks = ? AND deleted_at_s IS NULL""",
        (
            segment.index,
            segment.start,
            segment.frames,
            record.frames_sha256,
            record.direction,
            record.memory,
            record.memory_digest,
            None if record.made_with is None else insert_config(connection, record.made_with),
            size_bytes,
            record.making_s,
            now_s(),
            video_id,
            epoch,
            segment.index,
        ),
    ).rowcount
    if inserted == 0:
        sql = "SELECT epoch, chunks FROM video WHERE id = ? AND deleted_at_s IS NULL"
        row = connection.execute(sql, (video_id,)).fetchone()
        expected = "no video" if row is None else f"chunk {row['chunks']} of run {row['epoch']}"
        raise Conflict(
            f"{video_id} does not take this chunk", expected=expected, received=f"chunk {segment.index} of run {epoch}"
        )


def _insert_parts(connection: sqlite3.Connection, video_id: str, record: ChunkRecord) -> None:
    rows = [(video_id, record.segment.index, *part) for part in json.loads(record.memory)["parts"].items()]
    connection.executemany("INSERT INTO part(video_id, idx, name, sha256) VALUES (?, ?, ?, ?)", rows)


def bytes_new_to(connection: sqlite3.Connection, video_id: str, blobs: Sequence[Blob]) -> int:
    """Bytes of those that the film does not refer to yet, each once."""
    once = {blob.sha256: len(blob.data) for blob in blobs}
    return sum(size for sha256, size in once.items() if is_new_to(connection, video_id, sha256))


def is_new_to(connection: sqlite3.Connection, video_id: str, sha256: str) -> bool:
    """Whether the film does not refer to this blob."""
    known = """SELECT EXISTS (SELECT 1 FROM segment WHERE hash = ?1 AND video_id = ?2)
        OR EXISTS (SELECT 1 FROM segment WHERE init = ?1 AND video_id = ?2)
        OR EXISTS (SELECT 1 FROM part WHERE sha256 = ?1 AND video_id = ?2)
        OR EXISTS (SELECT 1 FROM video WHERE reference = ?1 AND id = ?2)"""
    return not connection.execute(known, (sha256, video_id)).fetchone()[0]


def insert_segment(connection: sqlite3.Connection, video_id: str, seq: int, segment: SegmentRef) -> None:
    """Its row; inside a transaction."""
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


def log_row(connection: sqlite3.Connection, video_id: str, seq: int, kind: str, index: int) -> None:
    """An entry of the log; inside a transaction."""
    connection.execute("INSERT INTO log(video_id, seq, kind, idx) VALUES (?, ?, ?, ?)", (video_id, seq, kind, index))


def _entry_of(row: sqlite3.Row) -> LogEntry:
    segment = None if row["hash"] is None else _segment_of(row)
    view = None if row["view"] is None else view_from_json(row["view"])
    is_cue = row["cue_json"] is not None and row["taken_back"] is None
    cue = Cue.from_json(json.loads(row["cue_json"])) if is_cue else None
    index, taken_back = row["log_idx"], row["taken_back"]
    return LogEntry(row["log_seq"], row["kind"], index, segment=segment, view=view, cue=cue, taken_back=taken_back)


def _chunk_of(row: sqlite3.Row, segments: tuple[SegmentRef, ...]) -> ChunkRow:
    return ChunkRow(
        index=row["idx"],
        start=row["start"],
        frames=row["frames"],
        epoch=row["epoch"],
        frames_sha256=row["frames_sha256"],
        direction=Direction.from_json(json.loads(row["direction"])),
        memory_digest=row["memory_digest"],
        has_memory=row["memory"] is not None,
        made_with=None if row["made_with_json"] is None else json.loads(row["made_with_json"]),
        making_s=row["making_s"],
        created_at_s=row["created_at_s"],
        segments=segments,
    )


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
