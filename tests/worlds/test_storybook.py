from __future__ import annotations

import itertools

import numpy as np
import pytest

from st2v_stream.worlds import captions, storybook


def make_spec(motion: str = "drifts left", seed: int = 0, scene: str = "sea") -> storybook.FilmSpec:
    return storybook.spec_for_words(np.random.default_rng(seed), "red", "boat", scene, motion)


def test_a_frame_is_a_pure_function_of_spec_and_number() -> None:
    spec = make_spec()
    before = storybook.frame(spec, 1199)
    storybook.clip(make_spec("bounces", 3, "desert"), range(5))  # another film in between changes nothing
    assert np.array_equal(before, storybook.frame(spec, 1199))
    assert before.shape == (64, 64, 3)
    assert before.dtype == np.uint8


def test_any_window_equals_the_frames_one_by_one() -> None:
    spec = make_spec()
    window = storybook.clip(spec, range(40, 44), size=32)
    assert np.array_equal(window, np.stack([storybook.frame(spec, t, 32) for t in range(40, 44)]))


def test_drawing_a_film_does_not_change_its_background() -> None:
    spec = make_spec("hovers", scene="meadow")
    assert np.array_equal(storybook.frame(spec, 0), storybook.frame(spec, 0))


def test_the_training_sampler_never_yields_a_held_out_pair() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3000):
        spec = storybook.sample_spec(rng)
        assert not captions.is_held_out(spec.colour, spec.subject, spec.scene, spec.motion)


def test_the_held_out_sampler_yields_nothing_else() -> None:
    rng = np.random.default_rng(0)
    specs = [storybook.sample_spec(rng, "held_out") for _ in range(300)]
    assert all(captions.is_held_out(spec.colour, spec.subject, spec.scene, spec.motion) for spec in specs)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="'test'"):
        storybook.sample_spec(np.random.default_rng(0), "test")


@pytest.mark.parametrize("motion", captions.MOTIONS)
def test_the_first_chunk_shows_the_subject_nearly_whole(motion: str) -> None:
    """Text has to decide such a film from nothing: no entering, no leaving."""
    for seed in range(40):
        spec = make_spec(motion, seed)
        places = [storybook.position(spec, t) for t in range(16)]
        assert all(0.2 < x < 0.84 and 0.2 < y < 0.8 for x, y in places), (motion, seed, places)


@pytest.mark.parametrize(("motion", "axis", "sign"), [("drifts left", 0, -1), ("drifts right", 0, 1), ("flies up", 1, -1)])
def test_travellers_go_where_the_caption_says(motion: str, axis: int, sign: int) -> None:
    spec = make_spec(motion, 1)
    travelled = storybook.position(spec, 15)[axis] - storybook.position(spec, 0)[axis]
    assert 0.25 < sign * travelled < 0.45


@pytest.mark.parametrize("motion", storybook.TRAVELS)
def test_eight_frames_always_show_a_traveller(motion: str) -> None:
    """The tail of a film is all that its continuation knows of where the subject is."""
    for number, subject in enumerate(captions.SUBJECTS):
        spec = storybook.spec_for_words(np.random.default_rng(number), "red", subject, "meadow", motion)
        seen = [bool(storybook.subject_mask(spec, t).sum() > 8) for t in range(130)]
        lengths = [len(list(run)) for is_seen, run in itertools.groupby(seen) if not is_seen]
        assert max(lengths, default=0) < 8, (spec.subject, lengths)


@pytest.mark.parametrize("motion", storybook.TRAVELS)
def test_a_re_entry_is_where_the_subject_changes_sides(motion: str) -> None:
    spec = make_spec(motion, 3)
    frame = storybook.next_re_entry(spec, 16)
    assert frame is not None
    axis = 1 if motion == "flies up" else 0
    before, after = storybook.position(spec, frame - 1)[axis], storybook.position(spec, frame)[axis]
    assert abs(before - after) > 1
    later = storybook.next_re_entry(spec, frame)
    assert later is not None
    assert 55 < later - frame < 67  # the track's length over 0.022 .. 0.026 sides per frame


def test_who_stays_never_re_enters() -> None:
    assert storybook.next_re_entry(make_spec("hovers", 3), 0) is None


def test_the_mask_is_where_the_subject_is() -> None:
    spec = make_spec("hovers", 2)
    mask = storybook.subject_mask(spec, 0)
    x, y = storybook.position(spec, 0)
    rows, columns = np.nonzero(mask)
    assert abs(columns.mean() / 64 - x) < 0.06
    assert abs(rows.mean() / 64 - y) < 0.06
    assert 0.05 < mask.mean() < 0.3


def test_variants_differ_and_no_caption_names_them() -> None:
    rng = np.random.default_rng(0)
    backgrounds = {storybook.empty_scene("meadow", variant).tobytes() for variant in range(storybook.VARIANTS)}
    assert len(backgrounds) == storybook.VARIANTS
    assert len({storybook.spec_for_words(rng, "red", "car", "meadow", "hovers").caption for _ in range(20)}) == 1
