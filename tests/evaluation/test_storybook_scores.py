"""The figures know a good film from a bad one: real films score as real, and each fault shows in its own figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from st2v_stream.evaluation.storybook_films import FilmOrder, MadeFilm, colourless, identity_films, long_films, openings
from st2v_stream.evaluation.storybook_scores import (
    Shown,
    colour_error,
    decoder_figures,
    first_return,
    goes_the_right_way,
    identity_figures,
    long_figures,
    motion_figures,
    opening_figures,
    path_motion,
    psnr,
    read_return,
    round_trip,
    speed_figures,
)
from st2v_stream.evaluation.targets import missed
from st2v_stream.worlds import storybook
from st2v_stream.worlds.judge import Judge


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


def shown(order: FilmOrder, change: Callable[[np.ndarray], np.ndarray] = lambda frames: frames) -> Shown:
    """The real film as if the model had made it, changed."""
    return Shown(order, MadeFilm(change(order.real_film()), np.full(3, 0.5)))


def backwards(frames: np.ndarray) -> np.ndarray:
    return frames[::-1].copy()


# ---------------------------------------------------------------- first chunks


def test_real_first_chunks_reach_their_ceiling(judge: Judge) -> None:
    figures = opening_figures(
        judge, {split: [shown(each) for each in openings(split, 5)] for split in ("seen", "held_out_pair")}
    )
    for key, figure in figures.items():
        assert figure.value == figure.ceiling, key
    assert figures["opening.seen.motion"].n == 5
    assert figures["opening.right_way"].n == 4
    assert missed(figures) == []


def test_first_chunks_played_backwards_go_the_wrong_way_and_nothing_else(judge: Judge) -> None:
    orders = [order for order in openings("seen", 10) if order.spec.motion.startswith("drifts")]
    figures = opening_figures(judge, {"seen": [shown(order, backwards) for order in orders]})
    assert figures["opening.right_way"].value == 0.0
    assert figures["opening.seen.motion"].value == 0.0
    assert figures["opening.seen.colour"].value == figures["opening.seen.subject"].value == 1.0
    assert figures["opening.right_way"].ceiling == 1.0


def test_a_film_without_a_subject_is_wrong_in_all_but_its_scene(judge: Judge) -> None:
    order = openings("seen", 1)[0]
    empty = storybook.empty_scene(order.spec.scene, order.spec.variant)
    figures = opening_figures(judge, {"seen": [shown(order, lambda frames: np.stack([empty] * len(frames)))]})
    assert figures["opening.seen.scene"].value == 1.0
    for word in ("colour", "hue", "subject", "motion"):
        assert figures[f"opening.seen.{word}"].value == 0.0
    assert figures["opening.right_way"].value == 0.0


def test_a_drifter_hardly_seen_goes_no_way(judge: Judge) -> None:
    order = openings("seen", 1)[0]
    verdict = judge.read(order.real_film())
    assert goes_the_right_way(verdict, order.spec)
    hidden = verdict.positions.copy()
    hidden[3:] = np.nan
    assert not goes_the_right_way(dataclasses.replace(verdict, positions=hidden), order.spec)


# ---------------------------------------------------------------- autoencoder


class FakeAutoencoder:
    """Encodes to itself; `fault` changes what is decoded, float in -1..1."""

    device = torch.device("cpu")

    def __init__(self, fault: Callable[[torch.Tensor], torch.Tensor] = lambda frames: frames) -> None:
        self.encode, self.decode = lambda frames: frames, fault


def test_a_perfect_autoencoder() -> None:
    figures = decoder_figures(FakeAutoencoder(), frames=6, clips=2)  # type: ignore[arg-type]
    assert figures["decoder.psnr"].value > 60
    assert figures["decoder.colour_error"].value == figures["decoder.still_difference"].value == 0.0
    assert figures["decoder.psnr"].n == 6


def test_a_reddish_autoencoder_errs_in_colour_alone() -> None:
    tint = torch.tensor([-12 / 127.5, 0.0, 0.0])[:, None, None]
    figures = decoder_figures(FakeAutoencoder(lambda frames: frames + tint), frames=6, clips=2)  # type: ignore[arg-type]
    assert figures["decoder.colour_error"].value == pytest.approx(12 / 3, abs=0.4)
    assert figures["decoder.still_difference"].value < 0.2
    assert figures["decoder.psnr"].value == pytest.approx(20 * np.log10(255 / (12 / 3**0.5)), abs=0.7)


def test_a_flickering_autoencoder_does_not_stand_still() -> None:
    def flicker(frames: torch.Tensor) -> torch.Tensor:
        sign = torch.tensor([1.0, -1.0]).repeat(len(frames) // 2)[:, None, None, None]
        return 0.5 * frames + 4 / 127.5 * sign  # halved: nothing saturates

    figures = decoder_figures(FakeAutoencoder(flicker), frames=2, clips=2)  # type: ignore[arg-type]
    assert figures["decoder.still_difference"].value == pytest.approx(8, abs=0.5)


def test_psnr_and_colour_error_by_hand() -> None:
    truth = np.full((4, 4, 3), 100, np.uint8)
    assert psnr(truth + np.uint8(10), truth) == pytest.approx(28.13, abs=0.01)
    mask = np.zeros((4, 4), bool)
    mask[0] = True
    frame = truth.copy()
    frame[0, :2] += 6
    frame[0, 2:] -= 6
    frame[1:] = 0
    assert colour_error(frame, truth, mask) == 0.0, "signed errors cancel, and outside the mask nothing counts"
    assert colour_error(truth + np.uint8(6), truth, mask) == pytest.approx(6)
    assert round_trip(FakeAutoencoder(), truth[None].repeat(3, 0)).tolist() == truth[None].repeat(3, 0).tolist()  # type: ignore[arg-type]


# ---------------------------------------------------------------- long films


@pytest.mark.long
def test_long_real_films_hold_every_target(judge: Judge) -> None:
    figures = long_figures(judge, [shown(order) for order in long_films(5, 240)])
    assert [key for key in missed(figures) if ".change." not in key] == []
    for key, figure in figures.items():
        if "motion_by" not in key and "est_film" not in key:
            assert figure.value == pytest.approx(figure.ceiling), key
    assert figures["long.motion_by_pixels"].value == pytest.approx(1.0)
    assert 0.8 < figures["long.motion_by_pixels"].ceiling < 1.25  # type: ignore[operator]
    assert figures["long.first.scene"].n == 30


@pytest.mark.long
def test_a_film_that_stands_still_fails(judge: Judge) -> None:
    orders = [long_films(2, 200)[0], long_films(2, 200)[1]]
    films = [shown(orders[0], lambda frames: np.repeat(frames[:1], len(frames), axis=0)), shown(orders[1])]
    figures = long_figures(judge, films)
    assert {"long.motion_by_path", "long.stillest_film"} <= set(missed(figures))
    assert figures["long.stillest_film"].value == 0.0
    assert figures["long.last.motion"].value <= 0.6


@pytest.mark.slow
def test_a_film_that_changes_its_subject_half_way_shows_in_the_change(judge: Judge) -> None:
    order = long_films(1, 200)[0]
    spec = order.spec
    other = dataclasses.replace(
        spec, subject="cat" if spec.subject != "cat" else "car", scene="desert", variant=(spec.variant + 1) % 6
    )

    def half(frames: np.ndarray) -> np.ndarray:
        return np.concatenate([frames[:100], storybook.clip(other, range(100, 200))])

    figures = long_figures(judge, [shown(order, half)])
    assert figures["long.cuts"].value == 1.0
    assert figures["long.last.subject"].value == figures["long.last.scene"].value == 0.0
    assert figures["long.change.scene"].value == -1.0
    assert figures["long.last.colour"].value > 0.5
    assert figures["long.variant_kept"].value == 0.0
    assert figures["long.rgb_drift"].value > 10
    assert {"long.cuts", "long.change.subject", "long.change.scene", "long.rgb_drift"} <= set(missed(figures))


def test_motion_is_weighed_by_the_real_films_motion() -> None:
    figures = motion_figures([(8.0, 0.02), (3.0, 0.004)], [(8.0, 0.02), (1.0, 0.001)], [(8.0, 0.02), (1.1, 0.001)])
    assert figures["long.motion_by_pixels"].value == pytest.approx(11 / 9)
    assert figures["long.motion_by_path"].value == pytest.approx(24 / 21)
    assert (figures["long.stillest_film"].value, figures["long.liveliest_film"].value) == (1.0, 3.0)
    assert figures["long.liveliest_film"].ceiling == pytest.approx(1.1)


def test_the_path_knows_speed_and_no_jumps() -> None:
    x = 0.1 + 0.02 * np.arange(16)
    track = np.stack([x, np.full(16, 0.5)], axis=1)
    assert path_motion([track]) == pytest.approx(0.02)
    wrapped = track.copy()
    wrapped[8:, 0] -= 0.9
    assert path_motion([wrapped]) < 0.05
    hidden = np.full((16, 2), np.nan)
    assert path_motion([hidden]) == 0.0
    assert path_motion([track, hidden]) == pytest.approx(0.02)


# ---------------------------------------------------------------- identity


def test_a_return_needs_a_departure() -> None:
    def track(*seen: int) -> np.ndarray:
        return np.where(np.array(seen, bool)[:, None], 0.5, np.nan) * np.ones((1, 2))

    assert first_return(track(1, 1, 0, 0, 0, 1, 1)) == 5
    assert first_return(track(1, 1, 0, 0, 1, 1, 1)) is None, "two frames are a blink"
    assert first_return(track(0, 0, 0, 0, 1, 1, 1)) is None, "it was never there"
    assert first_return(track(1, 1, 0, 0, 0, 0, 0)) is None, "it stayed away"


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.long)])
def test_real_travellers_keep_their_colour(judge: Judge, count: int) -> None:
    figures = identity_figures(judge, [shown(order) for order in identity_films(count)])
    for name in ("apm", "no_apm"):
        assert figures[f"identity.{name}.came_back"].value == 1.0
        assert figures[f"identity.{name}.colour_kept"].value == 1.0
        assert figures[f"identity.{name}.colour_kept"].n == count


def test_a_traveller_that_comes_back_in_another_colour_is_seen(judge: Judge) -> None:
    order = identity_films(1)[0]
    other = "green" if order.spec.colour != "green" else "red"
    recoloured = storybook.clip(dataclasses.replace(order.spec, colour=other), range(order.num_frames))
    frames = np.concatenate([order.real_film()[:45], recoloured[45:]])
    outcome = read_return(judge, frames)
    assert (outcome.kept, outcome.is_kept_at_end) == (False, False)


def test_a_traveller_that_never_leaves_says_nothing_of_returns(judge: Judge) -> None:
    spec = dataclasses.replace(identity_films(1)[0].spec, motion="hovers")
    outcome = read_return(judge, storybook.clip(spec, range(96)))
    assert (outcome.kept, outcome.is_kept_at_end) == (None, True)


def test_the_colourless_prompt_reads_like_a_caption() -> None:
    spec = dataclasses.replace(identity_films(1)[0].spec, colour="orange", subject="boat", motion="drifts left", scene="sea")
    assert colourless(spec) == "a boat drifts left over the sea"


def test_speed_is_that_of_the_median_further_chunk() -> None:
    order = openings("seen", 1)[0]
    film = Shown(order, MadeFilm(order.real_film(), np.array([9.0, 0.5, 4.0, 0.5])))
    assert speed_figures([film])["speed.further_chunks"].value == 16.0
