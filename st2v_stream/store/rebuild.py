"""The database made anew from DATA/videos/*.jsonl and the blobs. The old one is put aside, not removed."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from st2v_stream.errors import InvalidRequest
from st2v_stream.store.blobs import BlobFiles, sync_folder
from st2v_stream.store.copies import Copies
from st2v_stream.store.database import connect, transaction
from st2v_stream.store.directory import DataDirectory
from st2v_stream.store.enhancement import insert_line
from st2v_stream.store.memories import parts_of
from st2v_stream.store.migrations import migrate
from st2v_stream.store.trouble import store_errors
from st2v_stream.store.videos import insert_config, insert_row, now_s, refresh_size, view_from_json

_SEGMENT = ("hash", "init", "size_bytes", "codec", "start", "frames", "width", "height")


@dataclass
class _Film:
    """What the lines of one copy say, up to the newest."""

    video_id: str
    config: dict[str, Any] = field(default_factory=dict)
    reference: str | None = None
    view: dict[str, Any] | None = None
    deleted: bool = False
    seq: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    cues: list[dict[str, Any]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """What could not be brought back, in words."""

    def take(self, line: dict[str, Any]) -> None:
        if "deleted" in line:
            self.deleted = bool(line["deleted"])
            return
        if line["seq"] <= self.seq:
            return
        self.seq = line["seq"]
        if "config" in line:
            self.config, self.reference = line["config"], line["reference"]
        _TAKE[line["kind"]](self, line)

    def take_state(self, line: dict[str, Any]) -> None:
        self.view = line["view"]
        self.log.append(line)

    def take_cue(self, line: dict[str, Any]) -> None:
        if "taken_back" in line:
            (number,) = (entry["number"] for entry in self.log if entry["seq"] == line["taken_back"])
            self.cues[number]["dropped_at_seq"] = line["seq"]
            self.log.append({**line, "number": number})
            return
        self.log.append({**line, "number": len(self.cues)})
        self.cues.append({"cue": line["cue"], "dropped_at_seq": None})

    def take_reset(self, line: dict[str, Any]) -> None:
        self.log = [entry for entry in self.log if entry["kind"] != "segment" or entry["index"] < line["index"]]
        self.log.append(line)
        for entry in self.log:
            if "enhancement" in entry and entry["enhancement"]["seen"] >= line["index"]:  # it had a look at what is no more
                entry["enhancement"] |= {"state": "again", "after": None}
        for number in line.get("dropped", ()):
            self.cues[number]["dropped_at_seq"] = line["seq"]

    def take_segment(self, line: dict[str, Any]) -> None:
        self.log.append(line)

    def cut(self, is_whole: Callable[[str], bool]) -> None:
        """Without the chunks from the first on whose segment is lost, and without memories that are."""
        kept = 0
        for line in self.log:
            if line["kind"] == "segment" and "chunk" in line:
                if line["index"] != kept or not (is_whole(line["segment"]["hash"]) and is_whole(line["segment"]["init"])):
                    self.lost.append(f"chunk {kept} and what follows it")
                    break
                kept += 1
                memory = line["chunk"]["memory"]
                if memory is not None and not all(is_whole(sha256) for sha256 in parts_of(memory)):
                    line["chunk"]["memory"] = None  # thinned, mostly; it can be made again from an older one
        if self.lost_chunks(kept):
            self.take_reset({"seq": self.seq + 1, "kind": "reset", "index": kept})
            self.seq += 1
        self.log = [line for line in self.log if line["kind"] != "segment" or is_whole(line["segment"]["hash"])]
        for line in self.log:
            after = line.get("enhancement", {}).get("after")
            if after is not None and not all(is_whole(sha256) for sha256 in parts_of(after["carry"])):
                line["enhancement"]["after"] = None  # a newer one has taken its place, mostly
        if self.reference is not None and not is_whole(self.reference):
            self.lost.append("what it starts from")
            self.reference = None

    def lost_chunks(self, kept: int) -> bool:
        """Whether there are chunks beyond those."""
        return any(line["kind"] == "segment" and line["index"] >= kept for line in self.log)


_TAKE: Mapping[str, Callable[[_Film, dict[str, Any]], None]] = {
    "state": _Film.take_state,
    "cue": _Film.take_cue,
    "reset": _Film.take_reset,
    "segment": _Film.take_segment,
}


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Films that are in the new database; where the old one is, None if there was none; what could not be brought back."""

    films: int
    put_aside: Path | None
    lost: tuple[str, ...]


def rebuild(data_dir: Path) -> Rebuilt:
    """Make the database anew. Raises `StoreError` where there is no data directory, another st2v works on it, or it is full."""
    with closing(DataDirectory.lock(data_dir)) as directory, store_errors(data_dir):
        unfinished = directory.root / "st2v.db.rebuilt"
        for leftover in directory.root.glob(unfinished.name + "*"):
            leftover.unlink()
        films = list(_read_films(Copies(directory.videos)))
        files = BlobFiles(directory.blobs, directory.tmp)
        with closing(connect(unfinished)) as connection:
            migrate(connection)
            _write_films(connection, films, _Wholeness(files))
        put_aside = _put_aside(directory.database)
        for suffix in ("-wal", "-shm"):  # of one that a rebuild before this one had put aside when it was killed
            Path(f"{directory.database}{suffix}").unlink(missing_ok=True)
        os.replace(unfinished, directory.database)
        sync_folder(directory.root)
        lost = tuple(f"{film.video_id}: {text}" for film in films for text in film.lost)
        return Rebuilt(sum(film.view is not None for film in films), put_aside, lost)


class _Wholeness:
    """Whether a blob is whole; each file is read once."""

    def __init__(self, files: BlobFiles) -> None:
        self._files = files
        self.known = dict[str, bool]()

    def __call__(self, sha256: str) -> bool:
        if sha256 not in self.known:
            self.known[sha256] = self._files.is_whole(sha256)
        return self.known[sha256]

    def size_bytes(self, sha256: str) -> int:
        return self._files.path(sha256).stat().st_size


def _read_films(copies: Copies) -> Iterator[_Film]:
    for video_id in sorted(copies.ids()):
        film = _Film(video_id)
        for number, line in enumerate(copies.path(video_id).read_bytes().splitlines(), start=1):
            try:
                film.take(json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                film.lost.append(f"line {number} of its copy cannot be read ({error!r})")
        if film.view is None:
            film.lost.append("its copy does not say what it is")
        yield film


def _write_films(connection: sqlite3.Connection, films: list[_Film], is_whole: _Wholeness) -> None:
    there = {film.video_id for film in films if film.view is not None}
    with transaction(connection):
        connection.execute("PRAGMA defer_foreign_keys = ON")  # a parent's id may sort after its child's
        for film in films:
            if film.view is not None:
                film.cut(is_whole)
                _write_film(connection, film, there, is_whole)


def _write_film(connection: sqlite3.Connection, film: _Film, there: set[str], is_whole: _Wholeness) -> None:
    assert film.view is not None
    parent = film.view.get("parent_id")
    view = view_from_json(json.dumps({**film.view, "parent_id": parent if parent in there else None}))
    config = film.config or {"model": view.model, "spec": film.view["spec"]}
    if film.reference is not None:
        _write_blob(connection, film.reference, "input", is_whole)
    insert_row(connection, view, insert_config(connection, config), film.reference)
    for number, cue in enumerate(film.cues):
        values = film.video_id, number, cue["cue"]["index"], json.dumps(cue["cue"]), cue["dropped_at_seq"]
        connection.execute("INSERT INTO cue(video_id, number, idx, json, dropped_at_seq) VALUES (?, ?, ?, ?, ?)", values)
    for line in film.log:
        _write_entry(connection, film.video_id, line, is_whole)
    _write_counts(connection, film)


def _write_entry(connection: sqlite3.Connection, video_id: str, line: Mapping[str, Any], is_whole: _Wholeness) -> None:
    view = json.dumps(line["view"]) if line["kind"] == "state" else None
    values = video_id, line["seq"], line["kind"], line["index"], view, line.get("number")
    connection.execute("INSERT INTO log(video_id, seq, kind, idx, view, cue) VALUES (?, ?, ?, ?, ?, ?)", values)
    if line["kind"] == "segment":
        if "chunk" in line:
            _write_chunk(connection, video_id, line, is_whole)
        segment = line["segment"]
        _write_blob(connection, segment["hash"], "segment", is_whole)
        _write_blob(connection, segment["init"], "init", is_whole)
        place = video_id, line["index"], segment["rendition"], segment["revision"], line["seq"]
        connection.execute(
            f"INSERT INTO segment(video_id, idx, rendition, revision, seq, {', '.join(_SEGMENT)}) VALUES ({_marks(13)})",
            (*place, *(segment[name] for name in _SEGMENT)),
        )
        if "enhancement" in line:
            _write_enhancement(connection, video_id, line, is_whole)


def _write_enhancement(connection: sqlite3.Connection, video_id: str, line: Mapping[str, Any], is_whole: _Wholeness) -> None:
    after = line["enhancement"]["after"]
    for sha256 in () if after is None else parts_of(after["carry"]):
        _write_blob(connection, sha256, "memory", is_whole)
    insert_line(connection, video_id, line["index"], line["enhancement"])


def _write_chunk(connection: sqlite3.Connection, video_id: str, line: Mapping[str, Any], is_whole: _Wholeness) -> None:
    chunk, segment = line["chunk"], line["segment"]
    made_with = None if chunk.get("made_with") is None else insert_config(connection, json.loads(chunk["made_with"]))
    values = {
        **{"video_id": video_id, "idx": line["index"], "epoch": chunk.get("epoch", 0), "start": segment["start"]},
        **{"frames": segment["frames"], "made_with": made_with, "size_bytes": chunk.get("size_bytes", 0)},
        **{name: chunk[name] for name in ("frames_sha256", "direction", "memory", "making_s")},
        **{"memory_digest": chunk.get("memory_digest"), "created_at_s": chunk.get("created_at_s", now_s())},
    }
    sql = f"INSERT INTO chunk({', '.join(values)}) VALUES ({_marks(len(values))})"
    connection.execute(sql, tuple(values.values()))
    if chunk["memory"] is not None:
        for name, sha256 in json.loads(chunk["memory"])["parts"].items():
            _write_blob(connection, sha256, "memory", is_whole)
            row = video_id, line["index"], name, sha256
            connection.execute("INSERT INTO part(video_id, idx, name, sha256) VALUES (?, ?, ?, ?)", row)


def _write_blob(connection: sqlite3.Connection, sha256: str, kind: str, is_whole: _Wholeness) -> None:
    values = sha256, kind, is_whole.size_bytes(sha256), now_s()
    connection.execute("INSERT OR IGNORE INTO blob(sha256, kind, size_bytes, created_at_s) VALUES (?, ?, ?, ?)", values)


def _write_counts(connection: sqlite3.Connection, film: _Film) -> None:
    connection.execute(
        """UPDATE video SET seq = ?2, deleted_at_s = ?3,
             epoch = (SELECT coalesce(max(epoch), 0) + 1 FROM chunk WHERE video_id = ?1),
             enhanced_prefix = (SELECT coalesce(min(idx), (SELECT count(*) FROM chunk WHERE video_id = ?1)) FROM chunk
               WHERE video_id = ?1 AND NOT EXISTS
                 (SELECT 1 FROM segment WHERE video_id = ?1 AND segment.idx = chunk.idx AND rendition = 'enhanced')),
             (chunks, frames) = (SELECT count(*), coalesce(sum(frames), 0) FROM chunk WHERE video_id = ?1),
             enhanced_frames = (SELECT coalesce(sum(frames), 0) FROM chunk WHERE video_id = ?1 AND EXISTS
               (SELECT 1 FROM segment WHERE video_id = ?1 AND segment.idx = chunk.idx AND rendition = 'enhanced'))
           WHERE id = ?1""",
        (film.video_id, film.seq, now_s() if film.deleted else None),
    )
    refresh_size(connection, film.video_id)


def insert_film(
    connection: sqlite3.Connection,
    video_id: str,
    lines: Iterable[dict[str, Any]],
    files: BlobFiles,
    whole: Iterable[str] = (),
) -> None:
    """One film from the lines of its copy, under this id; its blobs are there. Inside a transaction.

    whole: blobs that need not be read again, because somebody has just done so.
    A parent that is not here is forgotten. Raises `InvalidRequest` where lines or segments are missing; what lines that nobody
    here has written make of it (KeyError, TypeError, ValueError, sqlite3.Error) is the caller's to name.
    """
    film = _Film(video_id)
    for line in lines:
        view = line.get("view")
        film.take(line if view is None else {**line, "view": {**view, "id": video_id}})
    is_whole = _Wholeness(files)
    is_whole.known.update({sha256: files.is_there(sha256) for sha256 in whole})
    film.cut(is_whole)
    if film.view is None or film.lost:
        received = ", ".join(film.lost) or "nothing that says what it is"
        raise InvalidRequest("the film is incomplete", expected="every chunk of it", received=received)
    there = {row["id"] for row in connection.execute("SELECT id FROM video")}
    _write_film(connection, film, there, is_whole)


def _put_aside(database: Path) -> Path | None:
    """The old database under a free name, its WAL with it."""
    if not database.exists():
        return None
    number = 1
    while (aside := database.with_name(f"{database.name}.old{number}")).exists():
        number += 1
    os.replace(database, aside)  # first: a database without its WAL would be taken for whole
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.replace(f"{database}{suffix}", f"{aside}{suffix}")
    sync_folder(database.parent)
    return aside


def _marks(count: int) -> str:
    return ", ".join("?" * count)
