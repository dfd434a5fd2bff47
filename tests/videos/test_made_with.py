"""Every chunk says what it was made with."""

from __future__ import annotations

import asyncio
from pathlib import Path

from st2v_stream.store.determinism import determinism_class
from st2v_stream.types import CreateVideo
from videos.living import living, small_card, until


def test_every_chunk_of_a_film_names_its_determinism_class(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            view = await live.create(CreateVideo("a film", num_frames=24))
            await until(live, view.id, "completed")
            chunks = await live._store.chunks(view.id)
            assert [chunk.made_with for chunk in chunks] == [determinism_class(small_card())] * 2

    asyncio.run(main())
