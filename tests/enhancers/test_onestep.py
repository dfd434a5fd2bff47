"""The small enhancer as a stage: pieces equal the whole, nothing is provisional, and the committed weights do their job."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from small_networks import randomize

from enhancers.small_enhancer import SPEC, no_step, preview
from st2v_stream.checkpoints.models import find_folder, weights_digest
from st2v_stream.chunk import Chunk, Frames, Memory
from st2v_stream.enhancers.load import load_enhancer
from st2v_stream.enhancers.onestep import OneStep
from st2v_stream.errors import InvalidRequest, Stopped
from st2v_stream.networks.enhancer_onestep import OneStepUNet, OneStepUNetConfig

SMALL = OneStepUNetConfig(block_out_channels=(8, 8), down_blocks=1, up_blocks=1, sharp_channels=8)


@cache
def small() -> OneStep:
    return OneStep(randomize(OneStepUNet(SMALL).eval()))  # type: ignore[arg-type]


def made_of(chunks: list[Chunk], carry: Memory | None = None) -> tuple[Frames, Memory]:
    frames = []
    for chunk in chunks:
        (sharp,), carry = small().enhance(chunk, carry, no_step)
        assert (sharp.revision, sharp.is_provisional, sharp.chunk.memory) == (0, False, carry)
        assert (sharp.chunk.index, sharp.chunk.start, sharp.chunk.direction) == (chunk.index, chunk.start, chunk.direction)
        frames.append(sharp.chunk.frames)
    assert carry is not None
    return np.concatenate(frames), carry


def in_one(chunks: list[Chunk]) -> Chunk:
    return replace(chunks[0], frames=np.concatenate([chunk.frames for chunk in chunks]))


def stored(carry: Memory) -> Memory:
    """As it comes back from a store: read-only arrays."""
    parts = {name: np.frombuffer(part.tobytes(), part.dtype).reshape(part.shape) for name, part in carry.parts.items()}
    return Memory(carry.kind, carry.version, carry.next_index, carry.next_start, parts)


def test_chunks_equal_the_film_in_one() -> None:
    film = preview(4)
    whole, _ = made_of([in_one(film)])
    assert np.array_equal(made_of(film)[0], whole)
    assert whole.shape == (10, 32, 32, 3)
    assert whole.std() > 1
    assert small().sharp_spec(SPEC) == replace(SPEC, width=32, height=32)


def test_a_film_goes_on_without_a_seam() -> None:
    film = preview(4)
    before, carry = made_of(film[:2])
    assert carry.digest == stored(carry).digest
    assert small().finish(carry, no_step) == ([], carry)
    assert np.array_equal(np.concatenate([before, made_of(film[2:], stored(carry))[0]]), made_of(film)[0])


def test_it_begins_anywhere_and_sees_neighbours() -> None:
    film = preview(4)
    alone, whole = made_of(film[2:])[0], made_of(film)[0][6:]
    assert not np.array_equal(alone[0], whole[0]), "the first frame looks at those before it"
    assert np.array_equal(alone[2:], whole[2:]), "and two frames later nothing is left of that"


def test_it_can_be_left_between_two_frames() -> None:
    def leave(k: int, n: int) -> None:
        assert n == 4
        if k == 2:
            raise Stopped("asked to stop")

    with pytest.raises(Stopped):
        small().enhance(preview(1)[0], None, leave)


def test_what_does_not_follow_is_refused() -> None:
    film = preview(3)
    _, carry = made_of(film[:1])
    with pytest.raises(InvalidRequest, match=r"in order.*expected \(1, 4\), received \(2, 6\)"):
        small().enhance(film[2], carry, no_step)
    with pytest.raises(InvalidRequest, match=r"another size: expected \(2, 4, 4, 3\), received \(2, 8, 8, 3\)"):
        small().enhance(replace(film[1], frames=film[1].frames[:, :4, :4]), carry, no_step)
    for call in (lambda other: small().enhance(film[1], other, no_step), lambda other: small().finish(other, no_step)):
        with pytest.raises(InvalidRequest, match="carry of another kind"):
            call(Memory("sdedit", 1, 1, 4, {}))


# ---------------------------------------------------------------- the committed weights


def test_the_model_brings_its_enhancer() -> None:
    folder = find_folder("storybook")
    for place in ("storybook", folder, folder / "enhancer"):
        enhancer = load_enhancer(place, "cpu")
        assert (enhancer.name, enhancer.lag_frames) == ("onestep", 0)


def test_the_enhancer_is_no_part_of_the_models_identity(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    before = weights_digest(tmp_path)
    randomize(OneStepUNet(SMALL)).save_pretrained(tmp_path / "enhancer" / "unet")  # type: ignore[operator]
    assert weights_digest(tmp_path) == before
    (tmp_path / "unet" / "config.json").write_text("{} ")
    assert weights_digest(tmp_path) != before


def test_sharper_than_bicubic_on_films_it_has_never_seen() -> None:
    """Through the model's autoencoder, as a preview is: 2 dB near edges, frames no worse, flicker no more."""
    from st2v_stream.evaluation.enhancer import Tally, ways
    from st2v_stream.networks.vae import FrameAutoencoder
    from st2v_stream.training.enhancer_measures import near_edges
    from st2v_stream.training.enhancer_pairs import draw_window, shrunk
    from st2v_stream.training.preview import to_latents, to_pixels

    vae = FrameAutoencoder.from_pretrained(find_folder("storybook") / "vae")
    by_way = {name: (way, Tally()) for name, way in ways(load_enhancer("storybook", "cpu")).items()}
    for number in range(4):
        window = draw_window(0, "enhancer test", number, "held_out", last_frame=1200)
        truth = window.truth(range(window.start, window.start + 3))
        preview = to_pixels(vae, to_latents(vae, shrunk(truth)[None]))[0]
        for way, tally in by_way.values():
            tally.add(way(preview), truth, near_edges(truth))
    ours, theirs = by_way["enhancer"][1].scores(), by_way["bicubic"][1].scores()
    assert ours["edge_psnr_db"] >= theirs["edge_psnr_db"] + 2
    assert ours["psnr_db"] >= theirs["psnr_db"]
    assert ours["flicker"] <= theirs["flicker"]
    assert ours["edge_width"] < theirs["edge_width"]
