"""Rows of the enhanced rendition: what became sharp, what is to be made sharp next, and the carries to go on with.

A carry belongs to the last chunk that it has seen: a reset that takes the chunk out takes it too, a branch that shares the
chunk shares it, and the newest one left is where enhancement goes on. Every function runs on the store's thread.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from st2v_stream.chunk import Memory
from st2v_stream.errors import Conflict
from st2v_stream.store.blobs import Blob
from st2v_stream.store.database import transaction
from st2v_stream.store.memories import memory_to_blobs
from st2v_stream.store.segments import Encoded, bytes_new_to, insert_segment, is_new_to, log_row
from st2v_stream.store.sweep import mark_gone
from st2v_stream.store.videos import keep_blobs, log_state, next_seq, read_video, set_columns
from st2v_stream.types import EnhancedChunk, LogEntry, SegmentRef, VideoView

MAX_ATTEMPTS = 3
"""How often an enhancer may fail at a chunk before the film is made sharp no further."""

CARRY_EVERY = 8
"""Carries are kept of every 8th chunk near the newest, and the farther back the fewer (`is_kept`)."""

_NAME = "carry/"
"""Before the names of a carry's parts in table `part`."""

_ENDED = ("stopped", "completed", "failed")
_IS_SHARP = "EXISTS (SELECT 1 FROM segment WHERE video_id = ?1 AND segment.idx = {} AND rendition = 'enhanced')"


@dataclass(frozen=True, slots=True)
class Run:
    """Chunks made sharp one after the other, each with the carry of those before.

    began: the first one. apart: it has no sharp chunk before it, so the run is made again once there is one.
    """

    began: int
    apart: bool


@dataclass(frozen=True, slots=True)
class NextWork:
    """What the enhancer does next with a film.

    target: the first chunk that is not sharp. index: the chunk to take, sha256: its frames' hash; is_end: no more follow for
    now, and `index` is the last one that was taken. carry: JSON of the carry to go on with, None begins; pending: the first
    chunk that it has not given. seq: of the newest log entry when this was read.
    """

    target: int
    index: int
    sha256: str
    is_end: bool
    carry: str | None
    pending: int
    run: Run
    seq: int


@dataclass(frozen=True, slots=True)
class SharpSegment:
    """An enhanced chunk, encoded."""

    segment: SegmentRef
    blobs: tuple[Blob, ...] = field(repr=False)
    is_provisional: bool


@dataclass(frozen=True, slots=True)
class SharpRecord:
    """All that one call of the enhancer gave: what became sharp, maybe nothing, and the carry after it.

    carry: JSON, and its blobs; None where the film ended for now: if it goes on, that is from the carry before.
    """

    work: NextWork
    sharp: tuple[SharpSegment, ...]
    carry: str | None
    carry_blobs: tuple[Blob, ...] = field(repr=False)

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """All of them."""
        return (*(blob for each in self.sharp for blob in each.blobs), *self.carry_blobs)

    @property
    def pending(self) -> int:
        """The first chunk that has not come out for good."""
        return max(self.work.pending, *(each.segment.index + 1 for each in self.sharp), 0)


@dataclass(frozen=True, slots=True)
class SharpCommit:
    """What a commit changed: new log entries, how much of the film is sharp now, and by how many bytes the film grew."""

    entries: tuple[LogEntry, ...]
    enhanced_frames: int
    enhanced_prefix_frames: int
    added_bytes: int


def sharp_segment(made: EnhancedChunk, encoded: Encoded) -> SharpSegment:
    """Hash; pure, so it runs beside the encoder and not on the store's thread."""
    init, data = Blob.of("init", encoded.init), Blob.of("segment", encoded.data)
    segment = SegmentRef(
        hash=data.sha256,
        size_bytes=len(encoded.data),
        init=init.sha256,
        codec=encoded.codec,
        index=made.chunk.index,
        start=encoded.start,
        frames=encoded.frames,
        width=encoded.width,
        height=encoded.height,
        rendition="enhanced",
    )
    return SharpSegment(segment, (init, data), made.is_provisional)


def sharp_record(work: NextWork, sharp: Sequence[SharpSegment], carry: Memory) -> SharpRecord:
    """What is kept of a call."""
    text, blobs = (None, ()) if work.is_end else memory_to_blobs(carry)
    return SharpRecord(work, tuple(sharp), text, blobs)


def is_kept(index: int, newest: int) -> bool:
    """Whether the carry after chunk `index` is kept when `newest` has one.

    A redo d chunks back finds one at most d chunks further back (8 for small d), and a film of n chunks keeps about log2(n).
    """
    distance = newest - index
    step = max(CARRY_EVERY, 1 << max(distance, 1).bit_length() - 1)
    return distance == 0 or index % step == 0


# ---------------------------------------------------------------- what is to be done


def next_work(connection: sqlite3.Connection, video_id: str, *, everything: bool) -> NextWork | None:
    """The next call of the enhancer; None where there is nothing to do now.

    everything: all chunks are to be sharp, else those that were asked for. Raises `NotFound`.
    """
    view = read_video(connection, video_id)
    target = _target(connection, view, everything)
    if target is None or _attempts(connection, video_id, target) >= MAX_ATTEMPTS:
        return None
    carry, index, pending, run = _where_to_go_on(connection, video_id, target)
    is_end = index >= view.chunks
    if is_end and (carry is None or view.state not in _ENDED):
        return None
    index = min(index, view.chunks - 1)
    sql = "SELECT frames_sha256 FROM chunk WHERE video_id = ? AND idx = ?"
    sha256: str = connection.execute(sql, (video_id, index)).fetchone()["frames_sha256"]
    return NextWork(target, index, sha256, is_end, carry, pending, run, view.seq)


def _target(connection: sqlite3.Connection, view: VideoView, everything: bool) -> int | None:
    """The first chunk that is to be made sharp: what was asked for comes first."""
    sql = "SELECT min(idx) AS idx FROM enhancement WHERE video_id = ? AND asked"
    asked: int | None = connection.execute(sql, (view.id,)).fetchone()["idx"]
    if asked is not None or not everything:
        return asked
    sql = """SELECT min(idx) AS idx FROM enhancement INDEXED BY enhancement_again
             WHERE video_id = ? AND state IN ('provisional', 'again') AND (state = 'again' OR seen < ?)"""
    again: int | None = connection.execute(sql, (view.id, view.chunks - 1)).fetchone()["idx"]
    prefix = _prefix(connection, view.id)
    return min((index for index in (again, prefix) if index is not None and index < view.chunks), default=None)


def _where_to_go_on(connection: sqlite3.Connection, video_id: str, target: int) -> tuple[str | None, int, int, Run]:
    """(carry, the chunk to take next, the first one that it has not given, the run): from what is sharp before, if it joins."""
    # one that is to be made again because it was made apart is not made so again
    rows = connection.execute(
        """SELECT idx, carry, pending, began, apart FROM enhancement
           WHERE video_id = ?1 AND carry IS NOT NULL AND pending <= ?2 AND NOT (apart AND EXISTS
             (SELECT 1 FROM enhancement AS made WHERE made.video_id = ?1 AND made.idx = ?2 AND made.state = 'again'))
           ORDER BY began, idx DESC""",
        (video_id, target),
    )
    for row in rows.fetchall():
        if _are_sharp(connection, video_id, row["pending"], target):
            return row["carry"], row["idx"] + 1, row["pending"], Run(row["began"], bool(row["apart"]))
    return None, target, target, Run(target, target > 0 and not _are_sharp(connection, video_id, target, target + 1))


def _are_sharp(connection: sqlite3.Connection, video_id: str, first: int, end: int) -> bool:
    sql = "SELECT count(DISTINCT idx) AS n FROM segment WHERE video_id = ? AND rendition = 'enhanced' AND idx >= ? AND idx < ?"
    return bool(connection.execute(sql, (video_id, first, end)).fetchone()["n"] == end - first)


def _prefix(connection: sqlite3.Connection, video_id: str) -> int:
    prefix: int = connection.execute("SELECT enhanced_prefix FROM video WHERE id = ?", (video_id,)).fetchone()[0]
    return prefix


def _attempts(connection: sqlite3.Connection, video_id: str, index: int) -> int:
    row = connection.execute("SELECT attempts FROM enhancement WHERE video_id = ? AND idx = ?", (video_id, index)).fetchone()
    return 0 if row is None else int(row["attempts"])


def list_unfinished(connection: sqlite3.Connection) -> list[VideoView]:
    """Films on which there may be something to do although nobody watches, the oldest first."""
    rows = connection.execute(
        """SELECT id FROM video WHERE deleted_at_s IS NULL AND (
             EXISTS (SELECT 1 FROM enhancement WHERE video_id = id AND asked)
             OR enhance IN ('all', 'idle') AND (enhanced_prefix < chunks
               OR EXISTS (SELECT 1 FROM enhancement WHERE video_id = id AND state IN ('provisional', 'again'))))
           ORDER BY id"""
    )
    return [read_video(connection, row["id"]) for row in rows.fetchall()]


# ---------------------------------------------------------------- what is asked


def ask(connection: sqlite3.Connection, video_id: str, first: int, end: int | None, enhancer: str | None) -> LogEntry:
    """Make the chunks from `first` on, up to `end` (None = to the film's end), sharp; those that are stay as they are.

    Of the whole film, parts that were made apart are joined. What had failed is tried again. Raises `NotFound`.
    """
    sql = f"""INSERT INTO enhancement(video_id, idx, asked)
        SELECT video_id, idx, 1 FROM chunk WHERE video_id = ?1 AND idx >= ?2 AND idx < ?3
          AND (NOT {_IS_SHARP.format("chunk.idx")} OR ?4 AND EXISTS (SELECT 1 FROM enhancement AS made
               WHERE made.video_id = ?1 AND made.idx = chunk.idx AND state = 'again'))
        ON CONFLICT(video_id, idx) DO UPDATE SET asked = 1"""
    with transaction(connection):
        read_video(connection, video_id)
        connection.execute(sql, (video_id, first, sys.maxsize if end is None else end, end is None and first == 0))
        forget_failures(connection, video_id)
        set_columns(connection, video_id, {"enhancer": enhancer})
        return log_state(connection, video_id)


def set_policy(connection: sqlite3.Connection, video_id: str, enhancer: str | None, changes: dict[str, object]) -> LogEntry:
    """Change columns, `enhance` among them; none takes back what was asked for. Raises `NotFound`."""
    with transaction(connection):
        read_video(connection, video_id)
        if changes["enhance"] == "none":
            connection.execute("UPDATE enhancement SET asked = 0 WHERE video_id = ? AND asked", (video_id,))
        forget_failures(connection, video_id)
        set_columns(connection, video_id, {**changes, "enhancer": enhancer})
        return log_state(connection, video_id)


def forget_failures(connection: sqlite3.Connection, video_id: str) -> None:
    """What failed is tried again; inside a transaction."""
    connection.execute("UPDATE enhancement SET attempts = 0 WHERE video_id = ? AND attempts > 0", (video_id,))
    set_columns(connection, video_id, {"enhance_error": None})


def count_failure(connection: sqlite3.Connection, video_id: str, index: int, words: str, attempts: int) -> LogEntry | None:
    """So many more attempts failed at this chunk; returns the state that says so when there will be no more. `NotFound`."""
    with transaction(connection):
        read_video(connection, video_id)
        connection.execute(
            """INSERT INTO enhancement(video_id, idx, attempts)
               SELECT video_id, idx, ?3 FROM chunk WHERE video_id = ?1 AND idx = ?2
               ON CONFLICT(video_id, idx) DO UPDATE SET attempts = attempts + ?3""",
            (video_id, index, attempts),
        )
        if _attempts(connection, video_id, index) < MAX_ATTEMPTS:
            return None
        set_columns(connection, video_id, {"enhance_error": words})
        return log_state(connection, video_id)


# ---------------------------------------------------------------- what was done


def insert_sharp(connection: sqlite3.Connection, video_id: str, record: SharpRecord) -> SharpCommit:
    """The acknowledgement, in one transaction: blobs, segments, log, enhancement rows, the carry.

    Raises `Conflict` where a chunk that the enhancer had seen is no longer the film's.
    """
    with transaction(connection):
        _check_fence(connection, video_id, record.work)
        view = read_video(connection, video_id)
        added_bytes = bytes_new_to(connection, video_id, record.blobs)
        keep_blobs(connection, record.blobs)
        entries = [_insert_segment(connection, video_id, each) for each in record.sharp]
        for each in record.sharp:
            _set_state(connection, video_id, each, record.work)
        dropped = set[str]() if record.carry is None else _put_carry(connection, video_id, record)
        added_bytes -= _bytes_dropped(connection, video_id, dropped)
        mark_gone(connection, dropped)
        first = sum(entry.segment.frames for entry in entries if entry and entry.segment and entry.segment.revision == 0)
        _count(connection, video_id, first, added_bytes)
        if view.enhance_error is not None:
            set_columns(connection, video_id, {"enhance_error": None})
        view = read_video(connection, video_id)
    done = tuple(entry for entry in entries if entry is not None)
    return SharpCommit(done, view.enhanced_frames, view.enhanced_prefix_frames, added_bytes)


def _check_fence(connection: sqlite3.Connection, video_id: str, work: NextWork) -> None:
    """No chunk that it has seen was taken out since, and the film was not deleted."""
    sql = """SELECT 1 FROM chunk JOIN video ON id = video_id
             WHERE video_id = ? AND idx = ? AND frames_sha256 = ? AND deleted_at_s IS NULL"""
    is_there = connection.execute(sql, (video_id, work.index, work.sha256)).fetchone() is not None
    sql = "SELECT min(idx) FROM log WHERE video_id = ? AND seq > ? AND kind = 'reset'"
    reset: int | None = connection.execute(sql, (video_id, work.seq)).fetchone()[0]
    if not is_there or (reset is not None and reset <= work.index):
        received = f"one that was made with chunk {work.index} as it was"
        raise Conflict(f"{video_id} does not take this sharp chunk", expected="chunks as they are now", received=received)


def _insert_segment(connection: sqlite3.Connection, video_id: str, each: SharpSegment) -> LogEntry | None:
    """The next revision; None where it came out as the newest one that is there."""
    segment = each.segment
    row = connection.execute(
        """SELECT revision, hash, init FROM segment WHERE video_id = ? AND idx = ? AND rendition = 'enhanced'
           ORDER BY revision DESC LIMIT 1""",
        (video_id, segment.index),
    ).fetchone()
    if row is not None and (row["hash"], row["init"]) == (segment.hash, segment.init):
        return None
    seq, revised = next_seq(connection, video_id), replace(segment, revision=0 if row is None else row["revision"] + 1)
    insert_segment(connection, video_id, seq, revised)
    log_row(connection, video_id, seq, "segment", segment.index)
    return LogEntry(seq, "segment", segment.index, segment=revised)


def _set_state(connection: sqlite3.Connection, video_id: str, each: SharpSegment, work: NextWork) -> None:
    state = "again" if work.run.apart else "provisional" if each.is_provisional else "done"
    connection.execute(
        """INSERT INTO enhancement(video_id, idx, state, seen) VALUES (?1, ?2, ?3, ?4)
           ON CONFLICT(video_id, idx) DO UPDATE SET state = ?3, seen = ?4, asked = 0, attempts = 0""",
        (video_id, each.segment.index, state, work.index),
    )


def _put_carry(connection: sqlite3.Connection, video_id: str, record: SharpRecord) -> set[str]:
    """The carry in its row; returns the blobs of carries that are kept no longer."""
    assert record.carry is not None
    seen, run = record.work.index, record.work.run
    dropped = _drop_carries(connection, video_id, [seen])
    connection.execute(
        """INSERT INTO enhancement(video_id, idx, carry, pending, began, apart) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
           ON CONFLICT(video_id, idx) DO UPDATE SET carry = ?3, pending = ?4, began = ?5, apart = ?6""",
        (video_id, seen, record.carry, record.pending, run.began, run.apart),
    )
    insert_carry_parts(connection, video_id, seen, record.carry)
    sql = "SELECT idx, began FROM enhancement WHERE video_id = ? AND carry IS NOT NULL AND idx < ?"
    rows = connection.execute(sql, (video_id, seen)).fetchall()
    passed = [row["idx"] for row in rows if row["began"] > run.began]
    older = [row["idx"] for row in rows if row["began"] == run.began and not is_kept(row["idx"], seen)]
    return dropped | _drop_carries(connection, video_id, [*passed, *older])


def insert_carry_parts(connection: sqlite3.Connection, video_id: str, index: int, carry: str) -> None:
    """Which blobs a carry names; inside a transaction."""
    rows = [(video_id, index, _NAME + name, sha256) for name, sha256 in json.loads(carry)["parts"].items()]
    connection.executemany("INSERT INTO part(video_id, idx, name, sha256) VALUES (?, ?, ?, ?)", rows)


def _drop_carries(connection: sqlite3.Connection, video_id: str, indices: Iterable[int]) -> set[str]:
    dropped = set[str]()
    for index in indices:
        sql = f"DELETE FROM part WHERE video_id = ? AND idx = ? AND name GLOB '{_NAME}*' RETURNING sha256"
        dropped |= {row["sha256"] for row in connection.execute(sql, (video_id, index)).fetchall()}
        connection.execute("UPDATE enhancement SET carry = NULL WHERE video_id = ? AND idx = ?", (video_id, index))
    return dropped


def _bytes_dropped(connection: sqlite3.Connection, video_id: str, hashes: set[str]) -> int:
    """Bytes of those that the film refers to no longer."""
    sizes = "SELECT sha256, size_bytes FROM blob WHERE sha256 = ?"
    rows = [row for sha256 in hashes for row in connection.execute(sizes, (sha256,)).fetchall()]
    return sum(row["size_bytes"] for row in rows if is_new_to(connection, video_id, row["sha256"]))


def drop_carry(connection: sqlite3.Connection, video_id: str, carry: str) -> None:
    """Forget one that cannot be gone on with: damaged, or another enhancer's."""
    with transaction(connection):
        sql = "SELECT idx FROM enhancement WHERE video_id = ? AND carry = ?"
        rows = connection.execute(sql, (video_id, carry)).fetchall()
        dropped = _drop_carries(connection, video_id, [row["idx"] for row in rows])
        _count(connection, video_id, 0, -_bytes_dropped(connection, video_id, dropped))
        mark_gone(connection, dropped)


def _count(connection: sqlite3.Connection, video_id: str, added_frames: int, added_bytes: int) -> None:
    prefix = _prefix(connection, video_id)
    while _are_sharp(connection, video_id, prefix, prefix + 1):
        prefix += 1
    connection.execute(
        """UPDATE video SET enhanced_prefix = ?2, enhanced_frames = enhanced_frames + ?3, size_bytes = size_bytes + ?4
           WHERE id = ?1""",
        (video_id, prefix, added_frames, added_bytes),
    )


# ---------------------------------------------------------------- rows that travel


def line_of(connection: sqlite3.Connection, video_id: str, index: int) -> dict[str, Any]:
    """What the copy of a film says of a sharp chunk besides its segment: its state, and the carry after the call it came of."""
    sql = "SELECT state, seen FROM enhancement WHERE video_id = ? AND idx = ? AND state IS NOT NULL"
    made = connection.execute(sql, (video_id, index)).fetchone()
    if made is None:
        return {}
    sql = "SELECT carry, pending, began, apart FROM enhancement WHERE video_id = ? AND idx = ? AND carry IS NOT NULL"
    carry = connection.execute(sql, (video_id, made["seen"])).fetchone()
    return {"enhancement": {**dict(made), "after": None if carry is None else dict(carry)}}


def insert_line(connection: sqlite3.Connection, video_id: str, index: int, said: Mapping[str, Any]) -> None:
    """The rows from what `line_of` gave; the chunks and the blobs of the carry are there. Inside a transaction."""
    values = video_id, index, said["state"], said["seen"]
    connection.execute(
        """INSERT INTO enhancement(video_id, idx, state, seen) VALUES (?1, ?2, ?3, ?4)
           ON CONFLICT(video_id, idx) DO UPDATE SET state = ?3, seen = ?4""",
        values,
    )
    after, seen = said["after"], said["seen"]
    if after is not None:
        _drop_carries(connection, video_id, [seen])
        connection.execute(
            """INSERT INTO enhancement(video_id, idx, carry, pending, began, apart) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
               ON CONFLICT(video_id, idx) DO UPDATE SET carry = ?3, pending = ?4, began = ?5, apart = ?6""",
            (video_id, seen, *(after[name] for name in ("carry", "pending", "began", "apart"))),
        )
        insert_carry_parts(connection, video_id, seen, after["carry"])
