"""The enhancer's stage in miniature: it learns, it goes on where it was, its previews show what the truth shows."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from st2v_stream.enhancers.load import load_enhancer
from st2v_stream.networks.enhancer_onestep import OneStepUNet, OneStepUNetConfig
from st2v_stream.training.enhancer import EnhancerStage, export_enhancer, load_stage, new_enhancer, sharpened
from st2v_stream.training.enhancer_measures import edge_widths, flicker, near_edges, psnr_db, squared_error
from st2v_stream.training.enhancer_pairs import PairPool, PreviewModel, draw_window, shrunk
from st2v_stream.training.recipe import EnhancerRecipe
from training.tiny_training import tiny_autoencoder, tiny_parts

TINY = EnhancerRecipe(windows=2, decoded_share=0.5, piece_batch=2, batch=1, whole_share=0.5)
SMALL = OneStepUNetConfig(block_out_channels=(8, 8), down_blocks=1, up_blocks=1, sharp_channels=8)
DRAWN = {"seed": 0, "purpose": "test", "split": "train", "count": 2}


def model() -> PreviewModel:
    return PreviewModel(tiny_parts().eval().requires_grad_(False), tiny_autoencoder())


@cache
def shrunk_pool() -> PairPool:
    """Previews that are the films themselves, small: what a network of this size can learn something from at once."""
    windows = [draw_window(0, "test", number, "train", 1200) for number in range(2)]
    previews = np.stack([shrunk(window.truth(window.numbers)) for window in windows])
    return PairPool(windows, torch.from_numpy(previews), [True, False])


def stage(recipe: EnhancerRecipe = TINY) -> EnhancerStage:
    return EnhancerStage(new_enhancer(0, SMALL), shrunk_pool(), shrunk_pool(), recipe, seed=0)


def test_previews_are_kept_and_films_drawn_again(tmp_path: Path) -> None:
    made = PairPool.kept(tmp_path / "pairs.pt", model(), TINY, **DRAWN)
    assert made.previews.shape == (2, 16, 64, 64, 3)
    assert made.previews.dtype == torch.uint8
    kept = PairPool.kept(tmp_path / "pairs.pt", None, TINY, **DRAWN)  # type: ignore[arg-type]
    assert torch.equal(kept.previews, made.previews)
    assert kept.windows == made.windows
    assert len({tuple(preview.flatten().tolist()) for preview in made.previews[:, 0]}) == 2


@pytest.mark.slow
def test_it_learns_to_be_better_than_bicubic() -> None:
    recipe = dataclasses.replace(TINY, permute_colours=0.0, clean_items=1.0, blur_share=0.0, noise_share=0.0)
    learning = stage(recipe)
    for step in range(60):
        learning.train_step(step, 3e-3)
    scores = learning.validate()
    assert scores["edge_psnr_db"] > scores["bicubic_edge_psnr_db"] + 0.1
    assert scores["psnr_db"] > scores["bicubic_psnr_db"]


def test_resumed_equals_uninterrupted() -> None:
    straight, before = stage(), stage()
    for step in range(4):
        straight.train_step(step, 1e-3)
    for step in range(2):
        before.train_step(step, 1e-3)
    after = stage()
    after.load_state_dict(before.state_dict())
    for step in range(2, 4):
        after.train_step(step, 1e-3)
    weights = load_stage(straight.state_dict()).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in after.network.state_dict().items())


def test_what_is_exported_is_what_was_trained(tmp_path: Path) -> None:
    learned = stage()
    learned.train_step(0, 3e-3)
    network = load_stage(learned.state_dict()).half().float()
    export_enhancer(network, tmp_path / "enhancer")
    assert load_enhancer(tmp_path, "cpu").name == "onestep"
    weights = OneStepUNet.from_pretrained(tmp_path / "enhancer" / "unet").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_sharpened_frames_see_those_before_them() -> None:
    network = load_stage(stage().state_dict())
    preview = shrunk_pool().previews[0].numpy()
    assert np.array_equal(sharpened(network, preview, (0, 3)), sharpened(network, preview)[[0, 3]])


# ---------------------------------------------------------------- measures


def step_edge(width: float) -> np.ndarray:
    """Two frames, dark on the left, bright on the right, `width` pixels from one to the other."""
    ramp = ((np.arange(64) - 32) / width).clip(-0.5, 0.5) * 200 + 128
    return np.broadcast_to(ramp[None, None, :, None], (2, 64, 64, 3)).round().astype(np.uint8)


def test_edges_are_as_wide_as_they_are_drawn() -> None:
    widths = [float(np.median(edge_widths(step_edge(width)))) for width in (2, 4, 8)]
    assert widths == pytest.approx([2, 4, 8], rel=0.15)


def test_what_is_near_an_edge() -> None:
    mask = near_edges(step_edge(1))
    assert mask[0, 30].nonzero()[0].tolist() == list(range(28, 38))
    assert not near_edges(np.full((1, 64, 64, 3), 9, np.uint8)).any()


def test_flicker_is_change_where_the_truth_is_still() -> None:
    truth = np.zeros((2, 4, 4, 3), np.uint8)
    truth[1, :2] = 50
    made = truth.copy()
    assert flicker(made, truth) == (0.0, 8)
    made[1, 3] = 6
    assert flicker(made, truth) == (24.0, 8)
    assert psnr_db(float(squared_error(made, truth).mean())) == pytest.approx(10 * np.log10(255**2 / (36 * 4 / 32)))
