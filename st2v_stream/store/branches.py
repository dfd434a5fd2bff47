"""Films that begin as another film: branches, and what a reset leaves behind. By reference: rows are copied, blobs are not.

Every function runs on the store's thread with its connection, in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from st2v_stream.direction import Timeline
from st2v_stream.errors import InvalidRequest
from st2v_stream.store.database import transaction
from st2v_stream.store.segments import take_out_chunks
from st2v_stream.store.videos import (
    add_cues,
    check_state,
    config_of,
    insert_config,
    insert_row,
    log_state,
    now_s,
    read_reference,
    read_timeline,
    read_video,
    refresh_size,
    replace_timeline,
    set_columns,
)
from st2v_stream.types import LogEntry, VideoState, VideoView


def insert_branch(
    connection: sqlite3.Connection, view: VideoView, timeline: Timeline, config: Mapping[str, Any] | None = None
) -> LogEntry:
    """A video whose chunks before `view.fork_index` are those of `view.parent_id`: segments and memories by reference.

    timeline: all its directions, its parent's included. config: as for a new video, None = the parent's. Raises `NotFound`,
    `InvalidRequest` for a fork_index that the parent does not reach.
    """
    assert view.parent_id is not None, "a branch has a parent"
    with transaction(connection):
        parent = read_video(connection, view.parent_id)
        _check_index("fork_index", view.fork_index, parent)
        _insert_copy(connection, parent.id, int(view.fork_index or 0), view, timeline, config)
        return log_state(connection, view.id)


def reset_video(
    connection: sqlite3.Connection,
    video_id: str,
    from_index: int,
    timeline: Timeline | None,
    keep_as: str | None,
    allowed: Collection[VideoState] | None,
    changes: Mapping[str, Any],
) -> list[LogEntry]:
    """Take the chunks from `from_index` on out of the film; returns the entries: reset, new cues, the state it is then in.

    timeline: its directions from now on, None = as they are.
    keep_as: id of a video that keeps the film as it was, its end too; one that was being made is stopped there. The epoch is
    raised: a run that does not know of the reset commits nothing any more. Raises `NotFound`, `Conflict` for the state,
    `InvalidRequest` for the index.
    """
    with transaction(connection):
        view = check_state(connection, video_id, allowed)
        _check_index("from_index", from_index, view)
        if keep_as is not None:
            _keep_whole(connection, view, keep_as, from_index)
        reset = take_out_chunks(connection, video_id, from_index)
        connection.execute("UPDATE video SET epoch = epoch + 1 WHERE id = ?", (video_id,))
        cues = [] if timeline is None else replace_timeline(connection, video_id, timeline, reset.seq)
        set_columns(connection, video_id, changes)
        return [reset, *cues, log_state(connection, video_id)]


def _check_index(name: str, index: int | None, view: VideoView) -> None:
    if index is None or not 0 <= index <= view.chunks:
        raise InvalidRequest(f"{name} is out of range", expected=f"0 to {view.chunks}", received=index, param=name)


def _keep_whole(connection: sqlite3.Connection, view: VideoView, keep_as: str, from_index: int) -> None:
    kept = replace(
        view,
        id=keep_as,
        parent_id=view.id,
        fork_index=from_index,
        created_at_s=now_s(),
        enhance="watched" if view.enhance == "watched" else "none",  # more than that nobody has asked of it
        **_end_of(view),
    )
    _insert_copy(connection, view.id, view.chunks, kept, read_timeline(connection, view.id), None)
    log_state(connection, keep_as)


def _end_of(view: VideoView) -> dict[str, Any]:
    """How the kept film ended: as it did; one that was being made is stopped here, or whole if nothing was left to make."""
    if view.state in ("stopped", "completed", "failed"):
        return {}
    is_whole = view.num_frames is not None and view.frames >= view.num_frames
    state, ended_by = ("completed", "length") if is_whole else ("stopped", "stopped")
    return {"state": state, "ended_by": ended_by, "completed_at_s": now_s(), "error": None, "paused_reason": None}


def _insert_copy(
    connection: sqlite3.Connection,
    parent_id: str,
    chunks: int,
    view: VideoView,
    timeline: Timeline,
    config: Mapping[str, Any] | None,
) -> None:
    """The row, the first `chunks` chunks of the parent as its own, and the cues."""
    if config is None:
        sha256: str = connection.execute("SELECT config FROM video WHERE id = ?", (parent_id,)).fetchone()["config"]
    else:
        sha256 = insert_config(connection, config_of(view, config))
    reference = read_reference(connection, parent_id)
    insert_row(connection, replace(view, direction=timeline.first), sha256, reference)
    for statement in _COPY:
        connection.execute(statement, {"parent": parent_id, "child": view.id, "chunks": chunks})
    add_cues(connection, view.id, timeline.cues)
    refresh_size(connection, view.id)


# The columns are named: a table may be given more of them. Sequence numbers are the child's own, in the parent's order.
_COPY = (
    """INSERT INTO chunk(video_id, idx, epoch, start, frames, frames_sha256, direction, memory, memory_digest, made_with,
         size_bytes, making_s, created_at_s)
       SELECT :child, idx, 0, start, frames, frames_sha256, direction, memory, memory_digest, made_with,
         size_bytes, making_s, created_at_s
       FROM chunk WHERE video_id = :parent AND idx < :chunks""",
    """INSERT INTO part(video_id, idx, name, sha256)
       SELECT :child, idx, name, sha256 FROM part WHERE video_id = :parent AND idx < :chunks""",
    """INSERT INTO segment(video_id, idx, rendition, revision, seq, hash, init, size_bytes, codec, start, frames, width, height)
       SELECT :child, idx, rendition, revision, row_number() OVER (ORDER BY seq), hash, init, size_bytes, codec, start, frames,
         width, height
       FROM segment WHERE video_id = :parent AND idx < :chunks""",
    """INSERT INTO log(video_id, seq, kind, idx)
       SELECT :child, seq, 'segment', idx FROM segment WHERE video_id = :child""",
    # what was made with a later chunk of the parent is not what this film's own next chunk makes of it
    """INSERT INTO enhancement(video_id, idx, state, seen, carry, pending, began, apart)
       SELECT :child, idx, iif(seen >= :chunks, 'again', state), seen, carry, pending, began, apart
       FROM enhancement WHERE video_id = :parent AND idx < :chunks""",
    """UPDATE video SET
         enhanced_prefix = (SELECT min(enhanced_prefix, :chunks) FROM video WHERE id = :parent),
         seq = (SELECT count(*) FROM segment WHERE video_id = :child),
         (chunks, frames) = (SELECT count(*), coalesce(sum(frames), 0) FROM chunk WHERE video_id = :child),
         enhanced_frames = (SELECT coalesce(sum(frames), 0) FROM chunk WHERE video_id = :child AND EXISTS
           (SELECT 1 FROM segment WHERE video_id = :child AND segment.idx = chunk.idx AND rendition = 'enhanced'))
       WHERE id = :child""",
)
