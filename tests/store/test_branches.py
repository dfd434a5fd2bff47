"""Branches and resets share what they have in common, and neither needs the other to live."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from st2v_stream.direction import Cue, Timeline
from st2v_stream.errors import Conflict, InvalidRequest, NotFound
from st2v_stream.store.segments import record_of
from st2v_stream.store.store import Store
from st2v_stream.types import Reference, VideoView
from store.films import DIRECTION, chunks_after, new_view, records_after, stand_in
from store.test_store import blob_files, opened, write_film

OTHER = Cue(3, {"seed": 5})


def branch_view(fork_index: int, video_id: str = "video_b") -> VideoView:
    return replace(new_view(video_id), parent_id="video_a", fork_index=fork_index)


async def hashes(store: Store, video_id: str) -> list[str]:
    return await store.frame_hashes(video_id)


def test_a_branch_shares_segments_and_memories_and_goes_on_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 5)
            files, parent = blob_files(tmp_path), await store.view("video_a")
            entry = await store.branch(branch_view(3), Timeline(DIRECTION, (OTHER,)))
            assert blob_files(tmp_path) == files, "nothing was copied"
            assert entry.view == await store.view("video_b")
            assert entry.view is not None
            assert (entry.view.chunks, entry.view.frames, entry.view.seq, entry.view.fork_index) == (3, 32, 5, 3)
            assert 0 < entry.view.size_bytes < parent.size_bytes
            log = await store.read_log("video_b", 0)
            assert [(e.seq, e.kind, e.index) for e in log] == [
                (1, "segment", 0),
                (2, "segment", 1),
                (3, "segment", 2),
                (4, "cue", 3),
                (5, "state", 3),
            ]
            assert [e.segment for e in log[:3]] == [e.segment for e in (await store.snapshot("video_a")).entries[:3]]
            assert log[3].cue == OTHER
            assert await store.timeline("video_b") == Timeline(DIRECTION, (OTHER,))
            assert await store.config("video_b") == await store.config("video_a")
            memory, reset = await store.newest_memory("video_b")
            assert memory is not None
            assert (memory.digest, reset) == ((await store.memory("video_a", 2)).digest, None)
            await store.commit("video_b", await store.begin_run("video_b"), next(records_after(memory)))
            assert await hashes(store, "video_b") == (await hashes(store, "video_a"))[:4]
            assert blob_files(tmp_path) == files, "the same chunk made twice is stored once"

    asyncio.run(main())


def test_deleting_a_parent_breaks_no_child_and_the_last_one_frees_everything(tmp_path: Path) -> None:
    picture = Reference(np.zeros((1, 4, 6, 3), np.uint8))

    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.create(new_view(), {}, picture)
            for record in islice(records_after(), 4):
                await store.commit("video_a", 0, record)
            await store.branch(branch_view(2), Timeline(DIRECTION))
            await store.branch(branch_view(0, "video_c"), Timeline(DIRECTION))
            assert (await store.view("video_c")).chunks == 0
            assert await store.own_bytes("video_b") == 0
            own = await store.own_bytes("video_a")
            size = store.size_bytes
            await store.delete("video_a")
            assert store.size_bytes == size - own
            assert (await store.view("video_b")).parent_id is None
            for entry in (await store.snapshot("video_b")).entries:
                assert entry.segment is not None
                assert await store.read_blob(entry.segment.hash)
                assert await store.read_blob(entry.segment.init)
            memory, _ = await store.newest_memory("video_b")
            assert memory is not None
            assert memory.next_index == 2
            for child in ("video_b", "video_c"):
                assert await store.reference(child) is not None, "chunk 0 may have to be made again"
                await store.delete(child)
            assert (blob_files(tmp_path), store.size_bytes) == (set(), 0)

    asyncio.run(main())


def test_a_branch_of_a_thinned_film_can_be_given_its_memory_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 8)
            await store.thin("video_a")
            await store.branch(branch_view(6), Timeline(DIRECTION))
            memory = await store.memory_before("video_b", 6)
            assert memory is not None
            assert memory.next_index == 1
            size = (await store.view("video_b")).size_bytes
            for chunk in islice(chunks_after(memory), 5):
                assert await store.remember("video_b", record_of(chunk, stand_in(chunk)))
            assert (await store.view("video_b")).size_bytes > size
            newest, reset = await store.newest_memory("video_b")
            assert newest is not None
            assert (newest.next_index, reset) == (6, None)
            other = replace(next(records_after(memory)), frames_sha256="0" * 64)
            files = blob_files(tmp_path)
            assert not await store.remember("video_a", other), "a chunk that came out differently is not believed"
            assert blob_files(tmp_path) == files
            with pytest.raises(NotFound):
                await store.remember("video_b", next(records_after(newest)))

    asyncio.run(main())


def test_a_branch_point_keeps_its_memory(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 8)
            await store.branch(branch_view(4), Timeline(DIRECTION))
            await store.thin("video_a")
            assert [chunk.index for chunk in await store.chunks("video_a") if chunk.has_memory] == [0, 3, 7]

    asyncio.run(main())


def test_a_reset_is_told_and_keeps_the_film_as_it_was(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 5)
            early, late = Cue(1, {"guidance_scale": 2.0}), Cue(4, {"seed": 9})
            await store.cue("video_a", early, late)
            before, files = await hashes(store, "video_a"), blob_files(tmp_path)
            again = Cue(3, {"seed": 6})
            timeline = Timeline(DIRECTION, (early, again))
            entries = await store.reset("video_a", 3, timeline=timeline, keep_as="video_k", allowed={"queued"}, num_frames=80)
            assert [(e.seq, e.kind, e.index) for e in entries] == [(9, "reset", 3), (10, "cue", 3), (11, "state", 3)]
            assert (await store.read_log("video_a", 0))[-3:] == entries
            view = entries[-1].view
            assert view is not None
            assert view == await store.view("video_a")
            assert (view.chunks, view.frames, view.num_frames) == (3, 32, 80)
            assert await store.timeline("video_a") == timeline
            assert [e.cue for e in await store.read_log("video_a", 6)][:2] == [early, late], "the log still says what was said"
            kept = await store.view("video_k")
            assert (kept.chunks, kept.state, kept.ended_by, kept.num_frames) == (5, "stopped", "stopped", None)
            assert (kept.parent_id, kept.fork_index) == ("video_a", 3)
            assert await store.timeline("video_k") == Timeline(DIRECTION, (early, late))
            assert (await hashes(store, "video_k"), await hashes(store, "video_a")) == (before, before[:3])
            assert [chunk.has_memory for chunk in await store.chunks("video_k")] == [True, False, False, False, True]
            assert [chunk.has_memory for chunk in await store.chunks("video_a")] == [True] * 3
            assert len(files - blob_files(tmp_path)) == 1, "the memory after chunk 3"
            with pytest.raises(Conflict, match="expected chunk 3 of run 2"):
                await store.commit("video_a", 1, next(islice(records_after(), 3, None)))

    asyncio.run(main())


def test_a_reset_without_keeping_frees_the_chunks_and_can_change_the_beginning(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 3)
            await store.reset("video_a", 0, timeline=Timeline(replace(DIRECTION, seed=7)))
            view = await store.view("video_a")
            assert (view.chunks, view.frames, view.seed, view.size_bytes) == (0, 0, 7, 0)
            assert (blob_files(tmp_path), store.size_bytes) == (set(), 0)

    asyncio.run(main())


@pytest.mark.parametrize("index", [-1, 4, None])
def test_what_lies_beyond_the_film_is_refused(tmp_path: Path, index: int) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 3)
            with pytest.raises(InvalidRequest, match="fork_index is out of range: expected 0 to 3"):
                await store.branch(branch_view(index), Timeline(DIRECTION))
            with pytest.raises(InvalidRequest, match="from_index is out of range: expected 0 to 3"):
                await store.reset("video_a", index, keep_as="video_b")
            with pytest.raises(Conflict, match="expected one of running"):
                await store.reset("video_a", 1, keep_as="video_b", allowed={"running"})
            with pytest.raises(NotFound):
                await store.view("video_b")
            assert (await store.view("video_a")).seq == 4

    asyncio.run(main())


def test_cues_given_from_the_start_come_before_the_first_state(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            entry = await store.create(new_view(), {}, cues=(OTHER, replace(OTHER, index=8)))
            assert entry.seq == 3
            assert [(e.seq, e.kind, e.index) for e in await store.read_log("video_a", 0)] == [
                (1, "cue", 3),
                (2, "cue", 8),
                (3, "state", 0),
            ]
            with pytest.raises(NotFound):
                await store.cue("video_b", OTHER)

    asyncio.run(main())


def test_a_film_counts_what_it_refers_to_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await write_film(store, 6)
            await store.branch(branch_view(4), Timeline(DIRECTION))
            for video_id in ("video_a", "video_b"):
                view = await store.view(video_id)
                await store.thin(video_id)  # counts anew, and takes memories away
                sizes = {e.segment.hash: e.segment.size_bytes for e in (await store.snapshot(video_id)).entries if e.segment}
                assert sum(sizes.values()) < (await store.view(video_id)).size_bytes < view.size_bytes
            assert (await store.view("video_b")).size_bytes < (await store.view("video_a")).size_bytes <= store.size_bytes

    asyncio.run(main())
