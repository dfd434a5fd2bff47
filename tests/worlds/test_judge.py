"""The committed judge reads real films right, and says so when there is nothing to read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from st2v_stream.checkpoints.models import find_weights, known_models
from st2v_stream.errors import CheckpointError, InvalidRequest
from st2v_stream.training.judge import is_nameable
from st2v_stream.worlds import captions, storybook
from st2v_stream.worlds.judge import CONFIG_FILE, NAME, WEIGHTS_FILE, Judge, camera_flow, judge_digest, nearest_hue


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


def drawn(colour: str, subject: str, motion: str, scene: str, start: int = 0, seed: int = 5) -> np.ndarray:
    spec = storybook.spec_for_words(np.random.default_rng(seed), colour, subject, scene, motion)
    return storybook.clip(spec, range(start, start + 16))


def no_subject() -> np.ndarray:
    return np.zeros((16, 16, 16), np.float32)


@pytest.mark.parametrize("motion", captions.MOTIONS)
def test_real_films_are_read_as_they_were_drawn(judge: Judge, motion: str) -> None:
    number = captions.MOTIONS.index(motion)
    colour, subject, scene = captions.COLOURS[number], captions.SUBJECTS[5 - number], captions.SCENES[number]
    verdict = judge.read(drawn(colour, subject, motion, scene))
    read = (verdict.colour, verdict.hue, verdict.subject, verdict.motion, verdict.scene)
    assert read == (colour, colour, subject, motion, scene)
    assert verdict.seen_share == 1.0
    assert 0.5 < verdict.confidence <= 1.0
    assert verdict.camera_flow_px < 0.4


def is_whole(spec: storybook.FilmSpec, start: int) -> bool:
    """Nameable, and without a re-entry: the judge was frozen when those took longer, and reads the motion less well there."""
    re_entry = storybook.next_re_entry(spec, start)
    return is_nameable(spec, start) and (re_entry is None or re_entry >= start + 16)


@pytest.mark.slow
def test_at_its_ceiling_held_out_pairs_are_read_as_well_as_others(judge: Judge) -> None:
    rng = np.random.default_rng(99)
    specs = [storybook.sample_spec(rng, ("held_out", "train")[i % 2]) for i in range(60)]
    right = np.zeros((2, 4))
    for number, spec in enumerate(specs):
        start = next(start for start in map(int, rng.integers(2000, size=99)) if is_whole(spec, start))
        verdict = judge.read(storybook.clip(spec, range(start, start + 16)))
        said = (verdict.colour, verdict.subject, verdict.scene, verdict.motion)
        right[number % 2] += [a == b for a, b in zip(said, (spec.colour, spec.subject, spec.scene, spec.motion), strict=True)]
    assert (right / 30 >= 0.9).all(), right / 30
    assert (right.sum(0) / 60 >= 0.95).all(), right.sum(0) / 60


def test_positions_follow_the_subject(judge: Judge) -> None:
    spec = storybook.spec_for_words(np.random.default_rng(2), "red", "ball", "desert", "bounces")
    positions = judge.read(storybook.clip(spec, range(16))).positions
    truth = np.array([storybook.position(spec, t) for t in range(16)])
    assert positions.shape == (16, 2)
    assert np.abs(positions - truth).max() < 0.05


def test_an_empty_scene_names_no_subject(judge: Judge) -> None:
    verdict = judge.read(np.stack([storybook.empty_scene("meadow", 3)] * 16))
    assert (verdict.scene, verdict.variant) == ("meadow", 3)
    assert (verdict.colour, verdict.hue, verdict.subject, verdict.motion) == (None, None, None, None)
    assert verdict.seen_share == verdict.confidence == 0.0
    assert np.isnan(verdict.positions).all()


def test_a_motion_is_read_from_sixteen_frames_only(judge: Judge) -> None:
    film = drawn("blue", "cat", "hovers", "meadow")
    assert judge.read(film[:8]).motion is None
    assert judge.read(film[:1]).subject == "cat"


def test_the_same_frames_give_the_same_verdict(judge: Judge) -> None:
    film = drawn("green", "boat", "drifts right", "sea")
    one, two = judge.read(film), Judge.load().read(film.copy())
    np.testing.assert_array_equal(one.positions, two.positions)
    assert (one.confidence, one.camera_flow_px) == (two.confidence, two.camera_flow_px)


def test_a_drifter_played_backwards_goes_the_other_way(judge: Judge) -> None:
    film = drawn("yellow", "ball", "drifts right", "snow field")
    assert judge.read(film[::-1].copy()).motion == "drifts left"


@pytest.mark.parametrize("colour", captions.COLOURS)
def test_the_hue_needs_no_network(colour: str) -> None:
    spec = storybook.spec_for_words(np.random.default_rng(0), colour, "car", "night sky", "hovers")
    frame, mask = storybook.frame_and_mask(spec, 3)
    inside = cv2.resize(mask.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
    assert nearest_hue(frame[None], inside[None]) == colour
    grey = np.repeat(frame.mean(2, keepdims=True).astype(np.uint8), 3, axis=2)
    assert nearest_hue(grey[None], inside[None]) is None


@pytest.mark.parametrize("scene", captions.SCENES)
def test_camera_flow_sees_a_camera_that_pans(scene: str) -> None:
    wide = cv2.resize(storybook.empty_scene(scene, 1, 128), (96, 64), interpolation=cv2.INTER_AREA)
    panned = np.stack([wide[:, t : t + 64] for t in range(16)])
    assert camera_flow(panned, no_subject()) == pytest.approx(1.0, abs=0.35)
    assert camera_flow(np.stack([panned[0]] * 16), no_subject()) < 0.02
    assert camera_flow(panned[:1], no_subject()[:1]) == 0.0


@pytest.mark.parametrize(
    "frames", [np.zeros((16, 32, 32, 3), np.uint8), np.zeros((16, 64, 64, 3)), np.zeros((0, 64, 64, 3), np.uint8)]
)
def test_other_frames_are_refused(judge: Judge, frames: np.ndarray) -> None:
    with pytest.raises(InvalidRequest, match="expected"):
        judge.read(frames)


def test_the_digest_is_that_of_settings_and_weights(tmp_path: Path) -> None:
    folder = tmp_path / NAME
    shutil.copytree(find_weights(NAME), folder)
    assert judge_digest(folder) == judge_digest()
    (folder / "README.md").write_text("other words")
    assert judge_digest(folder) == judge_digest()
    weights = folder / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    assert judge_digest(folder) != judge_digest()


def test_a_judge_of_other_words_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / NAME
    shutil.copytree(find_weights(NAME), folder)
    settings = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(settings | {"subjects": ["cow"]}))
    with pytest.raises(CheckpointError, match=r"config\.json: other subjects"):
        Judge.load(folder)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    folder = tmp_path / NAME
    shutil.copytree(find_weights(NAME), folder)
    weights = folder / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=WEIGHTS_FILE):
        Judge.load(folder)


def test_the_judge_is_no_model_that_makes_films() -> None:
    assert NAME not in known_models()
