"""The rows of the enhanced rendition: fences, carries that are kept, and all of it in copies, bundles, branches and checks."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from videos.lagging import Lagging

from st2v_stream.chunk import Chunk
from st2v_stream.errors import Conflict
from st2v_stream.store.enhancement import MAX_ATTEMPTS, NextWork, SharpRecord, is_kept, sharp_record, sharp_segment
from st2v_stream.store.fsck import check
from st2v_stream.store.rebuild import rebuild
from st2v_stream.store.store import Store
from st2v_stream.types import VideoView
from st2v_stream.videos.bundles import export_film, import_film
from store.films import DIRECTION, chunks_after, stand_in
from store.test_crash import quick_folder
from store.test_store import opened, write_film

CHUNKS: list[Chunk] = []
ENHANCER = Lagging(ahead=2, steps=1)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


def chunk(index: int) -> Chunk:
    while len(CHUNKS) <= index:
        CHUNKS.append(next(chunks_after(CHUNKS[-1].memory if CHUNKS else None)))
    return CHUNKS[index]


async def called(store: Store, video_id: str, work: NextWork) -> SharpRecord:
    carry = await store.carry(work)
    if work.is_end:
        assert carry is not None
        made, after = ENHANCER.finish(carry, lambda k, n: None)
    else:
        made, after = ENHANCER.enhance(chunk(work.index), carry, lambda k, n: None)
    encoded = [replace(stand_in(each.chunk), data=each.chunk.frames.tobytes()[-2000:]) for each in made]  # their last row
    return sharp_record(work, [sharp_segment(each, data) for each, data in zip(made, encoded, strict=True)], after)


async def sharpen(store: Store, video_id: str, *, calls: int = 1000, everything: bool = True) -> VideoView:
    for _ in range(calls):
        work = await store.next_work(video_id, everything=everything)
        if work is None:
            break
        await store.commit_sharp(video_id, await called(store, video_id, work))
    return await store.view(video_id)


async def film(store: Store, chunks: int, *, calls: int = 1000, ended: bool = True) -> VideoView:
    await write_film(store, chunks)
    if ended:
        await store.change("video_a", None, state="completed", ended_by="length")
    return await sharpen(store, "video_a", calls=calls)


def rows(data_dir: Path) -> list[tuple[object, ...]]:
    """What is begun and what is sharp, without the times."""
    connection = sqlite3.connect(data_dir / "st2v.db")
    found = connection.execute(
        "SELECT idx, state, seen, carry, pending, began, apart FROM enhancement WHERE state IS NOT NULL OR carry IS NOT NULL"
    ).fetchall()
    found += connection.execute("SELECT idx, revision, seq, hash, init FROM segment WHERE rendition = 'enhanced'").fetchall()
    found += connection.execute("SELECT idx, name, sha256 FROM part WHERE name GLOB 'carry/*' ORDER BY 1, 2").fetchall()
    found += connection.execute("SELECT enhanced_frames, enhanced_prefix, size_bytes FROM video").fetchall()
    connection.close()
    return found


def test_what_is_sharp_is_counted_and_few_carries_are_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            view = await film(store, 40)
            assert (view.enhanced_frames, view.enhanced_prefix_frames) == (view.frames, view.frames)
            states = {row[0]: row[1] for row in rows(tmp_path) if len(row) == 7 and row[1] is not None}
            assert states == {index: "done" if index < 38 else "provisional" for index in range(40)}
            assert await store.next_work("video_a", everything=True) is None
            carries = [row[0] for row in rows(tmp_path) if len(row) == 7 and row[3] is not None]
            assert carries == [0, 16, 24, 32, 39]
            assert await store.collect(0) == 0, "what is kept no longer went at once"
        assert check(tmp_path).findings == ()

    asyncio.run(main())


def test_carries_that_are_kept_are_few_and_near() -> None:
    for newest in (*range(40), 255, 256, 257, 1000):
        kept = [index for index in range(newest + 1) if is_kept(index, newest)]
        assert len(kept) <= 3 + newest.bit_length()
        for back in range(1, newest):
            nearest = max(index for index in kept if index <= newest - back)
            assert newest - back - nearest <= max(8, 2 * back)
        later = {index for index in range(newest + 1) if is_kept(index, newest + 1)}
        assert later <= {*kept, newest}, "what was dropped is not missed later"


def test_a_chunk_that_is_no_more_fences_what_was_made_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await film(store, 8, calls=5, ended=False)
            work = await store.next_work("video_a", everything=True)
            assert work is not None
            assert (work.target, work.index, work.pending) == (3, 5, 3)
            record = await called(store, "video_a", work)
            await store.reset("video_a", 6)  # later than all it has seen
            await store.commit_sharp("video_a", record)
            work = await store.next_work("video_a", everything=True)
            assert work is None, "chunk 4 waits for chunk 6, or for the film's end"
            await store.change("video_a", None, state="stopped", ended_by="stopped")
            work = await store.next_work("video_a", everything=True)
            assert work is not None
            assert (work.target, work.is_end) == (4, True)
            record = await called(store, "video_a", work)
            await store.reset("video_a", 5)
            for stale in (record, replace(record, work=replace(work, index=4, sha256="0" * 64))):
                with pytest.raises(Conflict, match="does not take"):
                    await store.commit_sharp("video_a", stale)
            view = await store.view("video_a")
            assert (view.enhanced_frames, view.enhanced_prefix_frames, view.chunks) == (40, 40, 5)
            epoch = await store.begin_run("video_a")
            assert epoch > 0
            await store.delete("video_a")
            with pytest.raises(Conflict):
                await store.commit_sharp("video_a", record)

    asyncio.run(main())


def test_a_reset_takes_sharp_chunks_and_carries_out_and_says_what_is_made_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            before = (await film(store, 20)).size_bytes
            await store.reset("video_a", 10)
            states = {row[0]: row[1] for row in rows(tmp_path) if len(row) == 7 and row[1] is not None}
            assert states == {index: "done" if index < 8 else "again" for index in range(10)}
            assert (await store.view("video_a")).size_bytes < before
            work = await store.next_work("video_a", everything=True)
            assert work is not None
            assert (work.target, work.index, work.pending) == (8, 9, 7), "the newest carry that is kept has seen chunk 8"
        assert check(tmp_path).findings == ()

    asyncio.run(main())


def test_attempts_are_counted_and_forgotten_by_asking(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await film(store, 4, calls=2)
            for _ in range(MAX_ATTEMPTS - 1):
                assert await store.count_failure("video_a", 0, "it broke") is None
            entry = await store.count_failure("video_a", 0, "it broke")
            assert entry is not None
            assert entry.view is not None
            assert entry.view.enhance_error == "it broke"
            assert await store.next_work("video_a", everything=True) is None
            entry = await store.ask_to_enhance("video_a", 0, None, "lagging")
            assert entry.view is not None
            assert (entry.view.enhance_error, entry.view.enhancer) == (None, "lagging")
            assert (await sharpen(store, "video_a", everything=False)).enhanced_frames == 40

    asyncio.run(main())


def test_a_carry_that_is_lost_is_done_without(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await film(store, 12, calls=10)
            size = (await store.view("video_a")).size_bytes
            while (work := await store.next_work("video_a", everything=True)) is not None and work.carry is not None:
                await store.drop_carry("video_a", work.carry)
            assert work is not None
            assert (work.target, work.index, work.run.apart) == (8, 8, True)
            assert (await store.view("video_a")).size_bytes < size
            view = await sharpen(store, "video_a")
            assert view.enhanced_frames == view.frames
        assert check(tmp_path).findings == ()

    asyncio.run(main())


def test_the_database_is_made_anew_with_all_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await film(store, 12, calls=9)
            await store.reset("video_a", 10)

    asyncio.run(main())
    before = rows(tmp_path)
    rebuild(tmp_path)
    assert not check(tmp_path).is_damaged
    carries = {row[0] for row in rows(tmp_path) if len(row) == 7 and row[3] is not None}
    assert carries == {8}, "of those that say nothing of a sharp chunk, none is needed"
    assert [row for row in rows(tmp_path) if len(row) == 5] == [row for row in before if len(row) == 5]

    async def go_on() -> None:
        async with opened(tmp_path) as store:
            await store.change("video_a", None, state="completed", ended_by="length")
            view = await sharpen(store, "video_a")
            assert (view.enhanced_frames, view.enhanced_prefix_frames) == (88, 88)
            revisions = {chunk.index: len(chunk.segments) for chunk in await store.chunks("video_a")}
            assert revisions == dict.fromkeys(range(10), 2)

    asyncio.run(go_on())
    assert check(tmp_path).findings == ()


def test_a_bundle_carries_it_and_a_branch_shares_it(tmp_path: Path) -> None:
    bundle, elsewhere = tmp_path / "film.zip", tmp_path / "b"

    async def main() -> None:
        async with opened(tmp_path / "a") as store:
            await film(store, 12, calls=9)
            await store.change_policy("video_a", "lagging", {"enhance": "all"})
            await export_film(store, "video_a", bundle)
            view = replace(await store.view("video_a"), id="video_b", parent_id="video_a", fork_index=8, direction=DIRECTION)
            timeline = await store.timeline("video_a")
            await store.branch(view, timeline)
            branch = await store.view("video_b")
            assert (branch.enhanced_frames, branch.enhanced_prefix_frames) == (64, 64)
            work = await store.next_work("video_b", everything=True)
            assert work is not None
            assert (work.target, work.index) == (6, 1), "chunk 6 was made with chunk 8, which is the branch's own"
            branch = await sharpen(store, "video_b")
            made = [len(chunk.segments) for chunk in await store.chunks("video_b")]
            assert made == [2] * 6 + [3, 2], "0 to 5 came as they were"
        async with opened(elsewhere) as store:
            carried = await import_film(store, bundle)
            assert (carried.enhance, carried.enhanced_prefix_frames) == ("none", 64)
            work = await store.next_work(carried.id, everything=True)
            assert work is not None
            assert (work.target, work.index, work.carry is not None) == (7, 9, True)
            await sharpen(store, carried.id)

    asyncio.run(main())
    for data_dir in (tmp_path / "a", elsewhere):
        assert check(data_dir).findings == ()


def test_a_check_finds_what_is_wrong_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await film(store, 6, calls=5)

    asyncio.run(main())
    connection = sqlite3.connect(tmp_path / "st2v.db")
    connection.execute("UPDATE video SET enhanced_prefix = 2")
    connection.execute("UPDATE part SET name = 'carry/x' WHERE name = 'carry/past' AND idx = 4")
    connection.execute("DELETE FROM part WHERE name = 'carry/notes' AND idx = 4")
    connection.commit()
    connection.close()
    texts = [finding.text for finding in check(tmp_path).findings if finding.weight == "damage"]
    assert texts[-2:] == [
        "says 32 sharp frames and 2 sharp chunks from its beginning, has 32 and 3",
        "what is begun of the sharp film at chunk 4 lacks parts",
    ]
