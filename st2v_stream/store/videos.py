"""Rows of videos, and their views. Every function runs on the store's thread with its connection."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from st2v_stream.chunk import StreamSpec
from st2v_stream.direction import Cue, Direction, Timeline
from st2v_stream.errors import Conflict, NotFound
from st2v_stream.store.blobs import Blob
from st2v_stream.store.database import transaction
from st2v_stream.types import LogEntry, VideoState, VideoView

Order = Literal["asc", "desc"]

_SELECT = """SELECT video.*, config.json AS config_json,
    (SELECT json FROM cue WHERE cue.video_id = video.id AND dropped_at_seq IS NULL AND idx <= fork_index
       AND json_extract(json, '$.changes.prompts') IS NOT NULL ORDER BY idx DESC, number DESC LIMIT 1) AS own_cue
    FROM video JOIN config ON config.hash = video.config"""
"""own_cue: of a branch the newest change of the prompt at or before its first own chunk."""
_CHANGEABLE = frozenset(
    {
        "state",
        "ended_by",
        "error",
        "paused_reason",
        "completed_at_s",
        "num_frames",
        "fork_index",
        "title",
        "when_unwatched",
        "warnings",
    }
    | {"enhance", "enhancer", "enhance_error"}
)
_FINAL: frozenset[VideoState] = frozenset({"stopped", "completed", "failed"})


def insert_video(
    connection: sqlite3.Connection,
    view: VideoView,
    config: Mapping[str, Any],
    reference: Blob | None = None,
    cues: Sequence[Cue] = (),
) -> LogEntry:
    """A new video (its direction is chunk 0's), its cues, and the first entries of its log; `reference`: written already."""
    with transaction(connection):
        if reference is not None:
            keep_blobs(connection, [reference])
        sha256 = None if reference is None else reference.sha256
        insert_row(connection, view, insert_config(connection, config_of(view, config)), sha256)
        add_cues(connection, view.id, cues)
        refresh_size(connection, view.id)
        return log_state(connection, view.id)


def config_of(view: VideoView, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Everything that can change a pixel of a film and is not in its Direction."""
    return {**config, "model": view.model, "spec": asdict(view.spec)}


def insert_config(connection: sqlite3.Connection, config: Mapping[str, Any]) -> str:
    """Its hash; the row is there from now on. Inside a transaction."""
    text = json.dumps(config, sort_keys=True)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    connection.execute("INSERT OR IGNORE INTO config VALUES (?, ?, ?)", (sha256, text, now_s()))
    return sha256


def insert_row(connection: sqlite3.Connection, view: VideoView, config: str, reference: str | None) -> None:
    """The video's row alone; inside a transaction. config: the hash of one that is there."""
    assert view.direction is not None, "a new video has a direction"
    values = {
        "id": view.id,
        "config": config,
        "created_at_s": view.created_at_s,
        "completed_at_s": view.completed_at_s,
        "title": view.title,
        "first": json.dumps(view.direction.to_json()),
        "num_frames": view.num_frames,
        "state": view.state,
        "ended_by": view.ended_by,
        "error": view.error,
        "warnings": json.dumps(view.warnings),
        "parent_id": view.parent_id,
        "fork_index": view.fork_index,
        "reference": reference,
        "when_unwatched": view.when_unwatched,
        "enhance": view.enhance,
        "enhancer": view.enhancer,
        "enhance_error": view.enhance_error,
    }
    columns, marks = ", ".join(values), ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO video({columns}) VALUES ({marks})", tuple(values.values()))


def keep_blobs(connection: sqlite3.Connection, blobs: Iterable[Blob]) -> None:
    """Rows for blobs that are on the disk and will be referred to; inside a transaction."""
    connection.executemany(
        """INSERT INTO blob(sha256, kind, size_bytes, created_at_s) VALUES (?, ?, ?, ?)
           ON CONFLICT(sha256) DO UPDATE SET gone_at_s = NULL WHERE gone_at_s IS NOT NULL""",
        [(blob.sha256, blob.kind, len(blob.data), now_s()) for blob in blobs],
    )


def change_video(
    connection: sqlite3.Connection, video_id: str, allowed: Collection[VideoState] | None, changes: Mapping[str, Any]
) -> LogEntry:
    """Set these columns and log the state it is then in.

    allowed: the states it may be in, None = any. Raises `NotFound`, `Conflict`.
    """
    with transaction(connection):
        check_state(connection, video_id, allowed)
        set_columns(connection, video_id, changes)
        return log_state(connection, video_id)


def check_state(connection: sqlite3.Connection, video_id: str, allowed: Collection[VideoState] | None) -> VideoView:
    """The video, if it is in one of these states (None = any). Raises `NotFound`, `Conflict`."""
    view = read_video(connection, video_id)
    if allowed is not None and view.state not in allowed:
        raise Conflict(f"{video_id} is {view.state}", expected="one of " + ", ".join(sorted(allowed)), received=view.state)
    return view


def set_columns(connection: sqlite3.Connection, video_id: str, changes: Mapping[str, Any]) -> None:
    """Set columns of a video's row; inside a transaction."""
    unknown = set(changes) - _CHANGEABLE
    assert not unknown, f"no such columns: {unknown}"
    assignments = ", ".join(f"{name} = ?" for name in changes)
    values = [json.dumps(value) if name == "warnings" else value for name, value in changes.items()]
    if changes:
        connection.execute(f"UPDATE video SET {assignments} WHERE id = ?", (*values, video_id))


def begin_run(connection: sqlite3.Connection, video_id: str) -> int:
    """The epoch of a new run: from now on chunks of earlier runs are refused. Raises `NotFound`."""
    sql = "UPDATE video SET epoch = epoch + 1 WHERE id = ? AND deleted_at_s IS NULL RETURNING epoch"
    row = connection.execute(sql, (video_id,)).fetchall()
    if not row:
        raise _no_such(video_id)
    return int(row[0]["epoch"])


def read_video(connection: sqlite3.Connection, video_id: str) -> VideoView:
    """The video as it is. Raises `NotFound`, also for one that was deleted."""
    return _view_of(_row(connection, video_id))


def read_config(connection: sqlite3.Connection, video_id: str) -> dict[str, Any]:
    """What it was begun with and what can change a pixel: model, model_version, spec and more. Raises `NotFound`."""
    config: dict[str, Any] = json.loads(_row(connection, video_id)["config_json"])
    return config


def read_reference(connection: sqlite3.Connection, video_id: str) -> str | None:
    """sha256 of what it starts from besides the prompt, None for most. Raises `NotFound`."""
    sha256: str | None = _row(connection, video_id)["reference"]
    return sha256


def read_timeline(connection: sqlite3.Connection, video_id: str) -> Timeline:
    """Its directions: the first one and the cues in the order they were given. Raises `NotFound`."""
    first = json.loads(_row(connection, video_id)["first"])
    return Timeline(Direction.from_json(first), tuple(cue for _, cue in _live_cues(connection, video_id)))


def insert_cues(connection: sqlite3.Connection, video_id: str, cues: Sequence[Cue]) -> list[LogEntry]:
    """More cues and their entries in the log, all or none. Raises `NotFound`."""
    with transaction(connection):
        read_video(connection, video_id)
        return add_cues(connection, video_id, cues)


def add_cues(connection: sqlite3.Connection, video_id: str, cues: Sequence[Cue]) -> list[LogEntry]:
    """Cue rows and log entries; inside a transaction."""
    entries = []
    for cue in cues:
        seq = next_seq(connection, video_id)
        sql = """INSERT INTO cue(video_id, number, idx, json)
                 SELECT ?1, coalesce(max(number) + 1, 0), ?2, ?3 FROM cue WHERE video_id = ?1 RETURNING number"""
        rows = connection.execute(sql, (video_id, cue.index, json.dumps(cue.to_json()))).fetchall()
        values = video_id, seq, cue.index, rows[0]["number"]
        connection.execute("INSERT INTO log(video_id, seq, kind, idx, cue) VALUES (?, ?, 'cue', ?, ?)", values)
        entries.append(LogEntry(seq, "cue", cue.index, cue=cue))
    return entries


def take_back_cue(connection: sqlite3.Connection, video_id: str, seq: int, soonest: int) -> LogEntry:
    """The cue whose log entry is `seq` leaves the timeline; returns the entry that says so.

    soonest: the first chunk that is not begun. Raises `NotFound`, `Conflict` for a cue that has taken effect.
    """
    with transaction(connection):
        live = dict(read_cues(connection, video_id))
        if seq not in live:
            known = ", ".join(map(str, live)) or "none: the film has no cues"
            raise NotFound("no such cue", expected=f"the seq of a cue of {video_id} ({known})", received=seq, param="seq")
        cue, sql = live[seq], "UPDATE cue SET dropped_at_seq = ? WHERE video_id = ? AND number = ?"
        if cue.index < soonest:
            expected = f"a cue from chunk {soonest} on"
            raise Conflict(f"chunk {cue.index} is made or being made: its cue holds", expected=expected, received=cue.index)
        taken_at, number = next_seq(connection, video_id), _number_of(connection, video_id, seq)
        connection.execute(sql, (taken_at, video_id, number))
        values = video_id, taken_at, cue.index, number
        connection.execute("INSERT INTO log(video_id, seq, kind, idx, cue) VALUES (?, ?, 'cue', ?, ?)", values)
        return LogEntry(taken_at, "cue", cue.index, taken_back=seq)


def read_cues(connection: sqlite3.Connection, video_id: str) -> list[tuple[int, Cue]]:
    """The cues that hold, each with the seq of its log entry, in the order they were given. Raises `NotFound`."""
    _row(connection, video_id)
    sql = """SELECT min(log.seq) AS seq, json FROM cue JOIN log ON log.video_id = cue.video_id AND log.cue = cue.number
             WHERE cue.video_id = ? AND dropped_at_seq IS NULL GROUP BY number ORDER BY number"""
    return [(row["seq"], Cue.from_json(json.loads(row["json"]))) for row in connection.execute(sql, (video_id,))]


def _number_of(connection: sqlite3.Connection, video_id: str, seq: int) -> int:
    row = connection.execute("SELECT cue FROM log WHERE video_id = ? AND seq = ?", (video_id, seq)).fetchone()
    return int(row["cue"])


def replace_timeline(connection: sqlite3.Connection, video_id: str, timeline: Timeline, seq: int) -> list[LogEntry]:
    """From now on these are its directions; inside a transaction. seq: of the reset that says so.

    Cues that are in both stay, those it lacks leave the timeline, new ones are added and logged.
    """
    new = list(timeline.cues)
    for number, cue in _live_cues(connection, video_id):
        if new and cue == new[0]:
            new.pop(0)
        else:
            sql = "UPDATE cue SET dropped_at_seq = ? WHERE video_id = ? AND number = ?"
            connection.execute(sql, (seq, video_id, number))
    connection.execute("UPDATE video SET first = ? WHERE id = ?", (json.dumps(timeline.first.to_json()), video_id))
    return add_cues(connection, video_id, new)


def _live_cues(connection: sqlite3.Connection, video_id: str) -> list[tuple[int, Cue]]:
    sql = "SELECT number, json FROM cue WHERE video_id = ? AND dropped_at_seq IS NULL ORDER BY number"
    return [(row["number"], Cue.from_json(json.loads(row["json"]))) for row in connection.execute(sql, (video_id,))]


def list_videos(
    connection: sqlite3.Connection, after: str | None, limit: int, order: Order, search: str = ""
) -> tuple[list[VideoView], bool]:
    """One page and whether there are more. Ids sort by time of creation.

    search: words that the title, a prompt of the film or its id must contain, each of them, whatever their case.
    """
    comparison, direction = (">", "ASC") if order == "asc" else ("<", "DESC")
    conditions, values = ["deleted_at_s IS NULL"], list[object]()
    if after is not None:
        conditions.append(f"id {comparison} ?")
        values.append(after)
    for word in search.split():
        conditions.append(_CONTAINS)
        values += [_pattern(word)] * _CONTAINS.count("?")
    sql = f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY id {direction} LIMIT ?"
    rows = connection.execute(sql, (*values, limit + 1)).fetchall()
    return [_view_of(row) for row in rows[:limit]], len(rows) > limit


_CONTAINS = r"""(title LIKE ? ESCAPE '\' OR id LIKE ? ESCAPE '\'
    OR EXISTS (SELECT 1 FROM json_each(video.first, '$.prompts') AS prompt
               WHERE json_extract(prompt.value, '$[0]') LIKE ? ESCAPE '\')
    OR EXISTS (SELECT 1 FROM cue, json_each(cue.json, '$.changes.prompts') AS prompt
               WHERE cue.video_id = video.id AND dropped_at_seq IS NULL
                 AND json_extract(prompt.value, '$[0]') LIKE ? ESCAPE '\'))"""


def _pattern(word: str) -> str:
    for special in ("\\", "%", "_"):
        word = word.replace(special, "\\" + special)
    return f"%{word}%"


def list_deleted(connection: sqlite3.Connection, since_s: int) -> list[tuple[VideoView, int]]:
    """Videos deleted after `since_s` (Unix seconds) and when, the newest deletion first."""
    sql = f"{_SELECT} WHERE deleted_at_s > ? ORDER BY deleted_at_s DESC, id DESC"
    return [(_view_of(row), int(row["deleted_at_s"])) for row in connection.execute(sql, (since_s,))]


def list_in_states(connection: sqlite3.Connection, states: tuple[VideoState, ...]) -> list[VideoView]:
    """Videos in one of these states, the oldest first."""
    marks = ", ".join("?" * len(states))
    rows = connection.execute(f"{_SELECT} WHERE state IN ({marks}) AND deleted_at_s IS NULL ORDER BY id", states)
    return [_view_of(row) for row in rows]


def delete_video(connection: sqlite3.Connection, video_id: str) -> None:
    """Hide it: from now on it is not found; its rows and blobs stay until `sweep.forget_deleted`. Raises `NotFound`.

    Its epoch is raised, so that a run that goes on by mistake writes nothing.
    """
    sql = "UPDATE video SET deleted_at_s = ?, epoch = epoch + 1 WHERE id = ? AND deleted_at_s IS NULL"
    if connection.execute(sql, (now_s(), video_id)).rowcount == 0:
        raise _no_such(video_id)


def undelete_video(connection: sqlite3.Connection, video_id: str) -> LogEntry:
    """Show a deleted video again; one that was being made is stopped then. Raises `NotFound` once it is forgotten."""
    with transaction(connection):
        sql = "UPDATE video SET deleted_at_s = NULL WHERE id = ? AND deleted_at_s IS NOT NULL"
        if connection.execute(sql, (video_id,)).rowcount == 0:
            raise NotFound("no deleted video", expected="one deleted a short while ago", received=video_id, param="video_id")
        if read_video(connection, video_id).state not in _FINAL:
            changes = {"state": "stopped", "ended_by": "stopped", "completed_at_s": now_s(), "paused_reason": None}
            set_columns(connection, video_id, changes)
        return log_state(connection, video_id)


def refresh_size(connection: sqlite3.Connection, video_id: str) -> None:
    """Count again the bytes of the blobs that the film refers to, each once; inside a transaction."""
    connection.execute(f"UPDATE video SET size_bytes = {_FILM_BYTES} WHERE id = ?1", (video_id,))


def read_own_bytes(connection: sqlite3.Connection, video_id: str) -> int:
    """Bytes of the blobs that no other film refers to: what forgetting this one frees. Raises `NotFound`."""
    read_video(connection, video_id)
    rows = connection.execute(
        f"""SELECT coalesce(sum(size_bytes), 0) AS own FROM blob WHERE sha256 IN ({_FILM_BLOBS})
              AND NOT EXISTS (SELECT 1 FROM segment WHERE hash = sha256 AND video_id != ?1)
              AND NOT EXISTS (SELECT 1 FROM segment WHERE init = sha256 AND video_id != ?1)
              AND NOT EXISTS (SELECT 1 FROM part WHERE part.sha256 = blob.sha256 AND video_id != ?1)
              AND NOT EXISTS (SELECT 1 FROM video WHERE reference = sha256 AND id != ?1)""",
        (video_id,),
    ).fetchall()
    return int(rows[0]["own"])


_FILM_BLOBS = """SELECT hash FROM segment WHERE video_id = ?1 UNION SELECT init FROM segment WHERE video_id = ?1
    UNION SELECT sha256 FROM part WHERE video_id = ?1 UNION SELECT reference FROM video WHERE id = ?1"""
_FILM_BYTES = f"(SELECT coalesce(sum(size_bytes), 0) FROM blob WHERE sha256 IN ({_FILM_BLOBS}))"


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
    values = video_id, seq, view.chunks, text
    connection.execute("INSERT INTO log(video_id, seq, kind, idx, view) VALUES (?, ?, 'state', ?, ?)", values)
    return LogEntry(seq, "state", view.chunks, view=view)


def view_from_json(text: str) -> VideoView:
    """A view as `log_state` wrote it."""
    values = json.loads(text)
    direction = values["direction"]
    return VideoView(
        **{
            **values,
            "spec": StreamSpec(**values["spec"]),
            "direction": None if direction is None else Direction.from_json(direction),
            "warnings": tuple(values["warnings"]),
        }
    )


def now_s() -> int:
    """Wall-clock seconds, for people; nothing is ordered by it."""
    return int(time.time())


def _view_of(row: sqlite3.Row) -> VideoView:
    config = json.loads(row["config_json"])
    spec, direction = StreamSpec(**config["spec"]), Direction.from_json(json.loads(row["first"]))
    return VideoView(
        id=row["id"],
        state=row["state"],
        title=row["title"],
        model=config["model"],
        preset=direction.preset,
        seed=direction.seed,
        prompt=direction.prompt if row["own_cue"] is None else _prompt_of(row["own_cue"]),
        spec=spec,
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
        when_unwatched=row["when_unwatched"],
        enhanced_prefix_frames=spec.start_of(row["enhanced_prefix"]),
        enhance=row["enhance"],
        enhancer=row["enhancer"],
        enhance_error=row["enhance_error"],
    )


def _prompt_of(cue: str) -> str:
    return Cue.from_json(json.loads(cue)).prompt or ""


def _row(connection: sqlite3.Connection, video_id: str) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(f"{_SELECT} WHERE id = ? AND deleted_at_s IS NULL", (video_id,)).fetchone()
    if row is None:
        raise _no_such(video_id)
    return row


def _no_such(video_id: str) -> NotFound:
    return NotFound("no such video", expected="the id of a video", received=video_id, param="video_id")
