"""Rows of videos, and their views. Every function runs on the store's thread with its connection."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, Literal

from st2v_stream.chunk import StreamSpec
from st2v_stream.direction import Cue, Direction, Timeline
from st2v_stream.errors import Conflict, NotFound
from st2v_stream.store.blobs import Blob
from st2v_stream.store.database import transaction
from st2v_stream.types import LogEntry, VideoState, VideoView

Order = Literal["asc", "desc"]

_SELECT = "SELECT video.*, config.json AS config_json FROM video JOIN config ON config.hash = video.config"
_CHANGEABLE = frozenset({"state", "ended_by", "error", "paused_reason", "completed_at_s", "num_frames", "title"})


def insert_video(
    connection: sqlite3.Connection, view: VideoView, config: Mapping[str, Any], reference: Blob | None = None
) -> LogEntry:
    """A new video (its direction is chunk 0's) and the first entry of its log; `reference`: written already."""
    assert view.direction is not None, "a new video has a direction"
    config_json = json.dumps({**config, "model": view.model, "spec": asdict(view.spec)}, sort_keys=True)
    config_hash = hashlib.sha256(config_json.encode()).hexdigest()
    fields = {
        "id": view.id,
        "config": config_hash,
        "created_at_s": view.created_at_s,
        "title": view.title,
        "first": json.dumps(view.direction.to_json()),
        "num_frames": view.num_frames,
        "state": view.state,
        "warnings": json.dumps(view.warnings),
        "parent_id": view.parent_id,
        "fork_index": view.fork_index,
        "reference": None if reference is None else reference.sha256,
    }
    with transaction(connection):
        connection.execute("INSERT OR IGNORE INTO config VALUES (?, ?, ?)", (config_hash, config_json, view.created_at_s))
        if reference is not None:
            row = reference.sha256, reference.kind, len(reference.data), view.created_at_s
            connection.execute("INSERT OR IGNORE INTO blob VALUES (?, ?, ?, ?)", row)
        connection.execute(
            f"INSERT INTO video({', '.join(fields)}) VALUES ({', '.join('?' * len(fields))})", tuple(fields.values())
        )
        return log_state(connection, view.id)


def change_video(
    connection: sqlite3.Connection, video_id: str, allowed: Collection[VideoState], changes: Mapping[str, Any]
) -> LogEntry:
    """Set these columns and log the state it is then in. Raises `NotFound`, `Conflict` if it is in no allowed state."""
    unknown = set(changes) - _CHANGEABLE
    assert not unknown, f"no such columns: {unknown}"
    with transaction(connection):
        state = read_video(connection, video_id).state
        if state not in allowed:
            raise Conflict(f"{video_id} is {state}", expected="one of " + ", ".join(sorted(allowed)), received=state)
        assignments = ", ".join(f"{name} = ?" for name in changes)
        connection.execute(f"UPDATE video SET {assignments} WHERE id = ?", (*changes.values(), video_id))
        return log_state(connection, video_id)


def begin_run(connection: sqlite3.Connection, video_id: str) -> int:
    """The epoch of a new run: from now on chunks of earlier runs are refused. Raises `NotFound`."""
    sql = "UPDATE video SET epoch = epoch + 1 WHERE id = ? RETURNING epoch"
    row = connection.execute(sql, (video_id,)).fetchall()
    if not row:
        raise _no_such(video_id)
    return int(row[0]["epoch"])


def read_video(connection: sqlite3.Connection, video_id: str) -> VideoView:
    """The video as it is. Raises `NotFound`."""
    row = connection.execute(f"{_SELECT} WHERE id = ?", (video_id,)).fetchone()
    if row is None:
        raise _no_such(video_id)
    return _view_of(row)


def read_model_version(connection: sqlite3.Connection, video_id: str) -> str | None:
    """The version of the model it was begun with, None where that was not written down. Raises `NotFound`."""
    row = connection.execute(f"{_SELECT} WHERE id = ?", (video_id,)).fetchone()
    if row is None:
        raise _no_such(video_id)
    version: str | None = json.loads(row["config_json"]).get("model_version")
    return version


def read_reference(connection: sqlite3.Connection, video_id: str) -> str | None:
    """sha256 of what it starts from besides the prompt, None for most. Raises `NotFound`."""
    row = connection.execute("SELECT reference FROM video WHERE id = ?", (video_id,)).fetchone()
    if row is None:
        raise _no_such(video_id)
    sha256: str | None = row["reference"]
    return sha256


def read_timeline(connection: sqlite3.Connection, video_id: str) -> Timeline:
    """Its directions: the first one and the cues in the order they were given. Raises `NotFound`."""
    row = connection.execute("SELECT first FROM video WHERE id = ?", (video_id,)).fetchone()
    if row is None:
        raise _no_such(video_id)
    rows = connection.execute("SELECT idx, changes FROM cue WHERE video_id = ? ORDER BY number", (video_id,))
    cues = [{"index": cue["idx"], "changes": json.loads(cue["changes"])} for cue in rows]
    return Timeline.from_json({"first": json.loads(row["first"]), "cues": cues})


def insert_cue(connection: sqlite3.Connection, video_id: str, cue: Cue) -> LogEntry:
    """One more cue and its entry in the log. Raises `NotFound`."""
    with transaction(connection):
        seq = next_seq(connection, video_id)
        sql = "INSERT INTO cue SELECT ?, coalesce(max(number) + 1, 0), ?, ? FROM cue WHERE video_id = ?"
        connection.execute(sql, (video_id, cue.index, json.dumps(dict(cue.changes)), video_id))
        connection.execute("INSERT INTO log VALUES (?, ?, 'cue', ?, NULL)", (video_id, seq, cue.index))
    return LogEntry(seq, "cue", cue.index)


def list_videos(connection: sqlite3.Connection, after: str | None, limit: int, order: Order) -> tuple[list[VideoView], bool]:
    """One page and whether there are more. Ids sort by time of creation."""
    comparison, direction = (">", "ASC") if order == "asc" else ("<", "DESC")
    where, values = ("", ()) if after is None else (f"WHERE id {comparison} ?", (after,))
    rows = connection.execute(f"{_SELECT} {where} ORDER BY id {direction} LIMIT ?", (*values, limit + 1)).fetchall()
    return [_view_of(row) for row in rows[:limit]], len(rows) > limit


def list_in_states(connection: sqlite3.Connection, states: tuple[VideoState, ...]) -> list[VideoView]:
    """Videos in one of these states, the oldest first."""
    marks = ", ".join("?" * len(states))
    return [_view_of(row) for row in connection.execute(f"{_SELECT} WHERE state IN ({marks}) ORDER BY id", states)]


def delete_rows(connection: sqlite3.Connection, video_id: str) -> list[str]:
    """Forget the video; returns the sha256 of the blobs that no row refers to any more. Raises `NotFound`."""
    with transaction(connection):
        if connection.execute("DELETE FROM video WHERE id = ?", (video_id,)).rowcount == 0:
            raise _no_such(video_id)
        return forget_unreferenced(connection)


def forget_unreferenced(connection: sqlite3.Connection) -> list[str]:
    """Take out the rows of blobs that no segment, memory or video names; returns their sha256."""
    rows = connection.execute(
        """DELETE FROM blob WHERE sha256 NOT IN (
             SELECT hash FROM segment UNION SELECT init FROM segment
             UNION SELECT reference FROM video WHERE reference IS NOT NULL
             UNION SELECT part.value FROM chunk, json_each(chunk.memory, '$.parts') AS part)
           RETURNING sha256"""
    ).fetchall()
    return [row["sha256"] for row in rows]


def next_seq(connection: sqlite3.Connection, video_id: str) -> int:
    """Count one more entry of the video's log; inside a transaction. Raises `NotFound`."""
    rows = connection.execute("UPDATE video SET seq = seq + 1 WHERE id = ? RETURNING seq", (video_id,)).fetchall()
    if not rows:
        raise _no_such(video_id)
    return int(rows[0]["seq"])


def log_state(connection: sqlite3.Connection, video_id: str) -> LogEntry:
    """Log the state the video is in; inside a transaction. Raises `NotFound`."""
    seq = next_seq(connection, video_id)
    view = read_video(connection, video_id)
    text = json.dumps(asdict(view))
    connection.execute("INSERT INTO log VALUES (?, ?, 'state', ?, ?)", (video_id, seq, view.chunks, text))
    return LogEntry(seq, "state", view.chunks, view=view)


def view_from_json(text: str) -> VideoView:
    """A view as `log_state` wrote it."""
    fields = json.loads(text)
    direction = fields["direction"]
    return VideoView(
        **{
            **fields,
            "spec": StreamSpec(**fields["spec"]),
            "direction": None if direction is None else Direction.from_json(direction),
            "warnings": tuple(fields["warnings"]),
        }
    )


def now_s() -> int:
    """Wall-clock seconds, for people; nothing is ordered by it."""
    return int(time.time())


def _view_of(row: sqlite3.Row) -> VideoView:
    config = json.loads(row["config_json"])
    direction = Direction.from_json(json.loads(row["first"]))
    return VideoView(
        id=row["id"],
        state=row["state"],
        title=row["title"],
        model=config["model"],
        preset=direction.preset,
        seed=direction.seed,
        prompt=direction.prompt,
        spec=StreamSpec(**config["spec"]),
        created_at_s=row["created_at_s"],
        num_frames=row["num_frames"],
        frames=row["frames"],
        chunks=row["chunks"],
        seq=row["seq"],
        ended_by=row["ended_by"],
        error=row["error"],
        paused_reason=row["paused_reason"],
        completed_at_s=row["completed_at_s"],
        direction=direction,
        warnings=tuple(json.loads(row["warnings"])),
        parent_id=row["parent_id"],
        fork_index=row["fork_index"],
        enhanced_frames=row["enhanced_frames"],
        size_bytes=row["size_bytes"],
    )


def _no_such(video_id: str) -> NotFound:
    return NotFound("no such video", expected="the id of a video", received=video_id, param="video_id")
