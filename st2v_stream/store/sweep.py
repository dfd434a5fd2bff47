"""What nobody refers to any more: marked in the transaction in which that happens, forgotten when the grace is over.

A grace, because a viewer may be fetching a segment that a reset has just taken out, and a person may have deleted the wrong
film. Memories and inputs are fetched by nobody, so they have none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from st2v_stream.store.database import transaction
from st2v_stream.store.videos import now_s

UNREFERENCED = """NOT EXISTS (SELECT 1 FROM segment WHERE hash = blob.sha256)
    AND NOT EXISTS (SELECT 1 FROM segment WHERE init = blob.sha256)
    AND NOT EXISTS (SELECT 1 FROM part WHERE part.sha256 = blob.sha256)
    AND NOT EXISTS (SELECT 1 FROM video WHERE reference = blob.sha256)"""


def blobs_of(connection: sqlite3.Connection, video_id: str, from_index: int = 0) -> set[str]:
    """sha256 of the blobs that the chunks from `from_index` on refer to."""
    rows = connection.execute(
        """SELECT hash AS sha256 FROM segment WHERE video_id = ?1 AND idx >= ?2
           UNION SELECT init FROM segment WHERE video_id = ?1 AND idx >= ?2
           UNION SELECT sha256 FROM part WHERE video_id = ?1 AND idx >= ?2""",
        (video_id, from_index),
    )
    return {row["sha256"] for row in rows}


def mark_gone(connection: sqlite3.Connection, hashes: Iterable[str], at_s: int | None = None) -> None:
    """Those of them that no row refers to are gone since `at_s` (None = now); inside a transaction."""
    connection.executemany(
        f"""UPDATE blob SET gone_at_s = CASE WHEN kind IN ('memory', 'input') THEN 0 ELSE ?1 END
            WHERE sha256 = ?2 AND gone_at_s IS NULL AND {UNREFERENCED}""",
        [(now_s() if at_s is None else at_s, sha256) for sha256 in hashes],
    )


def forget_gone(connection: sqlite3.Connection, before_s: int, limit: int) -> dict[str, int]:
    """Take out the rows of at most `limit` blobs that are gone since `before_s` or longer.

    Returns the sha256 of the files to remove and their bytes.
    """
    some = f"SELECT sha256 FROM blob WHERE gone_at_s <= ? AND {UNREFERENCED} LIMIT ?"
    rows = connection.execute(f"DELETE FROM blob WHERE sha256 IN ({some}) RETURNING sha256, size_bytes", (before_s, limit))
    return {row["sha256"]: row["size_bytes"] for row in rows.fetchall()}


def forget_deleted(connection: sqlite3.Connection, before_s: int) -> list[str]:
    """Take out the rows of videos deleted at `before_s` or earlier; returns their ids. Their branches live on."""
    with transaction(connection):
        rows = connection.execute("SELECT id, reference FROM video WHERE deleted_at_s <= ?", (before_s,)).fetchall()
        for row in rows:
            lost = blobs_of(connection, row["id"]) | ({row["reference"]} - {None})
            connection.execute("DELETE FROM video WHERE id = ?", (row["id"],))
            mark_gone(connection, lost, at_s=0)
        return [row["id"] for row in rows]


def read_all_hashes(connection: sqlite3.Connection) -> set[str]:
    """sha256 of every blob that has a row."""
    return {row["sha256"] for row in connection.execute("SELECT sha256 FROM blob")}
