"""The judge's training: it learns, resumes, and meets every pair of words."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from st2v_stream.training.judge import (
    JudgeRecipe,
    JudgeStage,
    _disturbed,
    _draw_batch,
    ceiling,
    is_nameable,
    right_figures,
    through_vae,
    train_motion,
    worsened,
)
from st2v_stream.training.vae import finished, new_autoencoder
from st2v_stream.worlds import captions, storybook
from st2v_stream.worlds.judge import WINDOW, Judge

pytestmark = pytest.mark.slow

SMALL = JudgeRecipe(batch=6, tracks=10, motion_steps=30)


@pytest.fixture(scope="module")
def stage() -> JudgeStage:
    return JudgeStage(SMALL, seed=0)


def test_a_few_steps_lower_the_loss(stage: JudgeStage) -> None:
    losses = [stage.train_step(step, 3e-3) for step in range(24)]
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6]), losses
    scores = stage.validate()
    assert scores["scene"] > 0.3, "a fifth is chance"
    assert 0 < scores["mask_error"] < 0.5


def test_a_resumed_judge_continues_bit_for_bit() -> None:
    whole, second = (JudgeStage(dataclasses.replace(SMALL, batch=2), seed=0) for _ in range(2))
    for step in range(2):
        whole.train_step(step, 1e-3)
    second.load_state_dict(copy.deepcopy(whole.state_dict()))
    for step in range(2, 4):
        whole.train_step(step, 1e-3)
        second.train_step(step, 1e-3)
    received = second.state_dict()["reader"]
    for name, value in whole.state_dict()["reader"].items():
        assert torch.equal(value, received[name]), name


def test_training_meets_held_out_pairs_as_often_as_others() -> None:
    labels = [_draw_batch(dataclasses.replace(SMALL, batch=60), 0, "judge batch", step)[1] for step in range(6)]
    met = {(captions.COLOURS[c], captions.SUBJECTS[s]) for batch in labels for c, s in zip(batch.colour, batch.subject)}
    assert met >= captions.HELD_OUT_COLOUR_SUBJECT


def test_labels_say_what_the_frame_shows() -> None:
    _, labels = _draw_batch(dataclasses.replace(SMALL, batch=40), 0, "judge batch", 3)
    cells = labels.mask.sum((1, 2))
    assert (cells[labels.is_seen] > 1).all()
    assert (cells[~labels.is_seen] < 100 / 16 + 1).all()
    assert cells.max() < 60


def test_worse_frames_stay_frames() -> None:
    frame = storybook.frame(storybook.sample_spec(np.random.default_rng(0)), 0)
    worse = worsened(JudgeRecipe(), frame, np.random.default_rng(1))
    assert worse.dtype == np.uint8
    assert worse.shape == frame.shape
    assert 0 < np.abs(worse.astype(int) - frame).mean() < 60


def test_frames_pass_the_autoencoder_with_their_own_noise() -> None:
    vae = finished(new_autoencoder(0).state_dict(), seed=0, size=64, frames=8)
    frames = torch.zeros((2, 3, 64, 64))
    silent = through_vae(vae, frames, 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(silent, vae.decode(vae.encode(frames)).clamp(-1, 1))
    noisy = through_vae(vae, frames, 0.5, torch.Generator().manual_seed(0))
    assert not torch.allclose(noisy[0], noisy[1])


def test_a_missed_frame_hides_both_coordinates() -> None:
    tracks = torch.cat([torch.full((4, 2 * WINDOW), 0.3), torch.ones((4, WINDOW))], dim=1)
    disturbed = _disturbed(tracks, dataclasses.replace(SMALL, track_gaps=0.5), torch.Generator().manual_seed(0))
    x, y, seen = disturbed.split(WINDOW, dim=1)
    assert 0 < seen.sum() < seen.numel()
    assert ((x == 0) == (seen == 0)).all()
    assert ((y == 0) == (seen == 0)).all()


def test_the_motion_reader_learns_tracks_of_the_frame_reader() -> None:
    judge = Judge.load()
    recipe = dataclasses.replace(SMALL, tracks=30, motion_steps=120)
    reader = train_motion(judge.frame_reader, recipe, seed=0)
    rng = np.random.default_rng(4)
    specs = [storybook.spec_for_words(rng, "red", "ball", "desert", motion) for motion in ("drifts left", "drifts right")]
    taught = Judge(judge.frame_reader, reader, judge.config)
    assert [taught.read(storybook.clip(spec, range(WINDOW))).motion for spec in specs] == ["drifts left", "drifts right"]


def test_the_ceiling_counts_what_is_right() -> None:
    figures = ceiling(Judge.load(), seed=5, clips=8)
    assert figures["scene"] == 1.0
    assert figures["subject"] >= 0.75
    assert 0 <= figures["camera_flow_px"] <= figures["camera_flow_px_worst"] < 1.0


def test_a_wrong_colour_is_wrong_in_colour_and_hue_only() -> None:
    spec = storybook.spec_for_words(np.random.default_rng(1), "red", "cat", "desert", "hovers")
    verdict = Judge.load().read(storybook.clip(dataclasses.replace(spec, colour="blue"), range(WINDOW)))
    assert right_figures(verdict, spec) == ["subject", "scene", "variant", "motion"]


def test_a_window_without_the_subject_is_not_nameable() -> None:
    spec = storybook.spec_for_words(np.random.default_rng(1), "red", "ball", "desert", "drifts right")
    assert is_nameable(spec, 0)
    away = dataclasses.replace(spec, start_x=1.22, speed=1e-5)  # at the end of its track, and slow: it does not come back yet
    assert not is_nameable(away, 0)
