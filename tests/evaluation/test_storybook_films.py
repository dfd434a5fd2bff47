"""Which films are asked for, and that a film is made once, by the product's path, for exactly what it depends on."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from st2v_stream import load_generator
from st2v_stream.checkpoints.models import weights_digest
from st2v_stream.evaluation import storybook_films
from st2v_stream.evaluation.storybook_films import (
    SPLITS,
    FilmOrder,
    NoAnchor,
    Studio,
    colourless,
    identity_films,
    long_films,
    make_all,
    openings,
    without_anchor,
)
from st2v_stream.worlds import captions
from tests.small_model import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random weights, 64 x 64."""
    return write_model(tmp_path_factory.mktemp("small"))


def test_each_split_holds_out_exactly_what_it_names() -> None:
    for split in SPLITS:
        for order in openings(split, 60):
            spec = order.spec
            is_new_pair = (spec.colour, spec.subject) in captions.HELD_OUT_COLOUR_SUBJECT
            is_new_motion = (spec.scene, spec.motion) in captions.HELD_OUT_SCENE_MOTION
            assert (is_new_pair, is_new_motion) == (split == "held_out_pair", split == "held_out_motion")


def test_motions_and_held_out_pairs_take_turns() -> None:
    seen = Counter(order.spec.motion for order in openings("seen", 60))
    assert set(seen.values()) == {12}
    assert len(seen) == 5
    pairs = Counter((order.spec.colour, order.spec.subject) for order in openings("held_out_pair", 60))
    assert set(pairs.values()) == {10}
    assert len(pairs) == 6
    places = Counter((order.spec.scene, order.spec.motion) for order in openings("held_out_motion", 60))
    assert set(places.values()) == {12}
    assert len(places) == 5


def test_more_films_begin_with_the_fewer_and_longer_ones_with_the_shorter() -> None:
    assert openings("seen", 30)[:10] == openings("seen", 10)
    short, long = long_films(5, 240)[3], long_films(5, 1200)[3]
    assert dataclasses.replace(long, num_frames=240) == short
    assert (short.seed, len(short.real_film())) == (long.seed, 240)


def test_the_colour_word_leaves_after_the_first_chunk(model: Path) -> None:
    order = identity_films(1)[0]
    timeline = order.timeline(Studio(model, model, preset="live").card, "live")
    assert timeline.at(0).prompt == order.spec.caption
    assert order.spec.colour in timeline.at(0).prompt.split()
    assert timeline.at(1).prompt == timeline.at(11).prompt == colourless(order.spec)
    assert order.spec.colour not in timeline.at(1).prompt.split()


def test_travellers_are_made_with_and_without_apm_from_the_same_noise() -> None:
    orders = identity_films(6)
    assert [order.has_anchor for order in orders] == [True] * 6 + [False] * 6
    for with_apm, without in zip(orders[:6], orders[6:], strict=True):
        assert dataclasses.replace(without, has_anchor=True) == with_apm
        assert with_apm.seed == without.seed
        assert with_apm.spec.motion not in ("hovers", "bounces")


@pytest.mark.slow
def test_a_film_is_made_once_and_is_the_products(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = FilmOrder("a", openings("seen", 1)[0].spec, 24)
    studio = Studio(model, tmp_path, preset="live", device="cpu")
    said: list[str] = []
    make_all(studio, [order], said.append)
    film = studio.film(order)
    generator = load_generator(model, "cpu")
    frames, memory = generator.begin(
        generator.card.direction(order.spec.caption, preset="live", seed=order.seed), None, lambda *_: None
    )
    np.testing.assert_array_equal(film.frames[:16], frames)
    np.testing.assert_array_equal(
        film.frames[16:], generator.generate(order.timeline(generator.card, "live").at(1), memory, lambda *_: None)[0]
    )
    assert film.making_s.shape == (2,)
    assert "film 1 of 1" in said[0]

    def refuse(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(storybook_films, "load_generator", refuse)
    again = Studio(model, tmp_path, preset="live", device="cpu")
    make_all(again, [order], said.append)
    np.testing.assert_array_equal(again.film(order).frames, film.frames)
    assert len(said) == 1


def test_a_film_of_other_weights_preset_length_or_seed_is_another(model: Path, tmp_path: Path) -> None:
    order = openings("seen", 1)[0]
    studio = Studio(model, tmp_path, preset="live", device="cpu")
    changed = tmp_path / "changed"
    shutil.copytree(model, changed)
    scheduler = changed / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("4.0", "5.0"))
    paths = {
        studio.path(order),
        studio.path(dataclasses.replace(order, num_frames=24)),
        studio.path(dataclasses.replace(order, name="other")),
        studio.path(dataclasses.replace(order, has_anchor=False)),
        studio.path(dataclasses.replace(order, drops_colour=True)),
        Studio(model, tmp_path, preset="default", device="cpu").path(order),
        Studio(changed, tmp_path, preset="live", device="cpu").path(order),
    }
    assert len(paths) == 7


def test_a_changed_card_leaves_the_weights_digest(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    (copy / "card.json").write_text((copy / "card.json").read_text().replace("Small", "Tiny"))
    assert weights_digest(copy) == weights_digest(model)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert weights_digest(copy) != weights_digest(model)


def test_no_anchor_gives_the_tokens_of_no_anchor(model: Path) -> None:
    anchor = load_generator(model, "cpu")._networks.anchor
    frames = torch.randn((3, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    off = NoAnchor(anchor)
    assert not torch.allclose(anchor(frames)[:1], anchor.none(frames))
    for row in off(frames):
        torch.testing.assert_close(row[None], anchor.none(frames))


@pytest.mark.slow
def test_without_apm_the_frame_it_would_look_at_changes_nothing(model: Path) -> None:
    generator = without_anchor(model, "cpu")
    direction = generator.card.direction("a red boat hovers", preset="live", seed=3)
    _, memory = generator.begin(direction, None, lambda *_: None)
    black = {**memory.parts, "anchor": np.zeros_like(memory.parts["anchor"])}
    other = dataclasses.replace(memory, parts=black)
    frames = [generator.generate(direction, each, lambda *_: None)[0] for each in (memory, other)]
    np.testing.assert_array_equal(*frames)
    full = load_generator(model, "cpu")
    frames = [full.generate(direction, each, lambda *_: None)[0] for each in (memory, other)]
    assert not np.array_equal(*frames)
