"""Films made sharp while they are made: policies, fairness, redo and branch, failures; on test cards."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

from st2v_stream.enhancers.lanczos import Lanczos
from st2v_stream.types import CreateVideo, Enhancer, LogEntry, ModelEntry, SegmentRef
from st2v_stream.videos.live import Live
from videos.living import PATIENCE_S, living, small_card, until


def with_enhancer(enhancer: Enhancer, **options: Any) -> dict[str, ModelEntry]:
    card = small_card(**options)
    return {"testcard": ModelEntry(card.card, lambda: card, lambda: enhancer, enhancer.name)}


async def until_sharp(live: Live, video_id: str, frames: int) -> list[SegmentRef]:
    """Every enhanced segment in the order of the log, once so many frames are sharp."""
    sharp = list[SegmentRef]()
    async with asyncio.timeout(PATIENCE_S), aclosing(live.follow(video_id)) as news:
        async for entry in news:
            if isinstance(entry, LogEntry) and entry.segment is not None and entry.segment.rendition == "enhanced":
                sharp.append(entry.segment)
                if (await live.get(video_id)).enhanced_frames >= frames:
                    return sharp
    raise AssertionError


def test_policy_all_makes_a_film_sharp_as_it_is_made(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, models=with_enhancer(Lanczos(2)), real=True) as live:
            view = await live.create(CreateVideo("a film", num_frames=40, enhance="all"))
            assert (view.enhance, view.enhancer) == ("all", "lanczos")
            sharp = await until_sharp(live, view.id, 40)
            assert [(each.index, each.revision, each.start) for each in sharp] == [(0, 0, 0), (1, 0, 16), (2, 0, 24), (3, 0, 32)]
            view = await until(live, view.id, "completed")
            assert (view.enhanced_frames, view.enhanced_prefix_frames, view.enhance_error) == (40, 40, None)

    asyncio.run(main())
