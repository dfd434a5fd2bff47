"""Manifests, and chunks made again: on the test card, with a Live of the test's own."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from st2v_stream.direction import Direction
from st2v_stream.errors import InvalidRequest, NotFound
from st2v_stream.generators.testcard import TestCard
from st2v_stream.types import AddCue, BranchVideo, Changes, CreateVideo
from st2v_stream.videos.live import Live
from st2v_stream.videos.provenance import BrokenChain, check_chain
from videos.living import frame_hashes, living, small_card, until


def in_loop(test: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        asyncio.run(asyncio.wait_for(test(tmp_path), 30))

    return run


async def a_film(live: Live, num_frames: int = 104, **fields: Any) -> str:
    view = await live.create(CreateVideo("a film", num_frames=num_frames, seed=7, **fields))
    making = live._tasks[view.id]
    await until(live, view.id, "completed")
    await asyncio.wait([making])  # its memories are thinned
    return view.id


async def verdicts(live: Live, video_id: str, *chunks: int) -> dict[int, str]:
    async with aclosing(live.verify(video_id, *chunks)) as checked:
        return {each["index"]: each["verdict"] async for each in checked}


@in_loop
async def test_a_manifest_says_how_every_chunk_was_made(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        film = await a_film(live, 40, cues=(AddCue(Changes(prompt="another"), from_index=2),))
        manifest = await live.manifest(film)
        check_chain(json.loads(json.dumps(manifest)))
        chunks = manifest["chunks"]
        assert [chunk["frames_sha256"] for chunk in chunks] == await frame_hashes(live, film)
        assert [Direction.from_json(chunk["direction"]).prompt for chunk in chunks] == [
            "a film",
            "a film",
            "another",
            "another",
        ]
        assert manifest["head"] == chunks[-1]["hash"]
        (made_with,) = manifest["classes"].values()
        assert made_with["model"] == "testcard"
        assert manifest["screenplay"]["cues"][0]["prompt"] == "another"
        snapshot = await live.snapshot(film)
        hashes = {entry.index: entry.segment.hash for entry in snapshot.entries if entry.segment}
        assert [chunk["segment_sha256"] for chunk in chunks] == [hashes[index] for index in range(4)]


@in_loop
async def test_every_change_of_a_manifest_breaks_its_chain(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        manifest = json.loads(json.dumps(await live.manifest(await a_film(live, 32))))

    def spoil(change: Callable[[Any], object]) -> Any:
        spoiled = copy.deepcopy(manifest)
        change(spoiled)
        return spoiled

    def swap(spoiled: Any) -> None:
        spoiled["chunks"][0], spoiled["chunks"][1] = spoiled["chunks"][1], spoiled["chunks"][0]

    made_with = next(iter(manifest["classes"]))
    changes: list[Callable[[Any], object]] = [
        lambda m: m["chunks"][1]["direction"].update(seed=8),
        lambda m: m["chunks"][0].update(frames_sha256="0" * 64),
        lambda m: m["chunks"][2].update(making_s=0.0),
        lambda m: m["chunks"][1].update(segment_sha256="0" * 64),
        lambda m: m["chunks"].pop(),
        lambda m: m["chunks"].pop(0),
        lambda m: m["origin"].update(model="other"),
        lambda m: m["classes"][made_with].update(numpy="0"),
        swap,
    ]
    check_chain(manifest)
    for change in changes:
        with pytest.raises(BrokenChain):
            check_chain(spoil(change))
    with pytest.raises(InvalidRequest, match="no manifest"):
        check_chain({"chunks": []})


@in_loop
async def test_a_branch_has_its_parents_entries_up_to_the_fork(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        film = await a_film(live, 48)
        branch = await live.branch(film, BranchVideo(2, Changes(prompt="elsewhere")))
        await until(live, branch.id, "completed")
        one, other = await live.manifest(film), await live.manifest(branch.id)
        same = [a["hash"] == b["hash"] for a, b in zip(one["chunks"], other["chunks"], strict=True)]
        assert same == [True, True, False, False, False]
        assert (other["parent_id"], other["fork_index"]) == (film, 2)
        check_chain(other)


@in_loop
async def test_a_film_comes_out_again_also_where_its_memories_were_thinned_away(tmp_path: Path) -> None:
    async with living(tmp_path) as live:
        film = await a_film(live)
        kept = {row.index for row in await live._store.chunks(film) if row.has_memory}
        assert kept == {0, 8, 11}
        assert await verdicts(live, film) == dict.fromkeys(range(12), "same")
        assert await verdicts(live, film, 3, 5) == dict.fromkeys(range(3, 6), "same")
        for wrong in ((5, 3), (0, 12), (12, 12)):
            with pytest.raises(InvalidRequest, match="no such chunks"):
                await verdicts(live, film, *wrong)
        with pytest.raises(NotFound):
            await verdicts(live, "video_nobody")


class OtherCard(TestCard):
    """Another pixel in every frame of chunk 2, and maybe another memory after it; says what it was made with."""

    def __init__(self, made_with: dict[str, Any], *, forgets: bool = False) -> None:
        super().__init__(64, 48, steps=3)
        self.made_with = made_with
        self.forgets = forgets

    def generate(self, direction: Direction, memory: Any, on_step: Any) -> Any:
        frames, after = super().generate(direction, memory, on_step)
        if memory.next_index == 2:
            frames[:, 0, 0, 0] ^= 1
            if self.forgets:
                after = replace(after, parts={**after.parts, "digest": after.parts["digest"] ^ 1})
        return frames, after


@in_loop
async def test_what_is_different_is_named_and_another_class_is_no_fault(tmp_path: Path) -> None:
    async with living(tmp_path, small_card()) as live:
        film = await a_film(live, 48)
    async with living(tmp_path, OtherCard({})) as live:
        assert await verdicts(live, film) == dict.fromkeys(range(5), "same") | {2: "different"}
    async with living(tmp_path, OtherCard({}, forgets=True)) as live:
        found = await verdicts(live, film)
        # no guesses: the memory that chunk 2 left was thinned away, and did not come out again
        assert found == {0: "same", 1: "same", 2: "different", 3: "unknown", 4: "unknown"}
    async with living(tmp_path, OtherCard({"weights_sha256": "of other weights"})) as live:
        async with aclosing(live.verify(film, 1, 2)) as checked:
            found_two = [each async for each in checked]
        assert [each["verdict"] for each in found_two] == ["same", "another class"]
        assert found_two[1]["class_differences"] == {"weights_sha256": [None, "of other weights"]}


@in_loop
async def test_films_come_before_a_verification(tmp_path: Path) -> None:
    async with living(tmp_path, small_card(seconds_per_step=0.01)) as live:
        film = await a_film(live, 32)
        order = list[str]()

        async def check() -> None:
            assert await verdicts(live, film) == dict.fromkeys(range(3), "same")
            order.append("verified")

        async def make() -> None:
            await a_film(live, 32)
            order.append("made")

        checking = asyncio.create_task(check())
        await asyncio.sleep(0.005)
        await asyncio.gather(checking, make())
        assert order == ["made", "verified"]
