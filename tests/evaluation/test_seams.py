"""Seams, drift and change, on films whose answer is known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from st2v_stream.evaluation.seams import (
    boundary_ratio,
    difference,
    drift_window,
    frame_differences,
    rgb_drift,
    saturation_drift,
    seam_ratio,
    still_difference,
)

Film = NDArray[np.uint8]


def brightening(steps: list[int], size: int = 6) -> Film:
    """A grey film whose frame t + 1 is steps[t] brighter than frame t (modulo nothing: stay below 255)."""
    levels = np.concatenate([[10], 10 + np.cumsum(steps)])
    assert 0 <= levels.min() <= levels.max() <= 255
    return np.broadcast_to(levels[:, None, None, None], (len(levels), size, size, 3)).astype(np.uint8)


def stutter(seam: int, inside: int = 1) -> Film:
    """16 + 8 + 8 frames that change by `inside`, and by `seam` where chunks meet (pairs 15 and 23)."""
    return brightening([seam if pair in (15, 23) else inside for pair in range(31)])


def test_differences_are_the_steps() -> None:
    assert frame_differences(brightening([1, 4, 0])).tolist() == [1, 4, 0]


def test_darker_counts_as_much_as_brighter() -> None:
    dark, light = brightening([200])
    assert difference(dark, light) == difference(light, dark) == 200


@pytest.mark.parametrize(("seam", "ratio"), [(1, 1.0), (5, 5.0), (0, 0.0)])
def test_boundary_ratio_of_a_stutter(seam: int, ratio: float) -> None:
    assert boundary_ratio(stutter(seam)) == pytest.approx(ratio)


def test_the_grid_decides_what_a_seam_is() -> None:
    film = stutter(5)
    assert boundary_ratio(film, 16, 8) > 4
    assert boundary_ratio(film, 12, 8) < 1  # borders elsewhere: the jumps are now inside


def test_the_first_chunk_is_no_yardstick() -> None:
    jumpy_start = brightening([9] * 15 + [2] + [2] * 7)
    assert boundary_ratio(jumpy_start) == pytest.approx(1.0)


@pytest.mark.parametrize("film", [brightening([1] * 14), brightening([0] * 40), brightening([1] * 15)])
def test_without_a_seam_or_any_change_there_is_no_ratio(film: Film) -> None:
    assert math.isnan(boundary_ratio(film))


def test_a_film_that_moves_at_seams_only_has_an_infinite_ratio() -> None:
    assert math.isinf(seam_ratio(np.array([0.0] * 15 + [3.0] + [0.0] * 7)))


def test_drift_is_the_mean_shift_of_the_channels() -> None:
    film = np.full((16, 4, 4, 3), 100, np.uint8)
    film[8:, ..., 0] = 109  # red up by 9, blue down by 3
    film[8:, ..., 2] = 97
    assert rgb_drift(film) == pytest.approx((9 + 0 + 3) / 3)


def test_saturation_drift_has_a_sign() -> None:
    film = np.full((16, 4, 4, 3), 200, np.uint8)
    film[8:, ..., 1:] = 100  # from grey (0) to half saturated (127.5)
    assert saturation_drift(film) == pytest.approx(127.5)
    assert saturation_drift(film[::-1]) == pytest.approx(-127.5)
    assert saturation_drift(np.zeros((16, 4, 4, 3), np.uint8)) == 0


@pytest.mark.parametrize(("frames", "window"), [(1200, 100), (200, 100), (199, 24), (16, 2), (3, 1), (1, 1)])
def test_short_films_are_compared_by_eighths(frames: int, window: int) -> None:
    assert drift_window(frames) == window


def test_still_difference_looks_only_where_the_truth_stands_still() -> None:
    truth = np.zeros((3, 4, 4, 3), np.uint8)
    truth[1, :, :2] = 50  # the left half changes in both pairs
    film = truth.copy()
    film[1, :, 2:] = 6  # flicker on the right
    film[1, :, :2] = 90  # not looked at
    assert still_difference(film, truth) == pytest.approx(6)
    assert still_difference(truth, truth) == 0
    assert math.isnan(still_difference(film[:2, :, :2], truth[:2, :, :2]))
