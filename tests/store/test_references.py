"""What a film starts from is kept as long as the film, whatever happens before its first chunk."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from st2v_stream.errors import Conflict, NotFound, StoreDamaged, StoreFull
from st2v_stream.store import migrations
from st2v_stream.store.database import connect
from st2v_stream.store.references import reference_from_blob, reference_to_blob
from st2v_stream.types import Reference
from store.films import new_view
from store.test_store import blob_files, opened, write_film

PICTURE = Reference(np.random.default_rng(0).integers(0, 256, (1, 30, 50, 3), np.uint8))


def test_pixel_for_pixel_as_a_blob() -> None:
    turned = Reference(PICTURE.frames[:, ::-1, ::-1])  # no plain array
    for reference in (PICTURE, turned):
        blob = reference_to_blob(reference)
        assert np.array_equal(reference_from_blob(blob.data).frames, reference.frames)
    with pytest.raises(StoreDamaged, match="an input is damaged"):
        reference_from_blob(b"no safetensors")


def test_it_is_there_after_a_restart_and_goes_with_its_last_video(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            for video_id in ("video_a", "video_b"):
                await store.create(new_view(video_id), {}, PICTURE)
            await store.create(new_view("video_c"), {})
            size = store.size_bytes
            assert size == len(reference_to_blob(PICTURE).data)  # once for both
        async with opened(tmp_path) as store:
            assert store.size_bytes == size
            for video_id in ("video_a", "video_b"):
                kept = await store.reference(video_id)
                assert kept is not None
                assert np.array_equal(kept.frames, PICTURE.frames)
            assert await store.reference("video_c") is None
            await store.delete("video_a")
            await store.thin("video_c")
            assert await store.reference("video_b") is not None
            await store.delete("video_b")
            assert (store.size_bytes, blob_files(tmp_path)) == (0, set())
            with pytest.raises(NotFound):
                await store.reference("video_b")

    asyncio.run(main())


def test_the_copy_of_the_log_names_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.create(new_view(), {}, PICTURE)

    asyncio.run(main())
    (line,) = (tmp_path / "videos" / "video_a.jsonl").read_text().splitlines()
    assert json.loads(line)["reference"] == reference_to_blob(PICTURE).sha256


def test_one_that_is_lost_is_said_and_not_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as store:
            await store.create(new_view(), {}, PICTURE)
        sha256 = reference_to_blob(PICTURE).sha256
        (tmp_path / "blobs" / sha256[:2] / sha256).write_bytes(b"other bytes")
        async with opened(tmp_path) as store:
            with pytest.raises(NotFound, match="what video_a starts from is lost"):
                await store.reference("video_a")

    asyncio.run(main())


def test_where_the_row_cannot_be_written_no_blob_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        async with opened(tmp_path) as store:
            monkeypatch.setattr("st2v_stream.store.store.videos.insert_video", full)
            with pytest.raises(StoreFull):
                await store.create(new_view(), {}, PICTURE)
            assert (store.size_bytes, blob_files(tmp_path)) == (0, set())

    asyncio.run(main())


def test_a_data_directory_from_before_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with monkeypatch.context() as before:
            before.setattr(migrations, "MIGRATIONS", (migrations.FIRST,))
            old = connect(tmp_path / "st2v.db")
            migrations.migrate(old)
            old.close()
        with sqlite3.connect(tmp_path / "st2v.db") as old:
            assert old.execute("PRAGMA user_version").fetchone() == (1,)
            assert "reference" not in [row[1] for row in old.execute("PRAGMA table_info(video)")]
        async with opened(tmp_path) as store:
            await write_film(store, 2)
            assert await store.reference("video_a") is None
            await store.create(new_view("video_b"), {}, PICTURE)
            assert await store.reference("video_b") is not None
            with pytest.raises(Conflict):
                await store.change("video_b", (), state="running")

    asyncio.run(main())
