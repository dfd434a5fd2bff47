"""The tables, as numbered steps. A step that was released is never edited; a change is a new step."""

from __future__ import annotations

import sqlite3

from st2v_stream.errors import StoreError

FIRST = (
    # Everything that can change a pixel and is not in the Direction: the model, its version, the sizes of its films.
    """CREATE TABLE config(
        hash TEXT PRIMARY KEY,
        json TEXT NOT NULL,
        created_at_s INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    # Files in DATA/blobs that rows refer to.
    """CREATE TABLE blob(
        sha256 TEXT PRIMARY KEY,
        kind TEXT NOT NULL CHECK(kind IN ('segment', 'init', 'memory', 'input')),
        size_bytes INTEGER NOT NULL,
        created_at_s INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
    # epoch: number of the run that may write; each start of a run raises it. seq, chunks, frames: what the log holds.
    """CREATE TABLE video(
        id TEXT PRIMARY KEY,
        config TEXT NOT NULL REFERENCES config,
        created_at_s INTEGER NOT NULL,
        completed_at_s INTEGER,
        title TEXT NOT NULL,
        first TEXT NOT NULL,
        num_frames INTEGER,
        state TEXT NOT NULL CHECK(state IN
            ('queued', 'loading', 'running', 'paused', 'stopping', 'stopped', 'completed', 'failed')),
        ended_by TEXT CHECK(ended_by IN ('length', 'stopped', 'error')),
        error TEXT,
        paused_reason TEXT,
        warnings TEXT NOT NULL DEFAULT '[]',
        parent_id TEXT REFERENCES video ON DELETE SET NULL,
        fork_index INTEGER,
        epoch INTEGER NOT NULL DEFAULT 0,
        seq INTEGER NOT NULL DEFAULT 0,
        chunks INTEGER NOT NULL DEFAULT 0,
        frames INTEGER NOT NULL DEFAULT 0,
        enhanced_frames INTEGER NOT NULL DEFAULT 0,
        size_bytes INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID""",
    """CREATE TABLE cue(
        video_id TEXT NOT NULL REFERENCES video ON DELETE CASCADE,
        number INTEGER NOT NULL,
        idx INTEGER NOT NULL,
        changes TEXT NOT NULL,
        PRIMARY KEY(video_id, number)) STRICT, WITHOUT ROWID""",
    # The commit record: this row is the acknowledgement. memory: JSON with the sha256 of each part's blob.
    """CREATE TABLE chunk(
        video_id TEXT NOT NULL REFERENCES video ON DELETE CASCADE,
        idx INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        start INTEGER NOT NULL,
        frames INTEGER NOT NULL,
        frames_sha256 TEXT NOT NULL,
        direction TEXT NOT NULL,
        memory TEXT,
        size_bytes INTEGER NOT NULL,
        making_s REAL NOT NULL,
        created_at_s INTEGER NOT NULL,
        PRIMARY KEY(video_id, idx)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE segment(
        video_id TEXT NOT NULL,
        idx INTEGER NOT NULL,
        rendition TEXT NOT NULL CHECK(rendition IN ('preview', 'enhanced')),
        revision INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        hash TEXT NOT NULL REFERENCES blob,
        init TEXT NOT NULL REFERENCES blob,
        size_bytes INTEGER NOT NULL,
        codec TEXT NOT NULL,
        start INTEGER NOT NULL,
        frames INTEGER NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        PRIMARY KEY(video_id, idx, rendition, revision),
        FOREIGN KEY(video_id, idx) REFERENCES chunk ON DELETE CASCADE) STRICT, WITHOUT ROWID""",
    "CREATE UNIQUE INDEX segment_seq ON segment(video_id, seq)",
    "CREATE INDEX segment_hash ON segment(hash)",
    "CREATE INDEX segment_init ON segment(init)",
    # A cursor is a seq. An entry of kind segment is the segment row with the same seq.
    """CREATE TABLE log(
        video_id TEXT NOT NULL REFERENCES video ON DELETE CASCADE,
        seq INTEGER NOT NULL,
        kind TEXT NOT NULL CHECK(kind IN ('segment', 'reset', 'cue', 'state')),
        idx INTEGER NOT NULL,
        view TEXT,
        PRIMARY KEY(video_id, seq)) STRICT, WITHOUT ROWID""",
    """CREATE TABLE enhancement(
        video_id TEXT NOT NULL,
        idx INTEGER NOT NULL,
        state TEXT NOT NULL CHECK(state IN ('ready', 'running', 'done', 'skipped', 'failed')),
        attempts INTEGER NOT NULL DEFAULT 0,
        error TEXT,
        PRIMARY KEY(video_id, idx),
        FOREIGN KEY(video_id, idx) REFERENCES chunk ON DELETE CASCADE) STRICT, WITHOUT ROWID""",
)

INPUTS = (
    # What a film starts from besides the prompt: its first chunk may have to be made again.
    "ALTER TABLE video ADD COLUMN reference TEXT REFERENCES blob",
    "CREATE INDEX video_reference ON video(reference)",
)

DIRECTED = (
    # A deleted video is hidden at once and forgotten after the grace. when_unwatched: its own, NULL = the server's.
    "ALTER TABLE video ADD COLUMN deleted_at_s INTEGER",
    "ALTER TABLE video ADD COLUMN when_unwatched TEXT",
    "CREATE INDEX video_parent ON video(parent_id)",
    # Since when no row refers to the blob; NULL while one does.
    "ALTER TABLE blob ADD COLUMN gone_at_s INTEGER",
    "CREATE INDEX blob_gone ON blob(gone_at_s) WHERE gone_at_s IS NOT NULL",
    # The digest outlives a memory that is thinned away: a chunk made again is compared with it. made_with: determinism class.
    "ALTER TABLE chunk ADD COLUMN memory_digest TEXT",
    "UPDATE chunk SET memory_digest = json_extract(memory, '$.digest')",
    "ALTER TABLE chunk ADD COLUMN made_with TEXT REFERENCES config",
    # Which blobs a chunk's memory names: what the JSON says, where an index and a foreign key can see it.
    """CREATE TABLE part(
        video_id TEXT NOT NULL,
        idx INTEGER NOT NULL,
        name TEXT NOT NULL,
        sha256 TEXT NOT NULL REFERENCES blob,
        PRIMARY KEY(video_id, idx, name),
        FOREIGN KEY(video_id, idx) REFERENCES chunk ON DELETE CASCADE) STRICT, WITHOUT ROWID""",
    "CREATE INDEX part_sha256 ON part(sha256)",
    """INSERT INTO part
         SELECT chunk.video_id, chunk.idx, part.key, part.value FROM chunk, json_each(chunk.memory, '$.parts') AS part""",
    # The whole cue, not only its changes; and an entry of kind cue names its cue.
    "ALTER TABLE cue RENAME COLUMN changes TO json",
    "UPDATE cue SET json = json_object('index', idx, 'changes', json(json))",
    # A reset may take cues back: they leave the timeline, and stay for the log. The seq of the reset.
    "ALTER TABLE cue ADD COLUMN dropped_at_seq INTEGER",
    "ALTER TABLE log ADD COLUMN cue INTEGER",
    """UPDATE log SET cue = (SELECT count(*) FROM log AS earlier
         WHERE earlier.video_id = log.video_id AND earlier.kind = 'cue' AND earlier.seq < log.seq)
       WHERE kind = 'cue'""",
    # A film's bytes are those of all that it refers to, shared or not.
    """UPDATE video SET size_bytes = (SELECT coalesce(sum(blob.size_bytes), 0) FROM blob WHERE sha256 IN (
         SELECT hash FROM segment WHERE video_id = video.id UNION SELECT init FROM segment WHERE video_id = video.id
         UNION SELECT sha256 FROM part WHERE video_id = video.id UNION SELECT video.reference))""",
)

ENHANCED = (
    # enhanced_prefix: so many chunks are sharp without a gap from the beginning. enhancer: by name, NULL = there is none.
    "ALTER TABLE video ADD COLUMN enhance TEXT NOT NULL DEFAULT 'none' CHECK(enhance IN ('all', 'watched', 'idle', 'none'))",
    "ALTER TABLE video ADD COLUMN enhancer TEXT",
    "ALTER TABLE video ADD COLUMN enhance_error TEXT",
    "ALTER TABLE video ADD COLUMN enhanced_prefix INTEGER NOT NULL DEFAULT 0",
    # Nothing had written to it. A row has two sides. The chunk's own sharp version: state, seen = the last chunk it was made
    # with. The carry after the enhancer has taken this chunk: carry as JSON, its parts named carry/<name> in `part`; pending =
    # the first chunk that has not come out for good; began = the first one of its run; apart: that has no sharp neighbour.
    "DROP TABLE enhancement",
    """CREATE TABLE enhancement(
        video_id TEXT NOT NULL,
        idx INTEGER NOT NULL,
        state TEXT CHECK(state IN ('done', 'provisional', 'again')),
        seen INTEGER,
        asked INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        carry TEXT,
        pending INTEGER,
        began INTEGER,
        apart INTEGER,
        PRIMARY KEY(video_id, idx),
        FOREIGN KEY(video_id, idx) REFERENCES chunk ON DELETE CASCADE) STRICT, WITHOUT ROWID""",
    "CREATE INDEX enhancement_again ON enhancement(video_id, idx) WHERE state IN ('provisional', 'again')",
    "CREATE INDEX enhancement_asked ON enhancement(video_id, idx) WHERE asked",
    "CREATE INDEX enhancement_carry ON enhancement(video_id, idx) WHERE carry IS NOT NULL",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (FIRST, INPUTS, DIRECTED, ENHANCED)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to the newest step, each step in one transaction. Raises `StoreError` if they are newer still."""
    done: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if done > len(MIGRATIONS):
        raise StoreError(
            "the data directory was written by a newer st2v", expected=f"tables up to {len(MIGRATIONS)}", received=done
        )
    for number, statements in enumerate(MIGRATIONS[done:], start=done + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
