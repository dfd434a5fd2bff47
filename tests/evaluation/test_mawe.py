"""The parts of MAWE on pictures whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from st2v_stream.evaluation import mawe

SOFT = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def uniform_flow(x: float, y: float, frame: NDArray[np.uint8] = SOFT) -> NDArray[np.float32]:
    return np.broadcast_to(np.array([x, y], np.float32), (*frame.shape[:2], 2))


def test_the_true_flow_explains_a_shift_and_no_flow_does_not() -> None:
    shifted = np.roll(SOFT, 3, axis=1)
    assert mawe.warp_error(SOFT, shifted, uniform_flow(3, 0)) == 0
    assert mawe.warp_error(SOFT, shifted, uniform_flow(0, 0)) > 1000


def test_what_leaves_is_dropped_and_what_is_uncovered_is_unknown() -> None:
    warped = mawe.push(SOFT, uniform_flow(3, -2))
    assert warped.is_hit[:10, 3:].all()
    assert not warped.is_hit[10:].any()
    assert not warped.is_hit[:, :3].any()
    assert np.array_equal(warped.frame[:10, 3:], SOFT[2:, :-3])
    assert not warped.frame[10:].any()


@pytest.mark.parametrize(("flow", "lands_at"), [(0.5, 0), (1.5, 2), (0.51, 1), (-0.5, 0)])
def test_half_pixels_go_to_the_even_one(flow: float, lands_at: int) -> None:
    frame = np.zeros((1, 4, 3), np.uint8)
    field = np.full((1, 4, 2), 99, np.float32)  # everything leaves but the first pixel
    field[0, 0] = (flow, 0)
    assert np.flatnonzero(mawe.push(frame, field).is_hit).tolist() == [lands_at]


def test_the_last_of_several_on_one_pixel_stays() -> None:
    frame = np.arange(4, dtype=np.uint8)[None, :, None].repeat(3, axis=2) + 1
    field = np.zeros((1, 4, 2), np.float32)
    field[0, :, 0] = [2, 1, 0, -1]  # all on column 2
    warped = mawe.push(frame, field)
    assert warped.frame[0, :, 0].tolist() == [0, 0, 4, 0]


def test_nothing_hit_is_no_error() -> None:
    assert mawe.warp_error(SOFT, SOFT, uniform_flow(50, 0)) == 0.0


def test_length_and_energy() -> None:
    assert mawe.flow_length(uniform_flow(3, 4)) == pytest.approx(5)
    assert mawe.flow_energy(uniform_flow(3, 4)) == pytest.approx(25)


def test_the_three_forms() -> None:
    errors, lengths, energies = np.array([95.0, 190.0]), np.array([1.0, 4.0]), np.array([2.0, 20.0])
    assert mawe.mawe_of_released_code(errors, lengths) == pytest.approx((95 / 9.5 + 190 / 38) / 2)
    assert mawe.mawe(errors, lengths) == pytest.approx(142.5 / (9.5 * 2.5))
    assert mawe.mawe_squared(errors, energies) == pytest.approx(142.5 / 11)


def test_without_motion_there_is_no_value() -> None:
    nothing, errors = np.zeros(3), np.ones(3)
    assert math.isnan(mawe.mawe(errors, nothing))
    assert math.isnan(mawe.mawe_squared(errors, nothing))
    assert math.isnan(mawe.mawe_of_released_code(errors, np.array([1.0, 0.0, 2.0])))
    assert math.isnan(mawe.mawe(np.array([]), np.array([])))
