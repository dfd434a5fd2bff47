"""The director's verbs on the test card, whose every frame shows all that was said and made before it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from st2v_stream.chunk import Frames, Memory
from st2v_stream.direction import Cue, Direction, Timeline
from st2v_stream.errors import Conflict, InvalidRequest, NotFound, StoreError
from st2v_stream.generators.testcard import TestCard
from st2v_stream.store.store import GRACE_S
from st2v_stream.types import (
    AddCue,
    BranchVideo,
    Changes,
    CreateVideo,
    Generator,
    LogEntry,
    OnStep,
    Progress,
    SegmentRef,
    VideoView,
)
from st2v_stream.videos.branches import ModelDoesNotFit
from st2v_stream.videos.cues import MAX_CUES
from st2v_stream.videos.live import Live
from videos.living import (
    PATIENCE_S,
    entries_to_the_end,
    entry_of,
    frame_hashes,
    living,
    small_card,
    until,
    until_chunk,
    until_step,
)

FILM = CreateVideo("a film", num_frames=48, seed=5)
"""Five chunks."""
BLUE, RED = Changes("a blue film"), Changes("a red film")


def hashes_of(timeline: Timeline, chunks: int, generator: Generator | None = None) -> list[str]:
    """sha256 of the frames of every chunk, made in one go without any of the flow."""
    generator, memory, hashes = generator or small_card(), None, list[str]()
    for index in range(chunks):
        frames, memory = make(generator, timeline.at(index), memory)
        hashes.append(hashlib.sha256(frames.tobytes()).hexdigest())
    return hashes


def make(generator: Generator, direction: Direction, memory: Memory | None) -> tuple[Frames, Memory]:
    if memory is None:
        return generator.begin(direction, None, lambda k, n: None)
    return generator.generate(direction, memory, lambda k, n: None)


async def finished(live: Live, request: CreateVideo = FILM) -> VideoView:
    view = await live.create(request)
    return await until(live, view.id, "completed")


async def thinned(live: Live, video_id: str, kept: Sequence[int]) -> None:
    """Until memories other than these are forgotten (that happens right after the end)."""
    async with asyncio.timeout(PATIENCE_S):
        while video_id in live._tasks:
            await asyncio.wait([live._tasks[video_id]])
    assert [row.index for row in await live._store.chunks(video_id) if row.has_memory] == list(kept)


async def segments(live: Live, video_id: str) -> list[SegmentRef]:
    found = [entry.segment for entry in (await live.snapshot(video_id)).entries if entry.segment is not None]
    return sorted(found, key=lambda segment: segment.index)


# ---------------------------------------------------------------- cues


def test_cues_given_up_front_are_what_the_film_is_made_with(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            cues = AddCue(BLUE, from_s=2.5, transition_chunks=2), AddCue(Changes(seed=9), from_index=4)
            view = await finished(live, replace(FILM, cues=cues))
            timeline = await live.timeline(view.id)
            expected = Cue(2, {"prompts": (("a blue film", 1.0),)}, 2), Cue(4, {"seed": 9})  # chunk 1 begins at 2 s, 2 at 3 s
            assert timeline.cues == expected
            mixed = [timeline.at(index).prompts for index in range(5)]
            assert mixed[1] == (("a film", 1.0),)
            assert mixed[2] == (("a film", 0.666667), ("a blue film", 0.333333))
            assert mixed[3] == (("a film", 0.333333), ("a blue film", 0.666667))
            assert mixed[4] == (("a blue film", 1.0),)
            assert await frame_hashes(live, view.id) == hashes_of(timeline, 5)

    asyncio.run(main())


def test_a_cue_at_the_beginning_is_the_beginning(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            cues = (AddCue(Changes("a green film", guidance_scale=2.0), from_s=0), AddCue(RED, from_s=2))
            view = await live.create(replace(FILM, cues=cues))
            assert (view.prompt, view.title) == ("a green film", "a green film")
            assert view.direction is not None
            assert view.direction.of_first_chunk.guidance_scale == 2.0
            assert [cue.index for cue in (await live.timeline(view.id)).cues] == [1]

    asyncio.run(main())


@pytest.mark.parametrize("at", [(0, 1), (2, 0), (3, 2)])
def test_a_cue_changes_the_chunk_that_it_names_and_none_before(tmp_path: Path, at: tuple[int, int]) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.02)) as live:
            view = await live.create(replace(FILM, num_frames=None))
            await until_step(live, view.id, *at)
            added = await live.cue(view.id, AddCue(BLUE))
            assert added.cue.index > at[0]  # the one being made is not changed any more
            assert added.start == view.spec.start_of(added.cue.index)
            assert added.cue.index not in [segment.index for segment in await segments(live, view.id)]
            later = await live.cue(view.id, AddCue(Changes(seed=77), from_index=added.cue.index + 2))
            await until_chunk(live, view.id, added.cue.index + 3)
            await live.stop(view.id)
            done = await until(live, view.id, "stopped")
            assert view.direction is not None
            timeline = Timeline(view.direction, (added.cue, later.cue))
            assert timeline == await live.timeline(view.id)
            assert await frame_hashes(live, view.id) == hashes_of(timeline, done.chunks)

    asyncio.run(main())


def test_a_cue_can_be_taken_back_until_its_chunk_is_begun(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.02)) as live:
            view = await live.create(replace(FILM, num_frames=None))
            await until_step(live, view.id, 1, 0)
            near, far = await live.cue(view.id, AddCue(RED)), await live.cue(view.id, AddCue(BLUE, from_index=7))
            assert await live.cues(view.id) == [(near.seq, near.cue), (far.seq, far.cue)]
            told = await live.take_back_cue(view.id, far.seq)
            assert (told.kind, told.index, told.cue, told.taken_back) == ("cue", 7, None, far.seq)
            await until_step(live, view.id, near.cue.index, 0)
            with pytest.raises(Conflict, match=f"chunk {near.cue.index} is made or being made: its cue holds"):
                await live.take_back_cue(view.id, near.seq)
            with pytest.raises(NotFound, match="no such cue"):
                await live.take_back_cue(view.id, far.seq)
            await until_chunk(live, view.id, 8)
            await live.stop(view.id)
            done = await until(live, view.id, "stopped")
            log = await entries_to_the_end(live, view.id)
            assert [entry.taken_back for entry in log if entry.kind == "cue"] == [None, None, far.seq]
            assert view.direction is not None
            timeline = Timeline(view.direction, (near.cue,))
            assert await live.timeline(view.id) == timeline
            assert await frame_hashes(live, view.id) == hashes_of(timeline, done.chunks)
            later = await live.cue(view.id, AddCue(BLUE))
            assert (await live.take_back_cue(view.id, later.seq)).index == done.chunks, "a stopped film, too"
        async with living(tmp_path) as live:
            assert await live.timeline(view.id) == timeline

    asyncio.run(main())


def test_a_branch_shows_the_prompt_it_goes_its_own_way_with(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            film = await finished(live, replace(FILM, cues=(AddCue(RED, from_index=2),)))
            assert (film.prompt, film.title) == ("a film", "a film")
            as_it_is = await live.branch(film.id, BranchVideo(3))
            mixed = await live.branch(film.id, BranchVideo(0, BLUE, 2))
            own = await live.branch(film.id, BranchVideo(1, BLUE, 2))
            of_own = await live.branch(own.id, BranchVideo(1, RED))
            assert [view.prompt for view in (as_it_is, mixed, own, of_own)] == [
                "a red film", "a blue film", "a blue film", "a red film",
            ]  # fmt: skip
            assert (own.title, own.direction) == ("a blue film", film.direction)
            listed = {view.id: view.prompt for view in (await live.list())[0]}
            assert (listed[film.id], listed[own.id]) == ("a film", "a blue film")
            await until(live, own.id, "completed")
            redone, kept = await live.redo(own.id, 0)
            assert (kept.prompt, redone.fork_index) == ("a film", 0), "from its beginning on it shares nothing any more"

    asyncio.run(main())


def test_followers_hear_of_a_cue_before_they_see_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.01)) as live:
            view = await live.create(replace(FILM, num_frames=64))
            await until_step(live, view.id, 1, 1)
            added = await live.cue(view.id, AddCue(BLUE, from_index=0))
            assert "takes effect from chunk" in added.warnings[0]
            assert (await live.get(view.id)).seq >= added.seq
            entries = await entries_to_the_end(live, view.id)
            told = next(entry for entry in entries if entry.kind == "cue")
            seen = next(entry for entry in entries if entry.kind == "segment" and entry.index == added.cue.index)
            assert (told.seq, told.index, told.cue) == (added.seq, added.cue.index, added.cue)
            assert told.seq < seen.seq

    asyncio.run(main())


def test_no_chunk_begins_while_a_cue_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.005)) as live:
            view = await live.create(replace(FILM, num_frames=None))
            await until_step(live, view.id, 1, 0)
            write, release = live._store.cue, asyncio.Event()

            async def slow(*args: Any) -> Any:
                await release.wait()
                return await write(*args)

            monkeypatch.setattr(live._store, "cue", slow)
            adding = asyncio.create_task(live.cue(view.id, AddCue(BLUE)))
            await asyncio.sleep(0.2)  # many chunks' time
            begun = max(segment.index for segment in await segments(live, view.id))
            release.set()
            added = await adding
            assert added.cue.index == begun + 1
            await until_chunk(live, view.id, added.cue.index + 1)
            await live.stop(view.id)
            done = await until(live, view.id, "stopped")
            assert await frame_hashes(live, view.id) == hashes_of(await live.timeline(view.id), done.chunks)

    asyncio.run(main())


def test_a_cue_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.005)) as live:
            view = await live.create(FILM)
            await until_step(live, view.id, 0, 1)

            async def fails(*args: Any) -> Any:
                raise StoreError("no")

            monkeypatch.setattr(live._store, "cue", fails)
            with pytest.raises(StoreError):
                await live.cue(view.id, AddCue(BLUE))
            await until(live, view.id, "completed")
            assert view.direction is not None
            assert await frame_hashes(live, view.id) == hashes_of(Timeline(view.direction), 5)

    asyncio.run(main())


def test_a_cue_on_a_stopped_film_waits_for_it_to_go_on_even_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            view = await finished(live)
            added = await live.cue(view.id, AddCue(BLUE, from_index=2, transition_chunks=1))
            assert added.cue.index == 5
            assert any("if it goes on" in warning for warning in added.warnings)
        async with living(tmp_path) as live:
            await live.continue_(view.id, 24)
            await until(live, view.id, "completed")
            assert view.direction is not None
            assert await frame_hashes(live, view.id) == hashes_of(Timeline(view.direction, (added.cue,)), 8)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (AddCue(Changes()), "cue"),
        (AddCue(BLUE, from_s=-1.0), "from_s"),
        (AddCue(BLUE, from_s=float("inf")), "from_s"),
        (AddCue(BLUE, from_s=1.0, from_index=2), "from_s"),
        (AddCue(Changes("")), "prompt"),
        (AddCue(Changes("x" * 3000)), "prompt"),
        (AddCue(Changes(negative_prompt="x" * 3000)), "negative_prompt"),
        (AddCue(Changes(guidance_scale=101.0)), "guidance_scale"),
        (AddCue(Changes(num_inference_steps=0)), "num_inference_steps"),
        (AddCue(Changes(seed=-1)), "seed"),
        (AddCue(BLUE, transition_chunks=65), "transition_chunks"),
    ],
)
def test_cues_that_cannot_be_are_explained(tmp_path: Path, asked: AddCue, param: str) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            view = await finished(live, replace(FILM, num_frames=16))
            with pytest.raises(InvalidRequest) as refused:
                await live.cue(view.id, asked)
            assert refused.value.param == param
            assert (await live.timeline(view.id)).cues == ()

    asyncio.run(main())


def test_the_number_of_cues_is_limited(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            cues = tuple(AddCue(Changes(seed=index), from_index=index) for index in range(1, MAX_CUES + 1))
            view = await live.create(replace(FILM, num_frames=16, cues=cues))
            with pytest.raises(InvalidRequest, match="at most 500"):
                await live.cue(view.id, AddCue(BLUE))
            with pytest.raises(InvalidRequest, match="at most 500"):
                await live.create(replace(FILM, cues=(*cues, AddCue(BLUE, from_index=9))))
            with pytest.raises(InvalidRequest, match="does not say from where"):
                await live.create(replace(FILM, cues=(AddCue(BLUE),)))

    asyncio.run(main())


# ---------------------------------------------------------------- branch


@pytest.mark.parametrize("fork", [0, 1, 3, 5, 9, 11, 12])
def test_a_branch_that_changes_nothing_is_its_parent(tmp_path: Path, fork: int) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            cues = (AddCue(BLUE, from_index=2, transition_chunks=3), AddCue(Changes(seed=8), from_index=10))
            parent = await finished(live, replace(FILM, num_frames=104, cues=cues))  # 12 chunks
            await thinned(live, parent.id, [0, 8, 11])
            length = 120 if fork == 12 else "as planned"
            branch = await live.branch(parent.id, BranchVideo(fork, num_frames=length))
            assert (branch.parent_id, branch.fork_index, branch.state) == (parent.id, fork, "queued")
            done = await until(live, branch.id, "completed")
            made = await frame_hashes(live, branch.id)
            assert made == hashes_of(await live.timeline(parent.id), done.chunks)
            assert made[:12] == await frame_hashes(live, parent.id)
            own, others = await segments(live, branch.id), await segments(live, parent.id)
            assert [segment.hash for segment in own[:12]] == [segment.hash for segment in others]
            assert not [e for e in await entries_to_the_end(live, branch.id) if e.kind == "reset"]  # nothing was cut back

    asyncio.run(main())


def test_a_branch_of_a_running_film_goes_its_own_way(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.005)) as live:
            parent = await live.create(replace(FILM, num_frames=None, cues=(AddCue(RED, from_index=6),)))
            await until_chunk(live, parent.id, 3)
            branch = await live.branch(parent.id, BranchVideo(3, BLUE, transition_chunks=1, num_frames=80))
            assert (branch.num_frames, branch.title) == (80, "a blue film")
            await until(live, branch.id, "completed")
            await until_chunk(live, parent.id, 9)
            await live.stop(parent.id)
            stopped = await until(live, parent.id, "stopped")
            assert parent.direction is not None
            of_parent = Timeline(parent.direction, (Cue(6, {"prompts": (("a red film", 1.0),)}),))
            of_branch = Timeline(parent.direction, (Cue(3, {"prompts": (("a blue film", 1.0),)}, 1),))  # to the end
            assert await frame_hashes(live, parent.id) == hashes_of(of_parent, stopped.chunks)
            assert await frame_hashes(live, branch.id) == hashes_of(of_branch, 9)
            await live.delete(parent.id)
            await live._store.collect(grace_s=0)
            for segment in await segments(live, branch.id):
                assert await live.read_blob(segment.hash)
            again = await live.branch(branch.id, BranchVideo(2, Changes(seed=6)))
            await until(live, again.id, "completed")

    asyncio.run(main())


class AnotherMachine(TestCard):
    """The same model where it does not come out bit for bit the same."""

    def generate(self, direction: Direction, memory: Memory, on_step: OnStep) -> tuple[Frames, Memory]:
        frames, after = super().generate(direction, memory, on_step)
        return frames ^ 1, after


def test_where_chunks_come_out_differently_a_branch_is_made_anew_from_a_memory_that_was_kept(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            parent = await finished(live, replace(FILM, num_frames=104))
            await thinned(live, parent.id, [0, 8, 11])
            made = await frame_hashes(live, parent.id)
        there = AnotherMachine(64, 48, steps=3)
        async with living(tmp_path, there) as live:
            branch = await live.branch(parent.id, BranchVideo(11))
            entries = await entries_to_the_end(live, branch.id)
            assert [entry.index for entry in entries if entry.kind == "reset"] == [9]
            anew = await frame_hashes(live, branch.id)
            assert anew[:9] == made[:9]
            assert not set(anew[9:]) & set(made)
            assert await frame_hashes(live, parent.id) == made
            unharmed = await live.branch(parent.id, BranchVideo(9, num_frames=104))
            assert not [entry for entry in await entries_to_the_end(live, unharmed.id) if entry.kind == "reset"]

    asyncio.run(main())


def test_a_branch_can_be_stopped_while_what_it_follows_is_made_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            parent = await finished(live, replace(FILM, num_frames=80))  # 9 chunks, memories 0 and 8
        async with living(tmp_path, small_card(seconds_per_step=0.05)) as live:
            branch = await live.branch(parent.id, BranchVideo(7, BLUE))
            await until_step(live, branch.id, 2, 1)
            await live.stop(branch.id)
            stopped = await until(live, branch.id, "stopped")
            assert (stopped.chunks, stopped.ended_by) == (7, "stopped")
        async with living(tmp_path) as live:
            await live.continue_(branch.id, 16)
            await until(live, branch.id, "completed")
            assert await frame_hashes(live, branch.id) == hashes_of(await live.timeline(branch.id), 9)

    asyncio.run(main())


def test_branches_that_cannot_be_are_explained(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            parent = await finished(live)
            for request, words in (
                (BranchVideo(6), "expected 0 to 5"),
                (BranchVideo(5), "would make nothing"),
                (BranchVideo(2, num_frames=24), "more than the 24 frames"),
                (BranchVideo(2, Changes(" ")), "prompt is empty"),
                (BranchVideo(2, Changes(num_inference_steps=0)), "num_inference_steps"),
            ):
                with pytest.raises(InvalidRequest, match=words):
                    await live.branch(parent.id, request)
            with pytest.raises(NotFound):
                await live.branch("video_nobody", BranchVideo(0))
            assert len((await live.list())[0]) == 1

    asyncio.run(main())


class OtherFamily(TestCard):
    """Makes films of the same shape, and cannot read the test card's memory."""

    def generate(self, direction: Direction, memory: Memory, on_step: OnStep) -> tuple[Frames, Memory]:
        if memory.kind != "other":
            raise InvalidRequest("memory of another kind", expected="other", received=memory.kind)
        frames, after = super().generate(direction, memory, on_step)
        return frames, replace(after, kind="other")

    def begin(self, direction: Direction, reference: Any, on_step: OnStep) -> tuple[Frames, Memory]:
        frames, after = super().begin(direction, reference, on_step)
        return frames, replace(after, kind="other")


def test_another_model_only_where_it_fits(tmp_path: Path) -> None:
    cards = [
        small_card(),
        small_card(name="sister"),
        small_card(name="slow", fps=4),
        OtherFamily(64, 48, steps=3, name="stranger"),
    ]
    models = {card.card.name: entry_of(card) for card in cards}

    async def main() -> None:
        async with living(tmp_path, models=models, real=True) as live:
            parent = await finished(live)
            sister = await live.branch(parent.id, BranchVideo(1, model="sister"))
            assert (await until(live, sister.id, "completed")).model == "sister"
            for model, words in (
                ("slow", "at 4 fps"),
                ("stranger", "a memory of its own kind, received 'one of kind testcard"),
            ):
                with pytest.raises(ModelDoesNotFit, match=words) as refused:
                    await live.branch(parent.id, BranchVideo(1, model=model))
                assert (refused.value.status, refused.value.code) == (409, "model_does_not_fit")
                assert "or_new_film" in str(refused.value)
                new = await live.branch(parent.id, BranchVideo(1, model=model, or_new_film=True))
                assert (new.model, new.parent_id, new.fork_index) == (model, None, None)
                assert (await until(live, new.id, "completed")).frames >= 48 - 16
                reference = await live._store.reference(new.id)
                assert reference is not None
                assert len(reference.frames) == 1
                afresh = await live.branch(parent.id, BranchVideo(0, model=model))
                assert (await until(live, afresh.id, "completed")).fork_index == 0
            with pytest.raises(Conflict, match="from_index 1"):
                await live.branch(parent.id, BranchVideo(3, model="sister"))

    asyncio.run(main())


# ---------------------------------------------------------------- redo


@pytest.mark.parametrize("from_index", [0, 2, 4])
def test_redo_keeps_the_film_as_it_was_and_makes_another(tmp_path: Path, from_index: int) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            before = await finished(live)
            made = await frame_hashes(live, before.id)
            watcher = asyncio.create_task(entries_to_the_end(live, before.id, before.seq))
            view, kept = await live.redo(before.id, from_index, seed=6)
            assert (view.id, view.num_frames, view.ended_by) == (before.id, 48, None)
            assert (kept.parent_id, kept.fork_index, kept.state, kept.frames) == (before.id, from_index, "completed", 48)
            assert (kept.ended_by, kept.completed_at_s, kept.num_frames) == ("length", before.completed_at_s, 48)
            seen = await watcher
            told = [(entry.kind, entry.index) for entry in seen if entry.kind in ("reset", "cue")]
            assert told == [("reset", from_index), *([("cue", from_index)] if from_index else [])]
            assert [entry.index for entry in seen if entry.kind == "segment"] == list(range(from_index, 5))
            assert before.direction is not None
            anew = await frame_hashes(live, before.id)
            assert anew == hashes_of(Timeline(before.direction).and_then(Cue(from_index, {"seed": 6})), 5)
            assert view.seed == (5 if from_index else 6)
            assert anew[:from_index] == made[:from_index]
            assert anew[from_index] != made[from_index]
            assert await frame_hashes(live, kept.id) == made
            assert [len(await live.read_blob(segment.hash)) > 0 for segment in await segments(live, kept.id)] == [True] * 5

    asyncio.run(main())


def test_redo_of_a_running_film_with_a_watcher(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.01)) as live:
            view = await live.create(replace(FILM, num_frames=80))
            film: dict[int, str] = {}

            async def watch() -> None:
                async with aclosing(live.follow(view.id)) as news:
                    async for entry in news:
                        if isinstance(entry, Progress):
                            continue
                        if entry.kind == "reset":
                            for index in [index for index in film if index >= entry.index]:
                                del film[index]
                        elif isinstance(entry, LogEntry) and entry.segment is not None:
                            film[entry.index] = entry.segment.hash
                        elif entry.view is not None and entry.view.state == "completed":
                            return

            watching = asyncio.create_task(watch())
            await until_step(live, view.id, 5, 1)
            again, kept = await live.redo(view.id, 2)
            assert again.num_frames == 80
            assert kept.chunks >= 5
            assert (kept.state, kept.ended_by, kept.num_frames) == ("stopped", "stopped", 80), "it can be continued as planned"
            async with asyncio.timeout(PATIENCE_S):
                await watching
            assert [film[index] for index in range(9)] == [segment.hash for segment in await segments(live, view.id)]
            timeline = await live.timeline(view.id)
            assert [cue.index for cue in timeline.cues] == [2]
            assert timeline.at(2).seed != timeline.at(1).seed
            assert await frame_hashes(live, view.id) == hashes_of(timeline, 9)
            assert view.direction is not None
            assert await frame_hashes(live, kept.id) == hashes_of(Timeline(view.direction), kept.chunks)
            with pytest.raises(InvalidRequest, match="expected 0 to 8"):
                await live.redo(view.id, 9)

    asyncio.run(main())


def test_a_redo_that_cannot_be_written_leaves_the_film_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.005)) as live:
            view = await live.create(FILM)
            with pytest.raises(Conflict, match="nothing of"):
                await live.redo(view.id, 0)
            await until_chunk(live, view.id, 2)

            async def fails(*args: Any, **named: Any) -> Any:
                raise StoreError("no")

            with monkeypatch.context() as broken:
                broken.setattr(live._store, "reset", fails)
                with pytest.raises(StoreError):
                    await live.redo(view.id, 1)
            await until(live, view.id, "completed")
            assert view.direction is not None
            assert await frame_hashes(live, view.id) == hashes_of(Timeline(view.direction), 5)
            assert len((await live.list())[0]) == 1

    asyncio.run(main())


def test_in_preset_published_a_seed_that_changes_nothing_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path) as live:
            view = await finished(live, replace(FILM, preset="published"))
            with pytest.raises(Conflict, match="nothing would be different"):
                await live.redo(view.id, 2)
            added = await live.cue(view.id, AddCue(Changes(seed=1), from_index=9))
            assert any("random numbers run on" in warning for warning in added.warnings)
            branch = await live.branch(view.id, BranchVideo(1, Changes("another film", seed=1)))
            assert any("random numbers run on" in warning for warning in branch.warnings)
            assert (await live.redo(view.id, 0))[0].num_frames == 48

    asyncio.run(main())


# ---------------------------------------------------------------- the library


def test_rename_search_delete_and_have_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.005)) as live:
            first = await finished(live, replace(FILM, num_frames=16))
            second = await live.create(replace(FILM, num_frames=None, prompt="a whale", cues=(AddCue(BLUE, from_s=60),)))
            assert (await live.edit(first.id, title=" At sea ")).title == "At sea"
            await until_chunk(live, second.id, 1)
            assert (await live.edit(second.id, title="A whale at sea")).state == "running"
            assert {view.id for view in (await live.list(search="sea"))[0]} == {first.id, second.id}
            assert [view.id for view in (await live.list(search="BLUE whale"))[0]] == [second.id]
            with pytest.raises(InvalidRequest, match="title"):
                await live.edit(first.id, title=" ")
            await live.delete(second.id)
            assert (await live.list(search="whale"))[0] == []
            with pytest.raises(NotFound):
                await live.edit(second.id, title="x")
            (deleted,) = await live.deleted()
            assert (deleted.view.id, deleted.forgotten_at_s - deleted.deleted_at_s) == (second.id, GRACE_S)
            back = await live.undelete(second.id)
            assert await live.deleted() == []
            assert (back.state, back.title) == ("stopped", "A whale at sea")
            await live.continue_(second.id, 8)
            done = await until(live, second.id, "completed")
            assert await frame_hashes(live, second.id) == hashes_of(await live.timeline(second.id), done.chunks)

    asyncio.run(main())


def test_a_film_has_a_patience_of_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with living(tmp_path, small_card(seconds_per_step=0.01), when_unwatched="run") as live:
            with pytest.raises(InvalidRequest, match="when_unwatched"):
                await live.create(replace(FILM, when_unwatched="soon"))
            view = await live.create(replace(FILM, when_unwatched="0"))
            async with asyncio.timeout(PATIENCE_S):
                while live._videos[view.id].view.state != "paused":
                    await asyncio.wait([asyncio.create_task(live._bells[view.id].listen().wait())])
            assert live._videos[view.id].view.paused_reason == "nobody is watching"
            with pytest.raises(InvalidRequest, match="when_unwatched"):
                await live.edit(view.id, when_unwatched="-1")
            task = live._tasks[view.id]
            assert (await live.edit(view.id, when_unwatched="run")).when_unwatched == "run"
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.wait([task])
            assert (await live.get(view.id)).state == "completed"

    asyncio.run(main())


# ---------------------------------------------------------------- the pure parts


def test_times_name_the_chunk_that_begins_then_or_later() -> None:
    from st2v_stream.videos.cues import first_chunk_from

    spec = small_card().spec
    assert [first_chunk_from(time_s, spec) for time_s in (0, 0.1, 1.99, 2, 2.01, 3, 20, 1e6)] == [0, 1, 1, 1, 2, 2, 19, 999999]
    for index in range(300):
        assert first_chunk_from(spec.start_of(index) / spec.fps, spec) == index


def test_what_turns_a_timeline_holds_to_the_end() -> None:
    first = Direction((("a", 1.0),), seed=1, first_chunk_num_inference_steps=20)
    timeline = Timeline(
        first, (Cue(2, {"prompts": (("b", 1.0),), "seed": 2}, 3), Cue(6, {"seed": 3}), Cue(8, {"guidance_scale": 2.0}))
    )
    turned = timeline.turned(Cue(5, {"seed": 9}))
    assert [turned.at(index).seed for index in (1, 2, 5, 6, 9)] == [1, 2, 9, 9, 9]
    assert turned.at(8).guidance_scale == 2.0
    assert [turned.at(index).prompts for index in range(5)] == [timeline.at(index).prompts for index in range(5)]
    assert timeline.turned(Cue(5, {})) == timeline
    afresh = timeline.turned(Cue(0, {"num_inference_steps": 3, "seed": 4}))
    assert (afresh.first.seed, afresh.first.of_first_chunk.num_inference_steps) == (4, 3)
    assert afresh.at(9).seed == 4


def test_prompts_are_mixed_by_weight() -> None:
    timeline = Timeline(
        Direction((("a", 1.0),)), (Cue(1, {"prompts": (("b", 2.0),)}, 3), Cue(2, {"prompts": (("a", 1.0),)}, 1))
    )
    assert timeline.at(1).prompts == (("a", 0.75), ("b", 0.25))
    assert timeline.at(2).prompts == (("a", 0.75), ("b", 0.25))  # half way back to a, from half a and half b
    assert timeline.at(3).prompts == (("a", 1.0),)
    assert Timeline.from_json(timeline.to_json()) == timeline


@pytest.mark.parametrize("leave_at", [0, 2, 4])
def test_a_directed_film_that_survives_a_restart_is_the_film_that_ran_through(tmp_path: Path, leave_at: int) -> None:
    async def main() -> None:
        cues = (AddCue(BLUE, from_index=3, transition_chunks=2),)
        async with living(tmp_path, small_card(seconds_per_step=0.01)) as live:
            view = await live.create(replace(FILM, num_frames=72, cues=cues))
            branch = await live.branch(view.id, BranchVideo(0, RED))
            await until_step(live, view.id, leave_at, 1)
            await live.cue(view.id, AddCue(Changes(seed=3), from_index=6))
        async with living(tmp_path) as live:
            for film in (view, branch):
                await until(live, film.id, "completed")
                assert await frame_hashes(live, film.id) == hashes_of(await live.timeline(film.id), 8)
            assert [cue.index for cue in (await live.timeline(view.id)).cues] == [3, 6]

    asyncio.run(main())
