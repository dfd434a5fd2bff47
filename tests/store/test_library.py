"""Titles, search, and deletes that can be taken back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from st2v_stream.direction import Cue, Direction
from st2v_stream.errors import Conflict, NotFound, StoreFull
from st2v_stream.store import videos
from st2v_stream.store.store import GRACE_S, Store
from store.films import new_view, records_after
from store.test_store import blob_files, opened, write_film


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = videos.now_s()
        for module in ("videos", "sweep", "segments", "branches"):
            monkeypatch.setattr(f"st2v_stream.store.{module}.now_s", lambda: self.now_s)


def test_a_deleted_film_is_not_found_and_can_be_had_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    async def main() -> None:
        store = await Store.open(tmp_path)
        await write_film(store, 3)
        before, files = await store.view("video_a"), blob_files(tmp_path)
        await store.delete("video_a")
        for read in (store.view, store.snapshot, store.timeline, store.begin_run, store.delete, store.own_bytes, store.chunks):
            with pytest.raises(NotFound):
                await read("video_a")
        assert await store.page(None, 5, "desc") == ([], False)
        assert await store.in_states("queued") == []
        with pytest.raises(Conflict, match="no video"):
            await store.commit("video_a", 1, next(islice(records_after(), 3, None)))
        await store.close()
        store = await Store.open(tmp_path)
        assert blob_files(tmp_path) == files
        entry = await store.undelete("video_a")
        assert entry.view is not None
        assert (entry.view.state, entry.view.ended_by, entry.view.seq) == ("stopped", "stopped", before.seq + 1)
        assert (await store.view("video_a")).chunks == 3
        with pytest.raises(NotFound, match="no deleted video"):
            await store.undelete("video_a")
        await store.delete("video_a")
        clock.now_s += GRACE_S - 1
        assert await store.collect() == 0
        clock.now_s += 1
        assert await store.collect() == before.size_bytes
        assert (blob_files(tmp_path), store.size_bytes) == (set(), 0)
        assert not (tmp_path / "videos" / "video_a.jsonl").exists()
        with pytest.raises(NotFound):
            await store.undelete("video_a")
        await store.close()

    asyncio.run(main())


def test_what_a_reset_took_out_can_be_fetched_until_the_grace_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    async def main() -> None:
        store = await Store.open(tmp_path)
        await write_film(store, 3)
        segment = await store.segment("video_a", 2)
        assert segment is not None
        await store.reset("video_a", 1)
        assert await store.read_blob(segment.hash)
        clock.now_s += GRACE_S - 10
        assert await store.collect() == 0
        for record in islice(records_after((await store.newest_memory("video_a"))[0]), 2):
            await store.commit("video_a", 2, record)  # the same chunks: they are referred to again
        clock.now_s += GRACE_S
        assert await store.collect() == 0
        assert await store.read_blob(segment.hash)
        await store.reset("video_a", 2)
        clock.now_s += GRACE_S
        assert await store.collect() > 0
        with pytest.raises(NotFound):
            await store.read_blob(segment.hash)
        await store.close()

    asyncio.run(main())


def test_on_a_full_disk_the_grace_is_over(tmp_path: Path) -> None:
    async def main() -> None:
        store = await Store.open(tmp_path)
        await write_film(store, 3)
        store.trouble = StoreFull("full")
        await store.delete("video_a")
        assert blob_files(tmp_path) == set()
        await store.close()

    asyncio.run(main())


def test_a_write_that_finds_the_disk_full_ends_the_grace_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        store = await Store.open(tmp_path)
        await write_film(store, 3)
        await store.delete("video_a")
        assert blob_files(tmp_path) != set()

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("st2v_stream.store.store.videos.insert_video", full)
        with pytest.raises(StoreFull):
            await store.create(new_view("video_b"), {})
        assert blob_files(tmp_path) == set()
        await store.close()

    asyncio.run(main())


def test_renaming_and_searching(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            for name, prompt in (("a", "A red Kite"), ("b", "a blue kite"), ("c", "100% wool_")):
                view = replace(new_view(f"video_{name}"), title=f"film {name}", direction=Direction(((prompt, 1.0),)))
                await store.create(view, {})
            await store.cue("video_c", Cue(2, {"prompts": (("then a dragon", 1.0),)}))
            entry = await store.rename("video_b", "My Holidays")
            assert entry.view is not None
            assert (entry.view.title, entry.view.state) == ("My Holidays", "queued")
            changed = await store.change("video_b", None, when_unwatched="30")
            assert changed.view is not None
            assert changed.view.when_unwatched == "30"

            async def found(words: str) -> str:
                views, more = await store.page(None, 10, "asc", words)
                assert not more
                return "".join(view.id[-1] for view in views)

            for words, expected in {
                "": "abc",
                "kite": "ab",
                "KITE red": "a",
                "holi": "b",
                "film b": "",
                "dragon": "c",
                "0%": "c",
                "l_": "c",
                "_": "abc",  # the ids have one
                "video_a": "a",
                "%": "c",
                "wool'": "",
            }.items():
                assert await found(words) == expected, words
            views, more = await store.page(None, 1, "desc", "kite")
            assert ([view.id for view in views], more) == (["video_b"], True)
            assert [view.id for view in (await store.page("video_b", 1, "desc", "kite"))[0]] == ["video_a"]

    asyncio.run(main())
