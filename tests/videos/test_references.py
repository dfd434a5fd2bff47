"""A film that starts from an image: the picture reaches the generator, also after a restart before the first chunk."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import numpy as np
import pytest

from st2v_stream.generators.testcard import TestCard
from st2v_stream.store.references import reference_to_blob
from st2v_stream.types import CreateVideo, Reference, VideoView
from videos.living import frame_hashes, living, small_card, unbroken_hashes, until, until_step

PICTURE = Reference(np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3), np.uint8))
FILM = CreateVideo("a film", num_frames=24, reference=PICTURE)


def expected_hashes(view: VideoView, card: TestCard | None = None) -> list[str]:
    """Both chunks, made from the picture without any of the flow."""
    assert view.direction is not None
    card, hashes = card or small_card(), list[str]()
    frames, memory = card.begin(view.direction, PICTURE, lambda k, n: None)
    hashes.append(hashlib.sha256(frames.tobytes()).hexdigest())
    frames, _ = card.generate(view.direction, memory, lambda k, n: None)
    return [*hashes, hashlib.sha256(frames.tobytes()).hexdigest()]


def test_the_picture_reaches_the_first_chunk(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            view = await live.create(FILM)
            await until(live, view.id, "completed")
            assert await frame_hashes(live, view.id) == expected_hashes(view)
            assert view.direction is not None
            assert expected_hashes(view) != list(unbroken_hashes(view.direction, 2))

    asyncio.run(main())


def test_a_restart_before_the_first_chunk_still_has_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.2)) as live:
            view = await live.create(FILM)
            await until_step(live, view.id, 0, 1)
            assert await frame_hashes(live, view.id) == []
        async with living(tmp_path) as live:
            await until(live, view.id, "completed")
            assert await frame_hashes(live, view.id) == expected_hashes(view)

    asyncio.run(main())


def test_a_film_stopped_before_its_first_chunk_continues_from_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.05)) as live:
            view = await live.create(FILM)
            await until_step(live, view.id, 0, 1)
            await live.stop(view.id)
            assert (await until(live, view.id, "stopped")).frames == 0
            await live.continue_(view.id, 24)
            await until(live, view.id, "completed")
            assert await frame_hashes(live, view.id) == expected_hashes(view)

    asyncio.run(main())


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_where_it_is_lost_the_film_says_so(tmp_path: Path, harm: str) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.2)) as live:
            view = await live.create(FILM)
            await until_step(live, view.id, 0, 0)
        sha256 = reference_to_blob(PICTURE).sha256
        blob = tmp_path / "blobs" / sha256[:2] / sha256
        blob.write_bytes(b"no") if harm == "damaged" else blob.unlink()
        async with living(tmp_path) as live:
            failed = await until(live, view.id, "failed")
            assert failed.error is not None
            assert "starts from is lost" in failed.error

    asyncio.run(main())
