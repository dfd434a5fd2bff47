"""The diffusion enhancer at a tiny size: the whole-film algorithm, in pieces, with stops, on the preview's grid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from enhancers.small_enhancer import (
    DIRECTION,
    SPEC,
    Hashed,
    enhanced,
    film_of,
    no_step,
    preview,
    small_enhancer,
    weights,
)
from st2v_stream.chunk import Chunk, Memory, StreamSpec
from st2v_stream.direction import Direction
from st2v_stream.enhancers.sdedit import EnhancerNetworks, SdEdit
from st2v_stream.errors import InvalidRequest, Stopped
from st2v_stream.generators.memory import to_frames, to_network
from st2v_stream.networks.blending import Windows, cut_together, denoise_joined
from st2v_stream.networks.enhancer_sampling import VideoToVideoSampler, WholeFilmSampler, predict_clean
from st2v_stream.networks.enhancer_unet import EnhancerUNet, EnhancerUNetConfig
from st2v_stream.networks.sampling import noise_at
from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig
from st2v_stream.store.memories import memory_from_blobs, memory_to_blobs
from st2v_stream.streaming.enhance import enhance_chunks
from st2v_stream.types import EnhancedChunk

pytestmark = pytest.mark.slow


def finished(enhancer: SdEdit, chunks: int, **options: Any) -> list[EnhancedChunk]:
    made, carry = enhanced(enhancer, preview(chunks, **options))
    return [*made, *enhancer.finish(carry, no_step)[0]]


def through_the_store(carry: Memory) -> Memory:
    row, blobs = memory_to_blobs(carry)
    by_hash = {blob.sha256: blob.data for blob in blobs}
    return memory_from_blobs(row, by_hash.__getitem__)


# ---------------------------------------------------------------- the same as the whole film


@torch.inference_mode()
def whole_film(chunks: int) -> np.ndarray[Any, Any]:
    """The published order of things over the whole film, with our draws, written out."""
    unet, vae = weights()
    enhancer, sampler, text = small_enhancer(), VideoToVideoSampler(3), Hashed()
    film = preview(chunks)
    total, shape = SPEC.start_of(chunks), (1, 4, 8, 8)
    index_of = {chunk.start + i: chunk.index for chunk in film for i in range(len(chunk.frames))}

    def draw(purpose: str) -> list[Tensor]:
        return [noise_at(5, index_of[frame], f"enhance:{frame}:{purpose}", shape) for frame in range(total)]

    canvas = np.concatenate([enhancer._on_canvas(chunk.frames) for chunk in film])
    parts = [vae.encode(to_network(frame[None]), noise) for frame, noise in zip(canvas, draw("posterior"), strict=True)]
    latents = sampler.start(torch.stack(parts, dim=2), torch.stack(draw("init"), dim=2))
    windows = Windows(total, 6, 2, short_last=True)
    rows = torch.cat([text([""]), text(["a red boat, "])])

    def join(k: int, predictions: Sequence[Tensor]) -> Tensor:
        cuts = [enhancer.cut(5, index_of[start], start, k) for start in windows.starts[1:]]
        return cut_together(predictions, windows, cuts)

    clean = denoise_joined(
        lambda k, part: predict_clean(unet, sampler, k, part.contiguous(), rows),
        WholeFilmSampler(sampler),
        latents,
        windows,
        join,
        lambda k: torch.stack(draw(str(k)), dim=2),
    )
    decoded = vae.decode(clean[0].transpose(0, 1).contiguous(), frames_at_once=1)
    frames = to_frames((decoded / 2 + 0.5).clamp(0, 1))
    return frames[:, 1:-1, 1:-1]  # 14 x 14 on a canvas of 16 x 16


@pytest.mark.parametrize(
    ("chunks", "together"),
    [(1, 1), (2, 1), (3, 2), (6, 3), (9, 4), (9, 99)],
)
def test_enough_windows_give_the_whole_film(chunks: int, together: int) -> None:
    """4, 6, 8, 14 and 20 frames, in windows of 6 that share 2: short ones among them."""
    film = film_of(finished(small_enhancer(windows_together=together), chunks))
    assert film.shape == (SPEC.start_of(chunks), 14, 14, 3)
    assert film.std() > 1
    assert np.array_equal(film, whole_film(chunks))


def test_two_windows_give_another_film() -> None:
    assert not np.array_equal(film_of(finished(small_enhancer(), 9)), whole_film(9))


# ---------------------------------------------------------------- stops, crashes, the grid


def test_chunks_come_out_on_the_previews_grid_and_in_order() -> None:
    made = finished(small_enhancer(), 9)
    assert [each.chunk.index for each in made] == list(range(9))
    for each, chunk in zip(made, preview(9), strict=True):
        assert (each.chunk.start, len(each.chunk.frames)) == (chunk.start, len(chunk.frames))
        assert each.chunk.direction == chunk.direction
    provisional = [each.chunk.index for each in made if each.is_provisional]
    assert provisional == list(range(provisional[0], 9))
    assert {each.revision for each in made} == {0}


def test_a_chunk_lags_behind_by_what_is_said() -> None:
    enhancer, carry = small_enhancer(), None
    ends: dict[int, int] = {}
    for chunk in preview(12):
        sharp, carry = enhancer.enhance(chunk, carry, no_step)
        ends |= {each.chunk.start: chunk.start + len(chunk.frames) for each in sharp}
    assert max(end - start for start, end in ends.items()) == enhancer.lag_frames == 10


@pytest.mark.long
def test_every_carry_goes_on_where_it_was() -> None:
    """A crash after any chunk that came out: the carry comes back from the store, the film goes on the same."""
    enhancer, film = small_enhancer(), preview(10)
    unbroken = finished(enhancer, 10)
    for each in unbroken:
        if each.is_provisional:
            continue
        carry = through_the_store(each.chunk.memory)
        assert carry.digest == each.chunk.memory.digest
        rest, carry = enhanced(small_enhancer(), film[carry.next_index :], carry)
        rest += enhancer.finish(carry, no_step)[0]
        assert [other.chunk.index for other in rest] == list(range(each.chunk.index + 1, 10))
        for other in rest:
            assert np.array_equal(other.chunk.frames, unbroken[other.chunk.index].chunk.frames)


@pytest.mark.long
def test_a_stage_that_was_cut_off_goes_on() -> None:
    """The same through `enhance_chunks`, left after the third chunk that came out."""

    async def run(carry: Memory | None, count: int) -> list[EnhancedChunk]:
        async def given() -> AsyncGenerator[Chunk, None]:
            for chunk in preview(8):
                yield chunk

        made: list[EnhancedChunk] = []
        async with aclosing(enhance_chunks(small_enhancer(), given(), carry=carry)) as sharp:
            async for each in sharp:
                made.append(each)
                if len(made) == count:
                    break
        return made

    first = asyncio.run(run(None, 3))
    rest = asyncio.run(run(through_the_store(first[-1].chunk.memory), 99))
    assert [each.chunk.index for each in [*first, *rest]] == list(range(8))
    assert np.array_equal(film_of([*first, *rest]), film_of(finished(small_enhancer(), 8)))


@pytest.mark.parametrize("stop", [1, 2, 4, 5])
def test_a_stop_makes_a_provisional_tail_and_no_seam(stop: int) -> None:
    """After the stop the film goes on: the tail again, as revision 1, and the whole as if it had never stopped."""
    enhancer, film = small_enhancer(), preview(8)
    before, carry = enhanced(enhancer, film[:stop])
    tail, carry = enhancer.finish(carry, no_step)
    assert [each.chunk.index for each in [*before, *tail]] == list(range(stop))
    assert all(each.is_provisional and each.revision == 0 for each in tail)
    after, carry = enhanced(enhancer, film[stop:], through_the_store(carry))
    after += enhancer.finish(carry, no_step)[0]
    again = {each.chunk.index for each in tail}
    assert {each.chunk.index for each in after} == again | set(range(stop, 8))
    assert all(each.revision == (each.chunk.index in again) for each in after)
    assert np.array_equal(film_of([*before, *after]), film_of(finished(small_enhancer(), 8)))


def test_a_tail_is_not_made_twice_of_the_same_frames() -> None:
    enhancer = small_enhancer()
    _, carry = enhanced(enhancer, preview(5))
    tail, after = enhancer.finish(carry, no_step)
    assert len(tail) > 1
    assert enhancer.finish(after, no_step) == ([], after)
    rest, _ = enhancer.finish(through_the_store(tail[0].chunk.memory), no_step)
    assert [each.chunk.index for each in rest] == [each.chunk.index for each in tail[1:]]
    assert all(np.array_equal(a.chunk.frames, b.chunk.frames) for a, b in zip(rest, tail[1:], strict=True))


def test_the_carry_does_not_grow_with_the_film() -> None:
    enhancer, carry, sizes = small_enhancer(num_inference_steps=2), None, []
    for chunk in preview(16):
        _, carry = enhancer.enhance(chunk, carry, no_step)
        sizes.append(sum(part.nbytes for name, part in carry.parts.items() if name != "notes"))
    assert len(set(sizes[6:])) <= 2  # a window every second chunk


def test_enhancement_may_begin_within_a_film() -> None:
    made = finished(small_enhancer(), 9, first=4)
    assert [each.chunk.index for each in made] == [4, 5, 6, 7, 8]


def test_leaving_between_two_steps_leaves_the_carry() -> None:
    enhancer, film = small_enhancer(), preview(5)
    made, carry = enhanced(enhancer, film[:3])
    reports: list[tuple[int, int]] = []

    def leave(k: int, n: int) -> None:
        reports.append((k, n))
        if k == 2:
            raise Stopped("asked to stop")

    with pytest.raises(Stopped):
        enhanced_with(enhancer, film[3:], carry, leave)
    assert reports == [(k, reports[0][1]) for k in range(3)]
    rest, _ = enhanced(enhancer, film[3:], carry)
    assert np.array_equal(film_of([*made, *rest]), film_of(enhanced(small_enhancer(), film)[0]))


def enhanced_with(enhancer: SdEdit, chunks: Sequence[Any], carry: Memory, on_step: Any) -> None:
    for chunk in chunks:
        _, carry = enhancer.enhance(chunk, carry, on_step)


# ---------------------------------------------------------------- text, sizes, refusals


def test_the_text_rule() -> None:
    """The prompt and ", ", against an empty negative prompt unless one is given."""
    text = Hashed()
    enhancer = SdEdit(EnhancerNetworks(*weights(), text), small_enhancer()._settings)
    finished(enhancer, 6)
    assert sorted(text.asked) == ["", "a red boat, "]
    given = Direction((("a cat", 1.0),), negative_prompt="blurry", seed=5)
    finished(enhancer, 4, directions=[given] * 4)
    assert sorted(text.asked) == ["", "a cat, ", "a red boat, ", "blurry"]


def test_a_window_follows_the_prompt_at_its_middle() -> None:
    text, cat = Hashed(), Direction((("a cat", 1.0),), seed=5)
    enhancer = SdEdit(EnhancerNetworks(*weights(), text), small_enhancer()._settings)
    finished(enhancer, 2, directions=[DIRECTION, cat])  # one window, frames 0 to 5; the cat comes at frame 4
    assert "a cat, " not in text.asked
    finished(enhancer, 3, directions=[DIRECTION, cat, cat])  # a second one, frames 4 to 7
    assert "a cat, " in text.asked


def test_another_seed_gives_another_film() -> None:
    other = [Direction(DIRECTION.prompts, seed=6)] * 3
    assert not np.array_equal(film_of(finished(small_enhancer(), 3)), film_of(finished(small_enhancer(), 3, directions=other)))


@pytest.mark.parametrize(
    ("preview_size", "sharp", "canvas"),
    [((256, 256), (720, 720), (720, 768)), ((512, 288), (1280, 720), (720, 1280)), ((256, 512), (360, 720), (720, 384))],
)
def test_published_sizes(preview_size: tuple[int, int], sharp: tuple[int, int], canvas: tuple[int, int]) -> None:
    """(width, height) of films; the canvas as (height, width). Square ones fit on 720x768, half of 720x1280."""
    with torch.device("meta"):
        networks = EnhancerNetworks(EnhancerUNet(EnhancerUNetConfig()), FrameAutoencoder(FrameAutoencoderConfig()), Hashed())
    enhancer = SdEdit(networks)
    spec = enhancer.sharp_spec(StreamSpec(*preview_size, 8, 16, 8))
    assert (spec.width, spec.height) == sharp
    assert enhancer._canvas(spec.height, spec.width)[2:] == canvas
    assert enhancer.lag_frames == 24


def test_what_does_not_follow_is_refused() -> None:
    enhancer, film = small_enhancer(), preview(5)
    _, carry = enhanced(enhancer, film[:2])
    with pytest.raises(InvalidRequest, match=r"in order.*expected \(2, 6\), received \(3, 8\)"):
        enhancer.enhance(film[3], carry, no_step)
    with pytest.raises(InvalidRequest, match=r"another kind.*sdedit.*storybook"):
        enhancer.enhance(film[2], Memory("storybook", 1, 2, 6, {}), no_step)
    with pytest.raises(InvalidRequest, match=r"other settings"):
        small_enhancer(num_inference_steps=4).enhance(film[2], carry, no_step)
    wide = Chunk(2, 6, np.zeros((2, 8, 10, 3), np.uint8), DIRECTION, film[2].memory)
    with pytest.raises(InvalidRequest, match=r"another size.*expected \(8, 8\), received \(10, 8\)"):
        enhancer.enhance(wide, carry, no_step)
