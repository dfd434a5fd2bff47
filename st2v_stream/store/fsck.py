"""Is everything there that should be: every blob's hash, every row's reference, every film's log. Changes nothing.

The tables are copied into memory and brought to the newest step there, so that a data directory of an older version can be
looked at and stays as it is. (What a crash left in SQLite's write-ahead log goes into its file, as whenever it is opened.)
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from st2v_stream.errors import NotFound, StoreDamaged
from st2v_stream.store.blobs import BlobFiles
from st2v_stream.store.copies import Copies, last_seq
from st2v_stream.store.database import connect
from st2v_stream.store.directory import DataDirectory
from st2v_stream.store.memories import memory_from_blobs, parts_of
from st2v_stream.store.migrations import migrate
from st2v_stream.store.segments import OF_MEMORY, read_total_bytes
from st2v_stream.store.sweep import UNREFERENCED
from st2v_stream.store.trouble import store_errors

Weight = Literal["damage", "waste", "copy"]
"""damage: something that should be there is not, or is not what was written. waste: space nobody needs; the next start frees
it. copy: a film's rows are not all in its jsonl file; the next start completes it, a rebuild from it would miss them."""


_COUNTED = ("video", "chunk", "blob")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    weight: Weight
    subject: str
    """A film's id, or a file's path below the data directory."""
    text: str

    def __str__(self) -> str:
        return f"{self.weight}: {self.subject}: {self.text}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found, and what it looked at."""

    findings: tuple[Finding, ...]
    films: int = 0
    chunks: int = 0
    blobs: int = 0
    blob_bytes: int = 0

    @property
    def is_damaged(self) -> bool:
        """Whether something is lost; waste and late copies are not."""
        return any(finding.weight == "damage" for finding in self.findings)


def check(data_dir: Path) -> Report:
    """Look at everything. Raises `StoreError` where there is no data directory, or another st2v works on it."""
    with closing(DataDirectory.lock(data_dir)) as directory, store_errors(data_dir):
        try:
            with closing(_copy_in_memory(directory.database)) as connection:
                return _check_all(directory, connection)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            text = f"not a whole database ({error}); st2v fsck --rebuild makes it anew from videos/*.jsonl"
            return Report((Finding("damage", directory.database.name, text),))


def _copy_in_memory(path: Path) -> sqlite3.Connection:
    """The tables as they are, at the newest step; what SQLite itself finds wrong is raised as DatabaseError."""
    memory = sqlite3.connect(":memory:", isolation_level=None)
    if path.exists():
        with closing(connect(path)) as source:
            problems = [row[0] for row in source.execute("PRAGMA integrity_check")]
            if problems != ["ok"]:
                raise sqlite3.DatabaseError("; ".join(problems[:3]))
            source.backup(memory)
    memory.row_factory = sqlite3.Row
    memory.execute("PRAGMA foreign_keys = OFF")
    migrate(memory)
    return memory


def _check_all(directory: DataDirectory, connection: sqlite3.Connection) -> Report:
    files, copies = BlobFiles(directory.blobs, directory.tmp), Copies(directory.videos)
    whole = dict[str, bool]()
    findings = [
        *_check_blobs(connection, files, whole),
        *_check_references(connection),
        *(finding for check in _OF_ROWS for finding in check(connection)),
        *_check_memories(connection, files, whole),
        *_check_copies(connection, copies),
        *(
            Finding("waste", f"tmp/{path.name}", "left by a crash")
            for path in sorted(directory.tmp.glob("*"))
            if path.is_file()
        ),
    ]
    films, chunks, blobs = (connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in _COUNTED)
    return Report(tuple(findings), films, chunks, blobs, read_total_bytes(connection))


# ---------------------------------------------------------------- blobs


def _check_blobs(connection: sqlite3.Connection, files: BlobFiles, whole: dict[str, bool]) -> Iterator[Finding]:
    names = files.names()
    for row in connection.execute("SELECT sha256, kind, gone_at_s FROM blob ORDER BY sha256"):
        sha256 = row["sha256"]
        whole[sha256] = sha256 in names and files.is_whole(sha256)
        if not whole[sha256] and row["gone_at_s"] is None:
            text = "is damaged" if sha256 in names else "is missing"
            yield Finding("damage", _path(sha256), f"{text}: {row['kind']} of {_users(connection, sha256) or 'no film'}")
    known = set(whole)
    for name in sorted(names - known):
        yield Finding("waste", _path(name), "no row names it")
    for row in connection.execute(f"SELECT sha256 FROM blob WHERE gone_at_s IS NULL AND {UNREFERENCED}"):
        yield Finding("waste", _path(row["sha256"]), "no film refers to it")


def _users(connection: sqlite3.Connection, sha256: str) -> str:
    rows = connection.execute(
        """SELECT video_id, min(idx) AS first, max(idx) AS last FROM (
             SELECT video_id, idx FROM segment WHERE hash = ?1 UNION SELECT video_id, idx FROM segment WHERE init = ?1
             UNION SELECT video_id, idx FROM part WHERE sha256 = ?1 UNION SELECT id, 0 FROM video WHERE reference = ?1)
           GROUP BY video_id""",
        (sha256,),
    )
    return ", ".join(f"{row['video_id']} {_chunks(row['first'], row['last'])}" for row in rows)


def _chunks(first: int, last: int) -> str:
    return f"chunk {first}" if first == last else f"chunks {first} to {last}"


def _path(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


# ---------------------------------------------------------------- rows


def _check_references(connection: sqlite3.Connection) -> Iterator[Finding]:
    for row in connection.execute("PRAGMA foreign_key_check"):
        yield Finding("damage", f"table {row['table']}", f"a row refers to one that is not in {row['parent']}")


def _check_chunks(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Chunks and frames follow each other without a gap, and the film's counts are theirs."""
    for video in connection.execute("SELECT * FROM video").fetchall():
        rows = connection.execute("SELECT idx, start, frames FROM chunk WHERE video_id = ? ORDER BY idx", (video["id"],))
        frames, chunks = 0, 0
        for row in rows:
            if (row["idx"], row["start"]) != (chunks, frames):
                received = f"chunk {row['idx']} begins at frame {row['start']}"
                yield Finding("damage", video["id"], f"{received}, expected chunk {chunks} at frame {frames}")
            chunks, frames = row["idx"] + 1, row["start"] + row["frames"]
        if (video["chunks"], video["frames"]) != (chunks, frames):
            received = f"says {video['chunks']} chunks of {video['frames']} frames"
            yield Finding("damage", video["id"], f"{received}, has {chunks} of {frames}")


def _check_log(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Every segment has its entry and every entry what it is about; no entry is newer than the film says."""
    yield from _each(
        connection,
        """SELECT video_id, idx FROM chunk WHERE NOT EXISTS (SELECT 1 FROM segment
             WHERE segment.video_id = chunk.video_id AND segment.idx = chunk.idx AND rendition = 'preview')""",
        "chunk {idx} has no preview",
    )
    yield from _each(
        connection,
        """SELECT video_id, idx, seq FROM segment WHERE NOT EXISTS (SELECT 1 FROM log
             WHERE log.video_id = segment.video_id AND log.seq = segment.seq AND kind = 'segment' AND log.idx = segment.idx)""",
        "the segment of chunk {idx} with seq {seq} is not in the log",
    )
    yield from _each(
        connection,
        """SELECT video_id, seq FROM log WHERE kind = 'segment' AND NOT EXISTS (SELECT 1 FROM segment
             WHERE segment.video_id = log.video_id AND segment.seq = log.seq)""",
        "the log entry {seq} names a segment that is not there",
    )
    yield from _each(
        connection,
        """SELECT video_id, seq FROM log WHERE kind = 'cue' AND NOT EXISTS (SELECT 1 FROM cue
             WHERE cue.video_id = log.video_id AND cue.number = log.cue)""",
        "the log entry {seq} names a cue that is not there",
    )
    yield from _each(
        connection,
        """SELECT id AS video_id, video.seq, max(log.seq) AS newest FROM video LEFT JOIN log ON log.video_id = video.id
           GROUP BY id HAVING video.seq < coalesce(newest, 0)""",
        "says its newest entry is {seq}, the log has {newest}",
    )


def _check_sizes(connection: sqlite3.Connection) -> Iterator[Finding]:
    yield from _each(
        connection,
        """SELECT id AS video_id, size_bytes AS said, (SELECT coalesce(sum(size_bytes), 0) FROM blob WHERE sha256 IN (
             SELECT hash FROM segment WHERE video_id = video.id UNION SELECT init FROM segment WHERE video_id = video.id
             UNION SELECT sha256 FROM part WHERE video_id = video.id UNION SELECT video.reference)) AS counted
           FROM video WHERE said != counted""",
        "says {said} bytes, refers to {counted}",
    )


def _each(connection: sqlite3.Connection, sql: str, text: str) -> Iterator[Finding]:
    for row in connection.execute(sql).fetchall():
        yield Finding("damage", row["video_id"], text.format(**dict(row)))


def _check_enhancement(connection: sqlite3.Connection) -> Iterator[Finding]:
    """What films say of their sharp chunks is so, and every carry names its parts."""
    yield from _each(
        connection,
        f"""SELECT id AS video_id, enhanced_frames AS said, enhanced_prefix AS prefix,
              (SELECT coalesce(sum(frames), 0) FROM chunk WHERE video_id = id AND {_IS_SHARP}) AS counted,
              (SELECT coalesce(min(idx), chunks) FROM chunk WHERE video_id = id AND NOT {_IS_SHARP}) AS reached
            FROM video WHERE said != counted OR prefix != reached""",
        "says {said} sharp frames and {prefix} sharp chunks from its beginning, has {counted} and {reached}",
    )
    for row in connection.execute("SELECT video_id, idx, carry FROM enhancement WHERE carry IS NOT NULL").fetchall():
        sql = f"SELECT sha256 FROM part WHERE video_id = ? AND idx = ? AND NOT {OF_MEMORY} ORDER BY sha256"
        parts = [part["sha256"] for part in connection.execute(sql, (row["video_id"], row["idx"]))]
        if parts != sorted(parts_of(row["carry"])):
            yield Finding("damage", row["video_id"], f"what is begun of the sharp film at chunk {row['idx']} lacks parts")


_IS_SHARP = "EXISTS (SELECT 1 FROM segment WHERE video_id = id AND segment.idx = chunk.idx AND rendition = 'enhanced')"

_OF_ROWS: tuple[Callable[[sqlite3.Connection], Iterator[Finding]], ...] = (
    *(_check_chunks, _check_log, _check_sizes, _check_enhancement),
)


def _check_memories(connection: sqlite3.Connection, files: BlobFiles, whole: dict[str, bool]) -> Iterator[Finding]:
    """The parts of a memory make up the memory that was written; what a running film goes on from is there."""
    for row in connection.execute("SELECT video_id, idx, memory FROM chunk WHERE memory IS NOT NULL").fetchall():
        named = sorted(parts_of(row["memory"]))
        sql = f"SELECT sha256 FROM part WHERE video_id = ? AND idx = ? AND {OF_MEMORY} ORDER BY sha256"
        if named != [part["sha256"] for part in connection.execute(sql, (row["video_id"], row["idx"]))]:
            yield Finding("damage", row["video_id"], f"the memory after chunk {row['idx']} is not that of its parts")
        elif all(whole.get(sha256) for sha256 in named):
            try:
                memory_from_blobs(row["memory"], files.read)
            except (StoreDamaged, NotFound) as error:
                yield Finding("damage", row["video_id"], f"the memory after chunk {row['idx']}: {error}")


# ---------------------------------------------------------------- copies


def _check_copies(connection: sqlite3.Connection, copies: Copies) -> Iterator[Finding]:
    there = copies.ids()
    for row in connection.execute("SELECT id, seq FROM video ORDER BY id"):
        seq = last_seq(copies.path(row["id"])) if row["id"] in there else 0
        if seq < row["seq"]:
            yield Finding("copy", f"videos/{row['id']}.jsonl", f"has the rows up to {seq} of {row['seq']}")
        elif seq > row["seq"]:
            text = f"has lost the rows from {row['seq'] + 1} to {seq}; st2v fsck --rebuild brings them back"
            yield Finding("damage", row["id"], text)
        there.discard(row["id"])
    for video_id in sorted(there):
        text = "a film that is not in the database; st2v fsck --rebuild brings it back"
        yield Finding("damage", f"videos/{video_id}.jsonl", text)


def summary(report: Report) -> str:
    """One sentence."""
    looked_at = f"{report.films} films, {report.chunks} chunks, {report.blobs} blobs ({report.blob_bytes / 1e6:.1f} MB)"
    by_weight = {weight: sum(f.weight == weight for f in report.findings) for weight in ("damage", "waste", "copy")}
    found = ", ".join(f"{count} {weight}" for weight, count in by_weight.items() if count)
    return f"{looked_at}: {found or 'everything is as it should be'}"


def as_json(report: Report) -> str:
    """The same for programs."""
    findings = [{"weight": f.weight, "subject": f.subject, "text": f.text} for f in report.findings]
    counts = {"films": report.films, "chunks": report.chunks, "blobs": report.blobs, "blob_bytes": report.blob_bytes}
    return json.dumps({"damaged": report.is_damaged, **counts, "findings": findings})
