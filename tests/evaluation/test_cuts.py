"""Cuts are found where one was made, and nowhere else."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from st2v_stream.evaluation.cuts import scene_cuts

Film = NDArray[np.uint8]


def panorama(seed: int, width: int = 400) -> NDArray[np.uint8]:
    """A wide picture of large soft colour patches, (48, width, 3)."""
    patches = np.random.default_rng(seed).integers(0, 256, (2, width // 40, 3), dtype=np.uint8)
    return cv2.resize(patches, (width, 48), interpolation=cv2.INTER_LINEAR)


def pan(seed: int, frames: int, speed: int = 2) -> Film:
    wide = panorama(seed)
    return np.stack([wide[:, t * speed : t * speed + 64] for t in range(frames)])


def test_a_pan_has_no_cut() -> None:
    assert scene_cuts(pan(1, 60), 8) == []


def test_a_hard_cut_is_found_at_its_first_frame() -> None:
    assert scene_cuts(np.concatenate([pan(1, 30), pan(2, 30)]), 8) == [30]


def test_two_cuts_are_two() -> None:
    assert scene_cuts(np.concatenate([pan(1, 24), pan(2, 20), pan(3, 20)]), 24) == [24, 44]


def test_a_still_film_and_single_frames_have_none() -> None:
    assert scene_cuts(np.repeat(pan(1, 1), 40, axis=0), 8) == []
    assert scene_cuts(pan(1, 1), 8) == []
    assert scene_cuts([], 8) == []


def test_frames_may_come_one_by_one() -> None:
    film = np.concatenate([pan(1, 30), pan(2, 30)])
    assert scene_cuts((frame for frame in film), 29.97) == [30]
