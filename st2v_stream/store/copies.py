"""DATA/videos/<id>.jsonl: a copy of each committed row, one JSON line each, read only by `fsck --rebuild`.

The database is the truth: a copy is written after the commit, and one that fails is logged, no more. Lines are made from the
rows, from the first that the file does not have, so a gap (a crash between the commit and the copy, a full disk) is filled by
the next line, and at the latest by the next start.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from st2v_stream.store.enhancement import line_of
from st2v_stream.store.segments import read_log
from st2v_stream.types import LogEntry

logger = logging.getLogger(__name__)

_PAGE = 256
"""Lines written at once: a branch of a long film has thousands, and other films want to write in between."""
_TAIL_BYTES = 2**16


class Copies:
    """The files. Used on the store's thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._copied = dict[str, int]()

    def path(self, video_id: str) -> Path:
        """Where the rows of this video are copied to."""
        return self._folder / f"{video_id}.jsonl"

    def ids(self) -> set[str]:
        """The videos that have a copy."""
        return {path.stem for path in self._folder.glob("*.jsonl")}

    def begin(self, video_id: str) -> int:
        """seq of the newest row it has, 0 for none. Raises OSError."""
        self._copied[video_id] = self._prepare(video_id)
        return self._copied[video_id]

    def follow(self, connection: sqlite3.Connection, video_id: str) -> bool:
        """Append the rows that the file does not have yet, a page of them; whether there are more."""
        lines = 0
        try:
            seq = self._copied[video_id] if video_id in self._copied else self.begin(video_id)
            with self.path(video_id).open("a") as file:
                for line in lines_after(connection, video_id, seq):
                    file.write(json.dumps(line) + "\n")
                    seq, lines = line["seq"], lines + 1
            self._copied[video_id] = seq
        except (OSError, sqlite3.Error) as error:  # the rows are committed: whoever wrote them must not try again
            self._copied.pop(video_id, None)
            logger.warning("%s: its rows are not copied for now: %s", video_id, error)
            return False
        return lines == _PAGE

    def note(self, video_id: str, **line: Any) -> None:
        """Append something that is no row of the log."""
        try:
            with self.path(video_id).open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            logger.warning("%s: %s is not copied: %s", video_id, line, error)

    def remove(self, video_id: str) -> None:
        """The video is gone."""
        self._copied.pop(video_id, None)
        try:
            self.path(video_id).unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s stays on the disk: %s", self.path(video_id), error)

    def _prepare(self, video_id: str) -> int:
        """seq of the last line, after cutting off what a crash left half-written; 0 for a file to be begun anew."""
        path = self.path(video_id)
        if not path.exists():
            return 0
        with path.open("r+b") as file:
            if b'"config"' not in file.readline():  # written before copies held all that a rebuild needs
                file.truncate(0)
                return 0
            _cut_off_half_a_line(file.fileno())
        return last_seq(path)


def lines_after(connection: sqlite3.Connection, video_id: str, seq: int) -> Iterator[dict[str, Any]]:
    """A page of the rows after `seq`: the log entry, with a segment its chunk; with the first line what the video is."""
    more = _of_video(connection, video_id) if seq == 0 else {}
    for entry in read_log(connection, video_id, seq, _PAGE):
        yield _line(entry) | _of_chunk(connection, video_id, entry) | _of_reset(connection, video_id, entry) | more
        more = {}


def _line(entry: LogEntry) -> dict[str, Any]:
    line: dict[str, Any] = {"seq": entry.seq, "kind": entry.kind, "index": entry.index}
    for name, value in (("segment", entry.segment), ("view", entry.view)):
        if value is not None:
            line[name] = asdict(value)
    if entry.taken_back is not None:
        line["taken_back"] = entry.taken_back
    return line if entry.cue is None else {**line, "cue": entry.cue.to_json()}


def _of_video(connection: sqlite3.Connection, video_id: str) -> dict[str, Any]:
    sql = """SELECT config.json AS config, first, reference, parent_id, fork_index, video.created_at_s
             FROM video JOIN config ON config.hash = video.config WHERE id = ?"""
    row = connection.execute(sql, (video_id,)).fetchone()
    return {**dict(row), "config": json.loads(row["config"]), "first": json.loads(row["first"])} if row else {}


def _of_chunk(connection: sqlite3.Connection, video_id: str, entry: LogEntry) -> dict[str, Any]:
    if entry.segment is not None and entry.segment.rendition == "enhanced":
        return line_of(connection, video_id, entry.index)
    if entry.segment is None or entry.segment.revision != 0:
        return {}
    row = connection.execute(
        """SELECT epoch, frames_sha256, direction, memory, memory_digest, making_s, chunk.created_at_s, size_bytes,
             config.json AS made_with
           FROM chunk LEFT JOIN config ON config.hash = chunk.made_with WHERE video_id = ? AND idx = ?""",
        (video_id, entry.index),
    ).fetchone()
    return {"chunk": dict(row)} if row else {}


def _of_reset(connection: sqlite3.Connection, video_id: str, entry: LogEntry) -> dict[str, Any]:
    if entry.kind != "reset":
        return {}
    sql = "SELECT number FROM cue WHERE video_id = ? AND dropped_at_seq = ? ORDER BY number"
    return {"dropped": [row["number"] for row in connection.execute(sql, (video_id, entry.seq))]}


def _cut_off_half_a_line(file: int) -> None:
    end = os.fstat(file).st_size
    position = end
    while position > 0:
        begin = max(0, position - _TAIL_BYTES)
        newline = os.pread(file, position - begin, begin).rfind(b"\n")
        if newline >= 0:
            position = begin + newline + 1
            break
        position = begin
    if position < end:
        os.ftruncate(file, position)


def last_seq(path: Path) -> int:
    """seq of the newest row in a copy, 0 if it has none. Raises OSError."""
    seq = 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        for line in file.read().splitlines():
            try:
                seq = max(seq, int(json.loads(line).get("seq", 0)))
            except ValueError:  # the first one may begin before the part that was read
                continue
    return seq
