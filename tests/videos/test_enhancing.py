"""Films made sharp: while they are made, watched or finished; redone, branched, stopped and gone on with; on test cards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from store.test_crash import quick_folder

from st2v_stream.chunk import Chunk, Frames, Memory
from st2v_stream.direction import Direction
from st2v_stream.enhancers.lanczos import Lanczos
from st2v_stream.errors import Conflict, InvalidRequest, StoreFull
from st2v_stream.generators.testcard import TestCard
from st2v_stream.store.enhancement import SharpCommit, SharpRecord
from st2v_stream.store.fsck import check
from st2v_stream.store.store import Store
from st2v_stream.types import (
    BranchVideo,
    Changes,
    CreateVideo,
    Enhancer,
    EnhanceVideo,
    LogEntry,
    ModelEntry,
    OnStep,
    Progress,
    SegmentRef,
    VideoView,
)
from st2v_stream.videos import enhancing
from st2v_stream.videos.exact import FRESH
from st2v_stream.videos.live import Live
from videos.lagging import Lagging
from videos.living import PATIENCE_S, living, small_card, until, until_chunk


def with_enhancer(enhancer: Enhancer, **options: Any) -> dict[str, ModelEntry]:
    card = small_card(**options)
    return {"testcard": ModelEntry(card.card, lambda: card, lambda: enhancer, enhancer.name)}


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


async def until_view(
    live: Live, video_id: str, holds: Callable[[VideoView], bool], patience_s: float = 3 * PATIENCE_S
) -> VideoView:
    """The video, once this holds; nobody watches it."""
    async with asyncio.timeout(patience_s):
        while not holds(view := await live.get(video_id)):  # noqa: ASYNC110 - to follow it would be to watch it
            await asyncio.sleep(0.005)
    return view


async def until_sharp(live: Live, video_id: str, patience_s: float = 3 * PATIENCE_S) -> VideoView:
    def is_sharp(view: VideoView) -> bool:
        return view.ended_by is not None and view.enhanced_frames == view.frames

    return await until_view(live, video_id, is_sharp, patience_s)


async def sharp_segments(live: Live, video_id: str) -> list[SegmentRef]:
    """Every enhanced segment in the order of the log."""
    seq, entries = (await live.get(video_id)).seq, list[SegmentRef]()
    async with asyncio.timeout(3 * PATIENCE_S), aclosing(live.follow(video_id)) as news:
        async for entry in news:
            if isinstance(entry, LogEntry):
                if entry.segment is not None and entry.segment.rendition == "enhanced":
                    entries.append(entry.segment)
                if entry.seq >= seq:
                    return entries
    raise AssertionError(f"{video_id} was deleted")


async def newest(live: Live, video_id: str) -> dict[int, str]:
    """By chunk the newest sharp segment."""
    return {segment.index: segment.hash for segment in await sharp_segments(live, video_id)}


async def unbroken(folder: Path, num_frames: int, ahead: int = 2, **request: Any) -> dict[int, str]:
    """The sharp segments of a film made and made sharp without any trouble."""
    async with living(folder, models=with_enhancer(Lagging(ahead))) as live:
        view = await live.create(CreateVideo("a film", num_frames=num_frames, enhance="all", **request))
        await until_sharp(live, view.id)
        return await newest(live, view.id)


def test_policy_all_makes_a_film_sharp_as_it_is_made(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, models=with_enhancer(Lanczos(2)), real=True) as live:
            view = await live.create(CreateVideo("a film", num_frames=40, enhance="all"))
            assert (view.enhance, view.enhancer) == ("all", "lanczos")
            view = await until_sharp(live, view.id)
            assert (view.enhanced_frames, view.enhanced_prefix_frames, view.enhance_error) == (40, 40, None)
            sharp = await sharp_segments(live, view.id)
            assert [(each.index, each.revision, each.start, each.codec[:9]) for each in sharp] == [
                *((0, 0, 0, "avc1.6400"), (1, 0, 16, "avc1.6400"), (2, 0, 24, "avc1.6400"), (3, 0, 32, "avc1.6400"))
            ]
            assert len({each.init for each in sharp}) == 1
            async with asyncio.timeout(PATIENCE_S):
                while live._enhancing.films:  # noqa: ASYNC110 - of a film that is whole nothing is held
                    await asyncio.sleep(0.005)
            assert len(live._enhancing._exact._fresh) <= FRESH
        assert check(tmp_path).findings == ()

    asyncio.run(main())


def test_a_film_that_is_well_ahead_of_its_playback_turns_sharp_while_it_is_made(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, models=with_enhancer(Lagging(ahead=0, steps=100), steps=2, seconds_per_step=0.02)) as live:
            view = await live.create(CreateVideo("a film", num_frames=None, enhance="all"))
            view = await until_view(live, view.id, lambda view: view.enhanced_frames >= 40)
            assert view.state == "running"
            assert view.frames < 800, "with one step per preview chunk it would be 3,384"

    asyncio.run(main())


def test_what_lags_behind_is_made_sharp_to_the_end_and_told_with_its_progress(tmp_path: Path) -> None:
    async def main() -> None:
        steps = set[tuple[str, int]]()
        async with living(tmp_path, models=with_enhancer(Lagging(seconds_per_step=0.002))) as live:
            view = await live.create(CreateVideo("a film", num_frames=64, enhance="watched"))
            async with asyncio.timeout(PATIENCE_S), aclosing(live.follow(view.id)) as news:
                async for entry in news:
                    if isinstance(entry, Progress) and entry.rendition == "enhanced":
                        steps.add((entry.rendition, entry.index))
                    if (await live.get(view.id)).enhanced_frames == 64:
                        break
            assert steps <= {("enhanced", index) for index in range(7)}
            assert len(steps) > 2
            sharp = await sharp_segments(live, view.id)
            assert [(each.index, each.revision) for each in sharp] == [(index, 0) for index in range(7)]
            async with asyncio.timeout(PATIENCE_S):  # memories are kept until the enhancer has seen them
                while sum([row.has_memory for row in await live._store.chunks(view.id)]) != 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)

    asyncio.run(main())


def test_nothing_is_made_sharp_without_a_viewer_or_beside_a_film_unless_that_is_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enhancing, "WATCHED_FOR_S", 0.05)

    async def main() -> None:
        async with living(tmp_path, models=with_enhancer(Lanczos(2), seconds_per_step=0.004)) as live:
            watched = await live.create(CreateVideo("a film", num_frames=40))
            assert watched.enhance == "watched"
            none = await live.create(CreateVideo("a film", num_frames=40, enhance="none"))
            idle = await live.create(CreateVideo("a film", num_frames=40, enhance="idle"))
            endless = await live.create(CreateVideo("a film", num_frames=None, enhance="none"))
            for view in (watched, none, idle):
                await until_view(live, view.id, lambda view: view.state == "completed")
            assert [(await live.get(view.id)).enhanced_frames for view in (watched, none, idle)] == [0, 0, 0]
            await live.stop(endless.id)
            assert (await until_sharp(live, idle.id)).enhanced_prefix_frames == 40
            assert [(await live.get(view.id)).enhanced_frames for view in (watched, none)] == [0, 0]
            async with asyncio.timeout(PATIENCE_S), aclosing(live.follow(watched.id)) as news:
                async for _ in news:
                    if (await live.get(watched.id)).enhanced_frames == 40:
                        break
            assert (await live.get(none.id)).enhanced_frames == 0
            assert (await live.edit(none.id, enhance="all")).enhance == "all"
            await until_sharp(live, none.id)

    asyncio.run(main())


def test_a_range_of_a_finished_film_and_later_the_rest_without_a_seam(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path / "a", models=with_enhancer(Lagging())) as live:
            view = await live.create(CreateVideo("a film", num_frames=160, enhance="none"))
            await until(live, view.id, "completed")
            asked = await live.enhance(view.id, EnhanceVideo(from_s=5.0, to_s=7.0))
            assert (asked.enhance, asked.enhanced_frames) == ("none", 0)
            view = await until_view(live, view.id, lambda view: view.enhanced_frames == 16)
            assert (view.enhanced_frames, view.enhanced_prefix_frames) == (16, 0)
            assert [each.index for each in await sharp_segments(live, view.id)] == [4, 5]
            await live.enhance(view.id, EnhanceVideo(4, 6))  # what is sharp already
            await live.enhance(view.id, EnhanceVideo())
            await until_sharp(live, view.id)
            made = await sharp_segments(live, view.id)
            assert [(each.index, each.revision) for each in made if each.index in (4, 5)] == [(4, 0), (5, 0), (4, 1), (5, 1)]
            assert await newest(live, view.id) == await unbroken(tmp_path / "b", 160)
        assert check(tmp_path / "a").findings == ()

    asyncio.run(main())


def test_what_was_asked_for_is_taken_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, models=with_enhancer(Lagging(seconds_per_step=0.01))) as live:
            view = await live.create(CreateVideo("a film", num_frames=240, enhance="none"))
            await until(live, view.id, "completed")
            await live.enhance(view.id, EnhanceVideo())
            await until_view(live, view.id, lambda view: view.enhanced_frames > 0)
            await live.edit(view.id, enhance="none")
            there = (await live.get(view.id)).enhanced_frames
            await asyncio.sleep(0.1)
            assert (await live.get(view.id)).enhanced_frames == there < 240
            for wrong in (EnhanceVideo(30), EnhanceVideo(3, 3), EnhanceVideo(1, from_s=1.0)):
                with pytest.raises(InvalidRequest):
                    await live.enhance(view.id, wrong)
        async with living(tmp_path) as live:
            with pytest.raises(Conflict, match="nothing makes"):
                await live.enhance(view.id, EnhanceVideo())

    asyncio.run(main())


def test_a_film_that_goes_on_gets_its_provisional_end_again_and_is_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path / "a", models=with_enhancer(Lagging())) as live:
            view = await live.create(CreateVideo("a film", num_frames=40, enhance="all"))
            await until_sharp(live, view.id)
            view = await live.continue_(view.id, 48)
            await until_sharp(live, view.id)
            made = [(each.index, each.revision) for each in await sharp_segments(live, view.id)]
            assert made == [(0, 0), (1, 0), (2, 0), (3, 0), (2, 1), (3, 1), *((index, 0) for index in range(4, 10))]
            assert await newest(live, view.id) == await unbroken(tmp_path / "b", 88)

    asyncio.run(main())


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_redo_and_a_branch_make_again_what_had_a_look_at_chunks_that_are_no_more(tmp_path: Path, ahead: int) -> None:
    async def main() -> None:
        async with living(tmp_path / "a", models=with_enhancer(Lagging(ahead))) as live:
            view = await live.create(CreateVideo("a film", num_frames=120, enhance="all"))
            await until_sharp(live, view.id)
            before = await newest(live, view.id)
            branch = await live.branch(view.id, BranchVideo(6, Changes(prompt="another"), num_frames=120))
            assert (branch.enhance, branch.enhanced_prefix_frames) == ("all", 56)
            await until_sharp(live, branch.id)
            redone, kept = await live.redo(view.id, 6, seed=5)
            assert (redone.enhanced_frames, redone.enhanced_prefix_frames) == (56, 56)
            assert (kept.enhance, kept.enhanced_frames) == ("none", 120)
            await until_sharp(live, view.id)
            assert await newest(live, kept.id) == before
            for film in (view.id, branch.id):
                sharp = await newest(live, film)
                assert {index for index in sharp if sharp[index] != before[index]} == set(range(6 - ahead, 14))
            assert await newest(live, view.id) == await remade(tmp_path / "b", ahead)
        assert check(tmp_path / "a").findings == ()

    asyncio.run(main())


async def remade(folder: Path, ahead: int) -> dict[int, str]:
    """The same redo, before anything was made sharp."""
    async with living(folder, models=with_enhancer(Lagging(ahead))) as live:
        view = await live.create(CreateVideo("a film", num_frames=120, enhance="none"))
        await until(live, view.id, "completed")
        await live.redo(view.id, 6, seed=5)
        await until(live, view.id, "completed")
        await live.edit(view.id, enhance="all")
        await until_sharp(live, view.id)
        return await newest(live, view.id)


def test_a_redo_in_the_middle_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, models=with_enhancer(Lagging(seconds_per_step=0.005), seconds_per_step=0.002)) as live:
            view = await live.create(CreateVideo("a film", num_frames=120, enhance="all"))
            for index in (5, 3, 9):
                await until_view(live, view.id, lambda view, index=index: view.chunks > index and view.enhanced_frames > 16)  # type: ignore[misc]
                await live.redo(view.id, index, seed=index)
            await until_sharp(live, view.id)
            again = await live.branch(view.id, BranchVideo(14, num_frames=128))  # whole at once
            await live.edit(again.id, enhance="none")
            assert sorted(await newest(live, view.id)) == list(range(14))

    asyncio.run(main())


class Failing(Lagging):
    """Raises at chunk 3 as often as it is told to."""

    def __init__(self, times: int) -> None:
        super().__init__(ahead=0)
        self.left = [times]

    def enhance(self, chunk: Chunk, carry: Memory | None, on_step: OnStep) -> Any:
        if chunk.index == 3 and self.left[0] > 0:
            self.left[0] -= 1
            raise RuntimeError("out of memory")
        return super().enhance(chunk, carry, on_step)


@pytest.mark.parametrize("times", [2, 4])
def test_an_enhancer_that_fails_hurts_no_preview(tmp_path: Path, times: int) -> None:
    async def main() -> None:
        enhancer = Failing(times)
        async with living(tmp_path, models=with_enhancer(enhancer)) as live:
            view = await live.create(CreateVideo("a film", num_frames=80, enhance="all"))
            await until_view(live, view.id, lambda view: view.state == "completed")
            if times > 2:
                view = await until_view(live, view.id, lambda view: view.enhance_error is not None)
                assert (view.enhance_error, view.enhanced_prefix_frames) == ("RuntimeError: out of memory", 32)
                await live.enhance(view.id, EnhanceVideo())  # whoever asks has it tried again
            view = await until_sharp(live, view.id)
            assert (view.state, view.enhance_error, view.enhanced_frames) == ("completed", None, 80)

    asyncio.run(main())


def test_the_film_watched_last_comes_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, models=with_enhancer(Lagging(ahead=0, seconds_per_step=0.01))) as live:
            films = [await live.create(CreateVideo(f"film {n}", num_frames=80, enhance="none")) for n in range(3)]
            for view in films:
                await until(live, view.id, "completed")
            for view in films:
                await live.edit(view.id, enhance="all")
            async with asyncio.timeout(PATIENCE_S), aclosing(live.follow(films[2].id)) as news:
                async for _ in news:
                    if (await live.get(films[2].id)).enhanced_frames == 80:
                        break
            others = [(await live.get(view.id)).enhanced_frames for view in films[:2]]
            assert sum(others) <= 24, "no more than what was being made when somebody came"
            for view in films:
                await until_sharp(live, view.id)

    asyncio.run(main())


def test_a_restart_goes_on_by_itself_and_a_deleted_film_is_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        models = with_enhancer(Lagging(seconds_per_step=0.004))
        async with living(tmp_path / "a", models=models) as live:
            view = await live.create(CreateVideo("a film", num_frames=120, enhance="all"))
            gone = await live.create(CreateVideo("a film", num_frames=120, enhance="all"))
            await until_chunk(live, gone.id, 2)
            await live.delete(gone.id)
            await until_view(live, view.id, lambda view: view.enhanced_frames > 0)
        async with living(tmp_path / "a", models=models) as live:
            await until_sharp(live, view.id)
            assert await newest(live, view.id) == await unbroken(tmp_path / "b", 120)

    asyncio.run(main())


class Changed(TestCard):
    """The same model in another determinism class, as it were: what it makes differs in one bit."""

    def generate(self, direction: Direction, memory: Memory, on_step: OnStep) -> tuple[Frames, Memory]:
        frames, after = super().generate(direction, memory, on_step)
        frames[0, 0, 0, 0] ^= 1
        return frames, after


def test_frames_that_cannot_be_made_again_as_they_were_are_not_made_sharp(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, models=with_enhancer(Lagging())) as live:
            view = await live.create(CreateVideo("a film", num_frames=160, enhance="none"))
            making = live._tasks[view.id]
            await until(live, view.id, "completed")
            await asyncio.wait([making])  # its memories are thinned now
        card = Changed(64, 48, steps=3)
        models = {"testcard": ModelEntry(card.card, lambda: card, Lagging, "lagging")}
        async with living(tmp_path, models=models) as live:
            await live.enhance(view.id, EnhanceVideo())
            view = await until_view(live, view.id, lambda view: view.enhance_error is not None)
            assert str(view.enhance_error).startswith(
                "the frames of chunk 1 are not kept and cannot be made again as they were"
            )
            assert (view.state, view.enhanced_frames) == ("completed", 0)
            while live._enhancing._call is not None:  # noqa: ASYNC110 - it also writes the row's copy
                await asyncio.sleep(0.005)
        assert check(tmp_path).findings == ()

    asyncio.run(main())


def test_a_full_disk_makes_it_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, refused = Store.commit_sharp, list[str]()

    async def full(store: Store, video_id: str, record: SharpRecord) -> SharpCommit:
        if len(refused) < 4:
            refused.append(video_id)
            raise StoreFull("no space left", expected="free space", received="none")
        return await commit(store, video_id, record)

    async def main() -> None:
        monkeypatch.setattr(Store, "commit_sharp", full)
        async with living(tmp_path, models=with_enhancer(Lagging())) as live:
            view = await live.create(CreateVideo("a film", num_frames=40, enhance="all"))
            view = await until_sharp(live, view.id)
            assert (len(refused), view.enhance_error, view.enhanced_frames) == (4, None, 40)

    asyncio.run(main())
