"""The fold of StreamingT2V on tiny random weights: what defines correct streaming."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_model import write_model, write_published_model

from st2v_stream.checkpoints.load import load_generator
from st2v_stream.chunk import Chunk, Memory
from st2v_stream.direction import Cue, Direction, Timeline
from st2v_stream.errors import InvalidRequest, Stopped
from st2v_stream.generators.memory import remembered_frames
from st2v_stream.generators.streamingt2v import StreamingT2V
from st2v_stream.streaming.autoregressive import stream_chunks
from st2v_stream.types import Reference

DIRECTION = Direction((("a red boat", 1.0),), guidance_scale=2.0, num_inference_steps=2, preset="live", seed=5)
PRESETS = ("published", "default", "live")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def generator(folder: Path) -> StreamingT2V:
    return load_generator(folder, "cpu")


def nothing(k: int, n: int) -> None:
    pass


def film(generator: StreamingT2V, timeline: Timeline, chunks: int, memory: Memory | None = None) -> list[Chunk]:
    """Chunks made through the product's own loop."""
    first = 0 if memory is None else memory.next_index
    spec = generator.spec
    frames = spec.start_of(first + chunks) - spec.start_of(first)

    async def collect() -> list[Chunk]:
        async with aclosing(stream_chunks(generator, timeline, num_frames=frames, memory=memory)) as stream:
            return [chunk async for chunk in stream]

    return asyncio.run(collect())


def pixels(chunks: list[Chunk]) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in chunks])


@pytest.mark.parametrize(
    "preset", ["live", *(pytest.param(preset, marks=pytest.mark.slow) for preset in ("default", "published"))]
)
def test_pieces_equal_the_whole_and_resumed_equals_uninterrupted(generator: StreamingT2V, folder: Path, preset: str) -> None:
    timeline = Timeline(replace(DIRECTION, preset=preset))
    whole = film(generator, timeline, 4)
    assert [chunk.frames.shape for chunk in whole] == [(16, 64, 64, 3)] + [(8, 64, 64, 3)] * 3
    elsewhere = load_generator(folder, "cpu")  # another process would do just this
    again = film(elsewhere, timeline, 2)
    again += film(elsewhere, timeline, 2, memory=through_disk(again[-1].memory))
    assert np.array_equal(pixels(whole), pixels(again))
    assert [chunk.memory.digest for chunk in whole] == [chunk.memory.digest for chunk in again]


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_published_parts_stream_too(tmp_path: Path, preset: str) -> None:
    """Noise in every step: resumed equals uninterrupted although the draws are many."""
    generator = load_generator(write_published_model(tmp_path), "cpu")
    timeline = Timeline(replace(DIRECTION, preset=preset))
    whole = film(generator, timeline, 3)
    resumed = film(generator, timeline, 1, memory=through_disk(whole[1].memory))
    assert np.array_equal(whole[2].frames, resumed[0].frames)
    assert whole[2].memory.digest == resumed[0].memory.digest


def through_disk(memory: Memory) -> Memory:
    """Bytes and back, read-only, as a store would give it."""
    parts = {name: np.frombuffer(part.tobytes(), part.dtype).reshape(part.shape) for name, part in memory.parts.items()}
    return replace(memory, parts=parts)


def test_memory_holds_what_was_shown(generator: StreamingT2V) -> None:
    chunks = film(generator, Timeline(DIRECTION), 3)
    shown = pixels(chunks)
    for chunk in chunks:
        end = chunk.start + len(chunk.frames)
        assert np.array_equal(chunk.memory.parts["tail"], shown[end - 8 : end])
        assert np.array_equal(chunk.memory.parts["anchor"], shown[0])
    assert np.array_equal(chunks[0].memory.parts["head"], shown[:8])
    assert set(chunks[1].memory.parts) == {"tail", "anchor"}
    for chunk in chunks:
        assert np.array_equal(remembered_frames(chunk.memory), chunk.frames)


@pytest.mark.slow
def test_published_memory_is_unrounded_and_carries_the_generator(generator: StreamingT2V) -> None:
    chunks = film(generator, Timeline(replace(DIRECTION, preset="published")), 3)
    for chunk in chunks:
        assert set(chunk.memory.parts) == {"tail", "anchor", "rng_state"}
        tail = chunk.memory.parts["tail"]
        assert tail.dtype == np.float32
        assert np.array_equal((255 * tail).astype(np.uint8), chunk.frames[-8:])  # truncated, as published
        assert np.array_equal(generator.frames_of(chunk.direction, chunk.memory), chunk.frames[-8:])
    states = [chunk.memory.parts["rng_state"].tobytes() for chunk in chunks]
    assert len(set(states)) == 3
    assert np.array_equal(chunks[0].memory.parts["anchor"], chunks[2].memory.parts["anchor"])


@pytest.mark.slow
@pytest.mark.parametrize("presets", [("live", "published"), ("published", "live")])
def test_a_cue_may_change_the_preset(generator: StreamingT2V, presets: tuple[str, str]) -> None:
    timeline = Timeline(replace(DIRECTION, preset=presets[0]), (Cue(1, {"preset": presets[1]}),))
    chunks = film(generator, timeline, 3)
    again = film(generator, timeline, 1, memory=chunks[1].memory)
    assert np.array_equal(chunks[2].frames, again[0].frames)
    assert ("rng_state" in chunks[2].memory.parts) == (presets[1] == "published")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"prompts": (("a blue cat", 1.0),)},
        {"guidance_scale": 1.0},
        {"num_inference_steps": 3},
        {"negative_prompt": "sea"},
    ],
)
def test_each_field_of_the_direction_counts(generator: StreamingT2V, change: dict[str, object]) -> None:
    before = film(generator, Timeline(DIRECTION), 2)
    after = film(generator, Timeline(DIRECTION, (Cue(1, change),)), 2)
    assert np.array_equal(before[0].frames, after[0].frames)
    assert not np.array_equal(before[1].frames, after[1].frames)


@pytest.mark.slow
def test_redo_is_another_seed_and_a_branch_that_changes_nothing_is_the_same(generator: StreamingT2V) -> None:
    chunks = film(generator, Timeline(DIRECTION), 3)
    branch = film(generator, Timeline(DIRECTION), 1, memory=chunks[1].memory)
    redo = film(generator, Timeline(replace(DIRECTION, seed=99)), 1, memory=chunks[1].memory)
    assert np.array_equal(chunks[2].frames, branch[0].frames)
    assert not np.array_equal(chunks[2].frames, redo[0].frames)


@pytest.mark.slow
def test_weighted_prompts_lie_between(generator: StreamingT2V) -> None:
    def frames(*prompts: tuple[str, float]) -> np.ndarray:
        return film(generator, Timeline(replace(DIRECTION, prompts=prompts)), 1)[0].frames

    red, both = frames(("a red boat", 1.0)), frames(("a red boat", 1.0), ("a blue cat", 1.0))
    assert not np.array_equal(red, both)
    assert np.array_equal(both, frames(("a red boat", 2.0), ("a blue cat", 2.0)))  # only the ratio counts


def test_tail_and_anchor_both_count(generator: StreamingT2V) -> None:
    memory = film(generator, Timeline(DIRECTION), 1)[0].memory
    frames, _ = generator.generate(DIRECTION, memory, nothing)
    for name in ("tail", "anchor"):
        other = replace(memory, parts={**memory.parts, name: 255 - memory.parts[name]})
        assert not np.array_equal(frames, generator.generate(DIRECTION, other, nothing)[0]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "weight",
    [
        lambda networks: networks.unet.conv_in.weight,
        lambda networks: networks.unet.cross_attention_merger_down_blocks[0].temporal_transformer.proj_out.weight,
        lambda networks: networks.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.conv.weight,
        lambda networks: networks.cam.conv_in.weight,
        lambda networks: networks.anchor.encoder.conv_1.weight,
        lambda networks: networks.vae.decoder.conv_in.weight,
        lambda networks: networks.text.model.get_input_embeddings().weight,
    ],
    ids=["unet", "merger", "apm", "cam", "image_encoder", "vae", "text_encoder"],
)
def test_every_part_reaches_the_film(folder: Path, generator: StreamingT2V, weight: Callable) -> None:
    changed = load_generator(folder, "cpu")
    with torch.no_grad():
        weight(changed._networks).zero_()
    memory = film(generator, Timeline(DIRECTION), 1)[0].memory
    before, after = (maker.generate(DIRECTION, memory, nothing)[0] for maker in (generator, changed))
    assert not np.array_equal(before, after)


def test_stopping_between_steps_loses_nothing(generator: StreamingT2V) -> None:
    whole = film(generator, Timeline(DIRECTION), 2)
    memory, calls = whole[0].memory, []

    def stop_at_1(k: int, n: int) -> None:
        calls.append((k, n))
        if k == 1:
            raise Stopped("asked to stop")

    with pytest.raises(Stopped):
        generator.generate(DIRECTION, memory, stop_at_1)
    with pytest.raises(Stopped):
        generator.begin(DIRECTION, None, stop_at_1)
    assert calls == [(0, 2), (1, 2), (0, 6), (1, 6)]
    assert np.array_equal(generator.generate(DIRECTION, memory, nothing)[0], whole[1].frames)


def test_steps_are_reported(generator: StreamingT2V) -> None:
    calls: list[tuple[int, int]] = []
    _, memory = generator.begin(DIRECTION, None, lambda k, n: calls.append((k, n)))
    generator.generate(DIRECTION, memory, lambda k, n: calls.append((k, n)))
    picture_and_two_extensions = [(k, 6) for k in range(7)]
    assert calls == [*picture_and_two_extensions, (0, 2), (1, 2), (2, 2)]


def test_a_clip_is_continued(generator: StreamingT2V) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    frames, memory = generator.begin(DIRECTION, Reference(clip), nothing)
    assert np.array_equal(frames, clip[-16:])
    assert np.array_equal(memory.parts["tail"], clip[-8:])
    assert np.array_equal(memory.parts["anchor"], clip[0])  # not shown any more, and still what the film is held by
    further, after = generator.generate(DIRECTION, memory, nothing)
    assert np.array_equal(after.parts["anchor"], clip[0])
    elsewhere = replace(memory, parts={**memory.parts, "anchor": clip[4]})
    assert not np.array_equal(further, generator.generate(DIRECTION, elsewhere, nothing)[0])
    short, memory = generator.begin(DIRECTION, Reference(clip[:10]), nothing)
    assert np.array_equal(short[:10], clip[:10])
    assert np.array_equal(memory.parts["anchor"], clip[0])
    assert len(short) == 16
    image, memory = generator.begin(DIRECTION, Reference(clip[:1]), nothing)
    assert np.array_equal(image[0], clip[0])
    assert not np.array_equal(image[1], clip[0])
    assert np.array_equal(memory.parts["anchor"], clip[0])


@pytest.mark.slow
def test_the_first_picture_given_back_as_a_reference_starts_the_same_film(generator: StreamingT2V) -> None:
    frames, memory = generator.begin(DIRECTION, None, nothing)
    again, same_memory = generator.begin(DIRECTION, Reference(frames[:1]), nothing)
    assert np.array_equal(frames, again)
    assert memory.digest == same_memory.digest


@pytest.mark.parametrize("length", [5, 16, 20])
def test_in_preset_published_a_clip_is_continued_unrounded_and_shown_as_it_is(generator: StreamingT2V, length: int) -> None:
    """Published frames are truncated where others are rounded: the 8-bit values of the clip must survive that."""
    clip = np.arange(length * 64 * 64 * 3).reshape(length, 64, 64, 3).astype(np.uint8)  # every value, many times
    frames, memory = generator.begin(replace(DIRECTION, preset="published"), Reference(clip), nothing)
    assert np.array_equal(frames[: min(length, 16)], clip[-16:])
    assert memory.parts["anchor"].dtype == np.float32
    assert np.array_equal(memory.parts["anchor"], clip[0].astype(np.float32) / 255)


def test_references_of_another_size_are_cut_to_the_films_shape(generator: StreamingT2V) -> None:
    halves = np.zeros((20, 128, 256, 3), np.uint8)
    halves[:, :, 128:] = 200
    frames, memory = generator.begin(DIRECTION, Reference(halves), nothing)
    assert frames.shape == (16, 64, 64, 3)
    assert (frames[:, :, :30] < 20).all()
    assert (frames[:, :, 34:] > 180).all()
    assert np.array_equal(memory.parts["anchor"], frames[0])


def test_what_does_not_fit_is_refused(generator: StreamingT2V) -> None:
    for wrong in (np.zeros((32, 64, 3), np.uint8), np.zeros((1, 64, 64, 4), np.uint8), np.zeros((1, 64, 64, 3), np.float32)):
        with pytest.raises(InvalidRequest, match=r"the reference holds no pictures: expected \(T, H, W, 3\) uint8, received"):
            generator.begin(DIRECTION, Reference(wrong), nothing)
    with pytest.raises(InvalidRequest, match=r"received '\(0, 64, 64, 3\) uint8'"):
        generator.begin(DIRECTION, Reference(np.zeros((0, 64, 64, 3), np.uint8)), nothing)
    memory = film(generator, Timeline(DIRECTION), 1)[0].memory
    with pytest.raises(InvalidRequest, match="memory of another kind"):
        generator.generate(DIRECTION, replace(memory, kind="testcard"), nothing)
    with pytest.raises(InvalidRequest, match="memory of another size"):
        generator.generate(DIRECTION, replace(memory, parts={"tail": memory.parts["tail"][:4]}), nothing)
