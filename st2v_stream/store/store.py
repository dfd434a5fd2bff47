"""The store as the rest sees it: DATA opened, locked, migrated, with an async face.

Commit order of a chunk: blobs (durable), then the rows in one transaction, and only when this returns are viewers woken. So
nobody has ever seen a chunk that a restart does not have. Blobs and rows are written in one call on one thread, and
removed in one: a shared blob cannot be removed while a chunk that names it is being committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from st2v_stream.chunk import Memory
from st2v_stream.direction import Cue, Timeline
from st2v_stream.errors import Conflict, NotFound, StoreDamaged, StoreError, StoreFull
from st2v_stream.store import branches, enhancement, segments, sweep, videos
from st2v_stream.store.blobs import Blob, BlobFiles
from st2v_stream.store.copies import Copies, lines_after
from st2v_stream.store.database import Database, transaction
from st2v_stream.store.directory import DataDirectory
from st2v_stream.store.enhancement import NextWork, SharpCommit, SharpRecord
from st2v_stream.store.memories import memory_from_blobs, parts_of
from st2v_stream.store.rebuild import insert_film
from st2v_stream.store.references import reference_from_blob, reference_to_blob
from st2v_stream.store.segments import ChunkRecord, ChunkRow
from st2v_stream.store.videos import Order
from st2v_stream.types import DeletedVideo, LogEntry, Reference, SegmentRef, Snapshot, VideoState, VideoView

T = TypeVar("T")

logger = logging.getLogger(__name__)

LOG_PAGE = 64
"""Log entries read at once."""

GRACE_S = 24 * 3600
"""A deleted film can be had back for so long, and a segment that a reset took out be fetched; less when the disk is full."""

SWEEP_EVERY_S = 600

BLOBS_AT_ONCE = 16
"""Of a film that is taken in, before others get their turn at the store's thread."""

SWEEP_AT_ONCE = 64
"""Files removed before others get their turn at the store's thread: on a busy disk each takes milliseconds."""


@dataclass(frozen=True, slots=True)
class FilmRows:
    """All that is known of a film: the lines of its copy, and the same as the rest of the house sees it."""

    lines: list[dict[str, Any]]
    view: VideoView
    chunks: list[ChunkRow]
    timeline: Timeline
    model_version: str | None
    reference_sha256: str | None


class Store:
    """Everything that survives. Methods raise `StoreError` or `StoreFull` where the disk will not, `NotFound` for no row."""

    def __init__(self, directory: DataDirectory, grace_s: int) -> None:
        self._directory = directory
        self._grace_s = grace_s
        self._database = Database(directory.database)
        self._blobs = BlobFiles(directory.blobs, directory.tmp)
        self._copies = Copies(directory.videos)
        self._damaged = set[str]()
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="st2v-read")
        self._sweeper: asyncio.Task[None] | None = None
        self.size_bytes = 0
        """Bytes of all blobs."""
        self.trouble: StoreError | None = None
        """Why the last write failed, None if it did not."""

    @staticmethod
    async def open(data_dir: Path, *, grace_s: int = GRACE_S) -> Store:
        """Take the directory. Raises `StoreError`: in use, read-only, full, damaged or of another version.

        grace_s: how long a deleted film can be had back.
        """
        directory = DataDirectory.open(data_dir)
        store = Store(directory, grace_s)
        try:
            directory.require_database()
            await store._database.open()
            await store._database.run(store._tidy_up)
        except BaseException:
            with contextlib.suppress(Exception):
                await store._database.close()
            directory.close()
            raise
        store._sweeper = asyncio.create_task(store._sweep(), name="st2v-sweep")
        return store

    async def close(self) -> None:
        """Finish what waits, end the threads, let another process in."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await self._database.close()
        self._readers.shutdown()
        self._directory.close()

    # ------------------------------------------------------------ videos

    async def create(
        self, view: VideoView, config: Mapping[str, Any], reference: Reference | None = None, cues: Sequence[Cue] = ()
    ) -> LogEntry:
        """A new video; config: what else can change a pixel (the model's version). The entry holds the view.

        reference: what it starts from besides the prompt; kept as long as the video. cues: what is planned from the start.
        """
        blob = None if reference is None else await self._read(reference_to_blob, reference)
        return await self._write(self._create, view, config, blob, cues)

    async def branch(self, view: VideoView, timeline: Timeline, config: Mapping[str, Any] | None = None) -> LogEntry:
        """A new video whose first `view.fork_index` chunks are those of `view.parent_id`; the entry holds the view.

        Segments, memories and what the parent starts from are shared by reference: deleting either breaks nothing.
        timeline: all directions of the branch, those it has from its parent included. config: as for `create`, None = the
        parent's. Raises `NotFound` for the parent, `InvalidRequest` for a fork_index beyond its chunks.
        """
        entry = await self._write(self._log_and_copy, view.id, branches.insert_branch, view, timeline, config)
        await self._copy_the_rest(view.id)
        return entry

    async def change(self, video_id: str, allowed: Collection[VideoState] | None, **changes: Any) -> LogEntry:
        """Set columns (state, ended_by, error, title, when_unwatched, ...) and log the state.

        Raises `Conflict` unless it is in an allowed one (None = any).
        """
        return await self._write(self._log_and_copy, video_id, videos.change_video, video_id, allowed, changes)

    async def rename(self, video_id: str, title: str) -> LogEntry:
        """Another title, in whatever state it is. Raises `NotFound`."""
        return await self.change(video_id, None, title=title)

    async def cue(self, video_id: str, *cues: Cue) -> list[LogEntry]:
        """Add cues to the timeline, all or none; returns their entries, one each. Raises `NotFound`."""
        return await self._write(self._cue, video_id, cues)

    async def cues(self, video_id: str) -> list[tuple[int, Cue]]:
        """The cues that hold, each with the seq of its log entry. Raises `NotFound`."""
        return await self._database.run(videos.read_cues, video_id)

    async def take_back_cue(self, video_id: str, seq: int, soonest: int) -> LogEntry:
        """The cue whose log entry is `seq` leaves the timeline; chunk `soonest` is the first that is not begun.

        Raises `NotFound` for no such cue, `Conflict` for one that has taken effect.
        """
        return await self._write(self._log_and_copy, video_id, videos.take_back_cue, video_id, seq, soonest)

    async def reset(
        self,
        video_id: str,
        from_index: int,
        *,
        timeline: Timeline | None = None,
        keep_as: str | None = None,
        allowed: Collection[VideoState] | None = None,
        **changes: Any,
    ) -> list[LogEntry]:
        """Take the chunks from `from_index` on out of the film; returns the entries: reset, new cues, the new state.

        All in one transaction. timeline: its directions from now on, None = as they are. keep_as: id of a new video that
        keeps the film as it was, by reference (parent_id this one, fork_index = from_index). changes: as for
        `change`. The epoch is raised, so a run that does not know of it commits nothing any more. Raises `NotFound`,
        `Conflict` unless in an allowed state (None = any), `InvalidRequest` for an index beyond its chunks.
        """
        entries = await self._write(self._reset, video_id, from_index, timeline, keep_as, allowed, changes)
        if keep_as is not None:
            await self._copy_the_rest(keep_as)
        await self._sweep_now(self._grace_s)
        return entries

    async def begin_run(self, video_id: str) -> int:
        """The epoch of a new run."""
        return await self._database.run(videos.begin_run, video_id)

    async def view(self, video_id: str) -> VideoView:
        """The video as it is."""
        return await self._database.run(videos.read_video, video_id)

    async def model_version(self, video_id: str) -> str | None:
        """The version of the model it was begun with, None where that was not written down."""
        version: str | None = (await self.config(video_id)).get("model_version")
        return version

    async def config(self, video_id: str) -> Mapping[str, Any]:
        """What it was begun with: model, spec, and what `create` was given."""
        return await self._database.run(videos.read_config, video_id)

    async def timeline(self, video_id: str) -> Timeline:
        """Its directions."""
        return await self._database.run(videos.read_timeline, video_id)

    async def reference(self, video_id: str) -> Reference | None:
        """What it starts from besides the prompt. Raises `NotFound` also where that is lost: trying again would not help."""
        sha256 = await self._database.run(videos.read_reference, video_id)
        if sha256 is None:
            return None
        try:
            return reference_from_blob(await self._read(self._blobs.read, sha256))
        except (StoreDamaged, NotFound) as error:
            raise NotFound(f"what {video_id} starts from is lost: {error}") from error

    async def reference_sha256(self, video_id: str) -> str | None:
        """Names what it starts from besides the prompt, None for nothing. Raises `NotFound`."""
        return await self._database.run(videos.read_reference, video_id)

    async def page(self, after: str | None, limit: int, order: Order, search: str = "") -> tuple[list[VideoView], bool]:
        """One page and whether there are more. search: words, each of which title, prompts or id must contain."""
        return await self._database.run(videos.list_videos, after, limit, order, search)

    async def in_states(self, *states: VideoState) -> list[VideoView]:
        """Videos in one of these states, the oldest first."""
        return await self._database.run(videos.list_in_states, states)

    async def delete(self, video_id: str) -> None:
        """Not found from now on. Its rows, and the blobs nothing else refers to, go when the grace is over.

        On a full disk that is at once. Raises `NotFound`.
        """
        is_full = isinstance(self.trouble, StoreFull)
        await self._write(self._delete, video_id)
        await self._sweep_now(0 if is_full else self._grace_s)

    async def undelete(self, video_id: str) -> LogEntry:
        """Have a deleted film back; one that was being made is stopped then. Raises `NotFound` when the grace is over."""
        return await self._write(self._undelete, video_id)

    async def deleted(self) -> list[DeletedVideo]:
        """What can be had back, the newest deletion first."""
        rows = await self._database.run(videos.list_deleted, videos.now_s() - self._grace_s)
        return [DeletedVideo(view, at_s, at_s + self._grace_s) for view, at_s in rows]

    async def own_bytes(self, video_id: str) -> int:
        """Bytes that forgetting the film would free: of what no other film refers to."""
        return await self._database.run(videos.read_own_bytes, video_id)

    async def collect(self, grace_s: int | None = None) -> int:
        """Forget what has been deleted, and what nothing refers to, for longer than the grace; returns the bytes freed."""
        freed_bytes, more = 0, True
        while more:  # others write in between
            part_bytes, more = await self._database.run(self._collect, self._grace_s if grace_s is None else grace_s)
            freed_bytes += part_bytes
        return freed_bytes

    # ------------------------------------------------------------ chunks

    async def commit(self, video_id: str, epoch: int, record: ChunkRecord) -> tuple[LogEntry, int]:
        """Acknowledge a chunk; returns its entry and the bytes it added to the film (what it refers to already: none).

        Raises `Conflict` if it is not the next chunk of the newest run.
        """
        return await self._write(self._commit, video_id, epoch, record)

    async def newest_memory(self, video_id: str) -> tuple[Memory | None, LogEntry | None]:
        """The memory to go on from, None for a film without chunks.

        Where the newest is damaged or gone, the film is cut back to the newest chunk whose memory is whole; then the second
        value is the reset entry.
        """
        memory, reset = await self._database.run(self._newest_memory, video_id)
        if reset is not None:
            await self._sweep_now(self._grace_s)
        return memory, reset

    async def memory(self, video_id: str, index: int) -> Memory:
        """The memory after chunk `index`. Raises `NotFound` if that chunk is not there or keeps none."""
        rows = dict(await self._database.run(segments.read_memory_rows, video_id))
        row = rows.get(index)
        if row is None:
            raise NotFound("no memory there", expected=f"the index of a chunk of {video_id} that keeps one", received=index)
        return await self._read(memory_from_blobs, row, self._blobs.read)

    async def memory_before(self, video_id: str, index: int) -> Memory | None:
        """The newest whole memory with `next_index` <= index: what the chunks before `index` can be made again from.

        None: from the beginning. Raises `NotFound`.
        """
        await self.view(video_id)
        for made, row in await self._database.run(segments.read_memory_rows, video_id):
            if made < index and (memory := await self._read(self._memory_if_whole, video_id, made, row)) is not None:
                return memory
        return None

    async def remember(self, video_id: str, record: ChunkRecord) -> bool:
        """Give a chunk whose memory was thinned away or damaged its memory back, from the same chunk made again.

        False, and nothing is kept, where it came out differently (another determinism class). Raises `NotFound`.
        """
        return await self._write(self._remember, video_id, record)

    async def chunks(self, video_id: str, first: int = 0, last: int | None = None) -> list[ChunkRow]:
        """What is kept of the chunks from `first` to `last`, both included (None = to the end). Raises `NotFound`."""
        await self.view(video_id)
        return await self._database.run(segments.read_chunks, video_id, first, last)

    async def thin(self, video_id: str) -> None:
        """Forget most memories of a finished film (see `segments.thin_memories`)."""
        await self._database.run(segments.thin_memories, video_id)
        await self._sweep_now(self._grace_s)

    async def frame_hashes(self, video_id: str) -> list[str]:
        """sha256 of the frames of every chunk, before they were encoded."""
        return await self._database.run(segments.read_frame_hashes, video_id)

    # ------------------------------------------------------------ the enhanced rendition

    async def ask_to_enhance(self, video_id: str, first: int, end: int | None, enhancer: str | None) -> LogEntry:
        """The chunks from `first` on, before `end` (None = all), are to be made sharp. Raises `NotFound`."""
        ask = enhancement.ask
        return await self._write(self._log_and_copy, video_id, ask, video_id, first, end, enhancer)

    async def change_policy(self, video_id: str, enhancer: str | None, changes: Mapping[str, Any]) -> LogEntry:
        """Set columns, `enhance` among them, and log the state; none takes back what was asked for. Raises `NotFound`."""
        return await self._write(self._log_and_copy, video_id, enhancement.set_policy, video_id, enhancer, changes)

    async def next_work(self, video_id: str, *, everything: bool) -> NextWork | None:
        """What the enhancer does next with this film (see `enhancement.next_work`). Raises `NotFound`."""
        return await self._database.run(partial(enhancement.next_work, everything=everything), video_id)

    async def carry(self, work: NextWork) -> Memory | None:
        """What the enhancer goes on with, None where it begins. Raises `StoreDamaged`, `NotFound` where it is lost."""
        return None if work.carry is None else await self._read(memory_from_blobs, work.carry, self._blobs.read)

    async def drop_carry(self, video_id: str, carry: str) -> None:
        """Forget a carry that cannot be gone on with."""
        await self._write(enhancement.drop_carry, video_id, carry)

    async def commit_sharp(self, video_id: str, record: SharpRecord) -> SharpCommit:
        """Acknowledge what one call of the enhancer gave. Raises `Conflict` where chunks it had seen were taken out since."""
        commit = await self._write(self._commit_sharp, video_id, record)
        if record.carry_blobs:  # those of the carry before are free now
            await self._sweep_now(self._grace_s)
        return commit

    async def count_failure(self, video_id: str, index: int, words: str, attempts: int = 1) -> LogEntry | None:
        """The enhancer failed at this chunk; the film's new state once it will not be tried again. Raises `NotFound`."""
        entry = await self._write(enhancement.count_failure, video_id, index, words, attempts)
        if entry is not None:
            await self._copy_the_rest(video_id)
        return entry

    async def unfinished_enhancements(self) -> list[VideoView]:
        """Films that have something to be made sharp although nobody watches them."""
        return await self._database.run(enhancement.list_unfinished)

    # ------------------------------------------------------------ films that travel

    async def film_rows(self, video_id: str) -> FilmRows:
        """All that is known of a film at one moment. Raises `NotFound`."""
        return await self._database.run(_film_rows, video_id)

    @property
    def tmp(self) -> Path:
        """Where what is not kept yet may lie; the next start empties it."""
        return self._directory.tmp

    async def is_known(self, video_id: str) -> bool:
        """Whether a film of that id is here, a deleted one included."""
        return await self._database.run(_is_known, video_id)

    async def take_in(
        self,
        video_id: str,
        lines: Sequence[dict[str, Any]],
        blobs: Iterable[Blob],
        check: Callable[[VideoView, Sequence[ChunkRow], str | None, str | None], None],
    ) -> VideoView:
        """A film from elsewhere: the lines that `film_rows` gave there, and every blob that they name. All of it or nothing.

        check(view, chunks, model_version, reference_sha256): called before the commit; what it raises undoes everything.
        Raises `InvalidRequest` for what is no film, `StoreError`.
        """
        kept, fresh, more = set[str](), set[str](), iter(blobs)
        try:
            while batch := await self._read(_next_blobs, more):  # films that are being made come in between
                kept |= {blob.sha256 for blob in batch}
                fresh |= await self._write(self._write_missing, batch)
            view = await self._write(self._take_in, video_id, lines, kept, check)
        except BaseException:
            await asyncio.shield(self._database.run(self._remove_unnamed, fresh))
            raise
        await self._copy_the_rest(video_id)
        return view

    # ------------------------------------------------------------ what followers read

    async def read_log(self, video_id: str, seq: int) -> list[LogEntry]:
        """The next page of entries after `seq`."""
        return await self._database.run(segments.read_log, video_id, seq, LOG_PAGE)

    async def snapshot(self, video_id: str) -> Snapshot:
        """What exists at one moment."""
        return await self._database.run(_snapshot, video_id)

    async def segment(self, video_id: str, index: int) -> SegmentRef | None:
        """The preview of one chunk."""
        return await self._database.run(segments.read_segment, video_id, index)

    async def read_blob(self, sha256: str) -> bytes:
        """Bytes by their hash, checked. Of many who ask for the newest one, only the first costs a turn of a thread."""
        at_hand = self._blobs.at_hand(sha256)
        return await self._read(self._blobs.read, sha256) if at_hand is None else at_hand

    # ------------------------------------------------------------ on the threads

    async def _read(self, fn: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, fn, *args)

    async def _write(self, fn: Callable[..., T], *args: object) -> T:
        try:
            result = await self._database.run(fn, *args)
        except StoreError as error:
            self.trouble = error
            if isinstance(error, StoreFull):
                await self._sweep_now(0)  # whoever writes tries again by itself
            raise
        self.trouble = None
        return result

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            await self._sweep_now(self._grace_s)

    async def _sweep_now(self, grace_s: int) -> None:
        try:
            await self.collect(grace_s)
        except StoreError as error:
            logger.warning("not all could be swept, the next time it will be: %s", error)

    async def _copy_the_rest(self, video_id: str) -> None:
        while await self._database.run(self._copies.follow, video_id):
            pass

    def _tidy_up(self, connection: sqlite3.Connection) -> None:
        """What a crash left: copies that lack rows, files that no row names, graces that ended meanwhile."""
        rows = connection.execute("SELECT id, seq FROM video").fetchall()
        for row in rows:
            self._require_rows(row["seq"], self._copies.begin(row["id"]))
            while self._copies.follow(connection, row["id"]):
                pass
        if unknown := self._copies.ids() - {row["id"] for row in rows}:
            logger.warning("%d films in %s are not in the database: st2v fsck says more", len(unknown), self._directory.videos)
        else:
            self._remove(sorted(self._blobs.names() - sweep.read_all_hashes(connection)))
        self.size_bytes = segments.read_total_bytes(connection)
        while self._collect(connection, self._grace_s)[1]:
            pass

    def _require_rows(self, seq: int, copied: int) -> None:
        """A copy is written after its row, so one that is ahead says that the database has lost rows, its WAL perhaps."""
        if copied > seq:
            expected = f"entry {copied} of a log, or st2v fsck --rebuild first"
            raise StoreDamaged(f"{self._directory.database} has lost rows", expected=expected, received=f"entry {seq}")

    def _log_and_copy(
        self, connection: sqlite3.Connection, video_id: str, fn: Callable[..., LogEntry], *args: object
    ) -> LogEntry:
        entry = fn(connection, *args)
        self._copies.follow(connection, video_id)
        return entry

    def _create(
        self,
        connection: sqlite3.Connection,
        view: VideoView,
        config: Mapping[str, Any],
        reference: Blob | None,
        cues: Sequence[Cue],
    ) -> LogEntry:
        with self._written(connection, () if reference is None else (reference,)):
            entry = videos.insert_video(connection, view, config, reference, cues)
        self._copies.follow(connection, view.id)
        return entry

    def _commit(self, connection: sqlite3.Connection, video_id: str, epoch: int, record: ChunkRecord) -> tuple[LogEntry, int]:
        with self._written(connection, record.blobs):
            entry, added_bytes = segments.insert_chunk(connection, video_id, epoch, record)
        self._copies.follow(connection, video_id)
        return entry, added_bytes

    def _commit_sharp(self, connection: sqlite3.Connection, video_id: str, record: SharpRecord) -> SharpCommit:
        with self._written(connection, record.blobs):
            commit = enhancement.insert_sharp(connection, video_id, record)
        self._copies.follow(connection, video_id)
        return commit

    def _remember(self, connection: sqlite3.Connection, video_id: str, record: ChunkRecord) -> bool:
        if not segments.is_the_same(connection, video_id, record):
            return False
        parts = tuple(blob for blob in record.blobs if blob.kind == "memory")
        self._damaged.update(blob.sha256 for blob in parts if not self._blobs.is_whole(blob.sha256))
        with self._written(connection, parts):
            segments.insert_memory(connection, video_id, record, parts)
        return True

    @contextlib.contextmanager
    def _written(self, connection: sqlite3.Connection, blobs: Sequence[Blob]) -> Iterator[None]:
        """The blobs are on the disk when their rows are written; where that fails, those that got no row are removed.

        Not after an I/O error of SQLite: its log may hold the whole transaction although the sync failed, and a start after a
        crash would find the rows. The next try writes the same blobs; what nobody takes up, the next start removes.
        """
        fresh = {blob.sha256: blob for blob in _without_row(connection, blobs)}
        lost = {blob.sha256: blob for blob in blobs if blob.sha256 in self._damaged or not self._blobs.is_there(blob.sha256)}
        try:
            for blob in (fresh | lost).values():
                self._blobs.write(blob)
            yield
        except (OSError, sqlite3.Error, Conflict) as error:
            if getattr(error, "sqlite_errorname", "").startswith("SQLITE_IOERR"):
                raise
            self._remove([blob.sha256 for blob in _without_row(connection, fresh.values())])
            raise
        self._damaged.difference_update(lost)
        self.size_bytes += sum(len(blob.data) for blob in fresh.values())

    def _take_in(
        self,
        connection: sqlite3.Connection,
        video_id: str,
        lines: Sequence[dict[str, Any]],
        whole: Collection[str],
        check: Callable[[VideoView, Sequence[ChunkRow], str | None, str | None], None],
    ) -> VideoView:
        with transaction(connection):
            insert_film(connection, video_id, lines, self._blobs, whole)
            version = videos.read_config(connection, video_id).get("model_version")
            view, rows = videos.read_video(connection, video_id), segments.read_chunks(connection, video_id)
            check(view, rows, version, videos.read_reference(connection, video_id))
        self.size_bytes = segments.read_total_bytes(connection)
        self._copies.follow(connection, video_id)
        return view

    def _write_missing(self, connection: sqlite3.Connection, blobs: Sequence[Blob]) -> set[str]:
        """Those that were not there, or not whole, and are now; if one cannot be written, none of these."""
        written = set[str]()
        try:
            for blob in blobs:
                if not self._blobs.is_there(blob.sha256) or not self._blobs.is_whole(blob.sha256):
                    self._blobs.write(blob)
                    written.add(blob.sha256)
        except BaseException:
            self._remove_unnamed(connection, written)
            raise
        return written

    def _remove_unnamed(self, connection: sqlite3.Connection, hashes: Collection[str]) -> None:
        if hashes:
            self._remove(set(hashes) - sweep.read_all_hashes(connection))

    def _cue(self, connection: sqlite3.Connection, video_id: str, cues: Sequence[Cue]) -> list[LogEntry]:
        entries = videos.insert_cues(connection, video_id, cues)
        self._copies.follow(connection, video_id)
        return entries

    def _reset(
        self,
        connection: sqlite3.Connection,
        video_id: str,
        from_index: int,
        timeline: Timeline | None,
        keep_as: str | None,
        allowed: Collection[VideoState] | None,
        changes: Mapping[str, Any],
    ) -> list[LogEntry]:
        entries = branches.reset_video(connection, video_id, from_index, timeline, keep_as, allowed, changes)
        self._copies.follow(connection, video_id)
        if keep_as is not None:
            self._copies.follow(connection, keep_as)
            segments.thin_memories(connection, keep_as)  # it is finished
        return entries

    def _newest_memory(self, connection: sqlite3.Connection, video_id: str) -> tuple[Memory | None, LogEntry | None]:
        rows = segments.read_memory_rows(connection, video_id)
        for index, row in rows:
            memory = self._memory_if_whole(video_id, index, row)
            if memory is not None:
                return memory, None if index == rows[0][0] else self._truncate(connection, video_id, index + 1)
        return None, self._truncate(connection, video_id, 0) if rows else None

    def _memory_if_whole(self, video_id: str, index: int, row: str | None) -> Memory | None:
        """None only where it is proven lost; a disk that cannot be read just now raises, and nothing is cut back."""
        if row is None:
            return None
        try:
            return memory_from_blobs(row, self._blobs.read)
        except (StoreDamaged, NotFound) as error:
            self._damaged.update(sha256 for sha256 in parts_of(row) if not self._blobs.is_whole(sha256))
            logger.error("%s: the memory after chunk %d is lost: %s", video_id, index, error)
            return None

    def _truncate(self, connection: sqlite3.Connection, video_id: str, index: int) -> LogEntry:
        entry = segments.truncate(connection, video_id, index)
        self._copies.follow(connection, video_id)
        return entry

    def _delete(self, connection: sqlite3.Connection, video_id: str) -> None:
        videos.delete_video(connection, video_id)
        self._copies.note(video_id, deleted=True)

    def _undelete(self, connection: sqlite3.Connection, video_id: str) -> LogEntry:
        entry = videos.undelete_video(connection, video_id)
        self._copies.note(video_id, deleted=False)
        self._copies.follow(connection, video_id)
        return entry

    def _collect(self, connection: sqlite3.Connection, grace_s: int) -> tuple[int, bool]:
        """Bytes freed, and whether there is more to free."""
        before_s = videos.now_s() - grace_s
        for video_id in sweep.forget_deleted(connection, before_s):
            self._copies.remove(video_id)
        lost = sweep.forget_gone(connection, before_s, SWEEP_AT_ONCE)
        self._remove(lost)
        self.size_bytes -= sum(lost.values())
        return sum(lost.values()), len(lost) == SWEEP_AT_ONCE

    def _remove(self, hashes: Iterable[str]) -> None:
        """Their rows are gone already: a file that stays wastes space and harms nobody, so that is logged, no more."""
        for sha256 in hashes:
            try:
                self._blobs.remove(sha256)
            except OSError as error:
                logger.warning("blob %s stays on the disk: %s", sha256, error)


def _without_row(connection: sqlite3.Connection, blobs: Iterable[Blob]) -> list[Blob]:
    sql = "SELECT 1 FROM blob WHERE sha256 = ?"
    return [blob for blob in blobs if connection.execute(sql, (blob.sha256,)).fetchone() is None]


def _next_blobs(blobs: Iterator[Blob]) -> list[Blob]:
    return list(islice(blobs, BLOBS_AT_ONCE))


def _is_known(connection: sqlite3.Connection, video_id: str) -> bool:
    return connection.execute("SELECT 1 FROM video WHERE id = ?", (video_id,)).fetchone() is not None


def _film_rows(connection: sqlite3.Connection, video_id: str) -> FilmRows:
    view, lines = videos.read_video(connection, video_id), list[dict[str, Any]]()
    while page := list(lines_after(connection, video_id, lines[-1]["seq"] if lines else 0)):
        lines += page
    return FilmRows(
        lines,
        view,
        segments.read_chunks(connection, video_id),
        videos.read_timeline(connection, video_id),
        videos.read_config(connection, video_id).get("model_version"),
        videos.read_reference(connection, video_id),
    )


def _snapshot(connection: sqlite3.Connection, video_id: str) -> Snapshot:
    view = videos.read_video(connection, video_id)  # nothing else runs on this thread meanwhile: one moment
    return Snapshot(view, segments.read_newest_segments(connection, video_id), view.seq)
