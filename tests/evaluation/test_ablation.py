"""The ablation table on tiny networks: statistics, equal budgets, rows that differ in the mechanism only, resuming."""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from small_networks import randomize, small_vae
from training.tiny_training import tiny_parts, tiny_pool

from st2v_stream.errors import InvalidRequest
from st2v_stream.evaluation import variants
from st2v_stream.evaluation.ablation import add_arguments
from st2v_stream.evaluation.ablation_rows import (
    BLENDING_MEASURES,
    ROLL_OUT_MEASURES,
    ROLL_OUT_ROWS,
    ROWS,
    chosen_rows,
    flow_deviation,
    measure_blending,
    measure_roll_out,
    sharpness,
)
from st2v_stream.evaluation.ablation_study import Plan, Study
from st2v_stream.evaluation.ablation_table import NOT_SHOWN, make_table
from st2v_stream.evaluation.blended_films import Blending, denoise_again
from st2v_stream.evaluation.intervals import LEAST_FILMS, mean_interval, paired_difference
from st2v_stream.evaluation.rollouts import Sampling, anchor_frames, real_films, roll_out, scene, through_autoencoder
from st2v_stream.evaluation.variants import Budget, Variant, new_variant, trained_variant, window_loss
from st2v_stream.networks.unet import Conditioning
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training import randomness
from st2v_stream.training.export import export
from st2v_stream.training.parts import Parts
from st2v_stream.worlds import storybook
from st2v_stream.worlds.judge import Verdict

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
CONDITIONINGS = get_args(Conditioning)


# ---------------------------------------------------------------- statistics


def test_the_interval_of_a_constant_is_the_constant() -> None:
    interval = mean_interval([2.5] * 7)
    assert (interval.mean, interval.low, interval.high, interval.n) == (2.5, 2.5, 2.5, 7)


def test_the_interval_of_two_films_is_their_range() -> None:
    """Means of two draws from {0, 1} are 0, 1/2, 1 with 1/4, 1/2, 1/4: the 2.5 % points are the ends."""
    interval = mean_interval([0.0, 1.0])
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.0, 1.0)


def test_the_interval_has_the_normal_width_for_many_films() -> None:
    values = np.random.default_rng(3).normal(10.0, 2.0, 400)
    interval, half = mean_interval(values.tolist()), 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)


def test_films_without_a_number_are_left_out() -> None:
    assert mean_interval([1.0, math.nan, 3.0, math.inf]).n == 2
    nothing = mean_interval([math.nan])
    assert nothing.n == 0
    assert math.isnan(nothing.mean)
    assert not nothing.excludes_zero


def test_pairs_cancel_what_films_share() -> None:
    """Films differ by far more than the rows do; only the paired difference sees it."""
    films = [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    difference = paired_difference([film + 1 for film in films], films)
    assert (difference.mean, difference.low, difference.high) == (1.0, 1.0, 1.0)
    assert difference.excludes_zero
    assert not paired_difference(films, films).excludes_zero
    with pytest.raises(ValueError, match="expected 6 films as in the control, received 2"):
        paired_difference(films[:2], films)


def test_too_few_films_show_nothing() -> None:
    few = LEAST_FILMS - 1
    assert not paired_difference([1.0] * few, [0.0] * few).excludes_zero
    assert 2 / 2**LEAST_FILMS < 0.05 < 2 / 2**few


# ---------------------------------------------------------------- the table


def measured(films: int, **shifts: float) -> list[dict[str, float]]:
    return [
        {measure.name: 1.0 + 0.1 * film + shifts.get(measure.name, 0.0) for measure in ROLL_OUT_MEASURES}
        for film in range(films)
    ]


def verdicts(films: int, *rows: dict[str, float]) -> list[str]:
    control, *others = ROLL_OUT_ROWS
    made = [(control, measured(films)), *((row, measured(films, **shifts)) for row, shifts in zip(others, rows, strict=False))]
    table = make_table("T", ROLL_OUT_MEASURES, made, control.name, ("real", measured(films)))
    assert [row.name for row in table.rows][:2] == ["reference", control.name]
    assert table.markdown().count("\n| ") == 2 + len(table.rows)
    return [row.verdict for row in table.rows[1:]]


def test_a_row_like_the_control_says_so() -> None:
    assert verdicts(8, {}) == ["the control", NOT_SHOWN]


def test_a_row_that_differs_says_by_how_much_and_the_claim_first() -> None:
    (_, text) = verdicts(8, {"boundary_ratio": 0.5, "rgb_drift": -2.0})
    assert text == "boundary ratio +0.50 [+0.50, +0.50]; RGB drift -2.0 [-2.0, -2.0]"
    (_, text) = verdicts(8, {"scene_cuts": 1.0})
    assert text == f"boundary ratio: {NOT_SHOWN}; scene cuts +1.00 [+1.00, +1.00]"


def test_few_films_are_named_as_the_reason() -> None:
    assert verdicts(3, {"boundary_ratio": 5.0})[1] == f"{NOT_SHOWN} (3 films are too few to show one)"


def test_rows_are_chosen_by_name_or_group_with_their_control() -> None:
    assert chosen_rows(None) == ROWS
    assert [row.name for row in chosen_rows(["apm"])] == ["cam", "apm-off"]
    assert [row.name for row in chosen_rows(["blend-naive", "addition"])] == ["cam", "addition", "blend-coded", "blend-naive"]
    with pytest.raises(InvalidRequest, match=r"no such row: expected among .*received 'glue'"):
        chosen_rows(["glue"])


# ---------------------------------------------------------------- variants


@functools.cache
def origin() -> Parts:
    return randomize(tiny_parts())


@functools.cache
def autoencoder() -> FrameAutoencoder:
    return randomize(small_vae())


def fresh(conditioning: Conditioning) -> Variant:
    return new_variant(conditioning, origin(), seed=0)


def weights(variant: Variant) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in variant.networks.state_dict().items()}


def test_all_variants_start_alike_and_see_the_same() -> None:
    """None uses its tail yet, so the first loss depends on films, noise, captions and anchors alone: equal to the bit."""
    losses = {kind: window_loss(fresh(kind), tiny_pool(), 3, randomness.torch_rng(1, "step")).item() for kind in CONDITIONINGS}
    assert len(set(losses.values())) == 1


def test_nothing_of_the_origins_cam_is_kept() -> None:
    one, other = origin(), copy.deepcopy(origin())
    with torch.no_grad():
        for name, weight in [*other.unet.named_parameters(), *other.cam.named_parameters("cam")]:
            if "merger" in name or name.startswith("cam"):
                weight.add_(1.0)
    first, second = (weights(new_variant("attention", parts, seed=0)) for parts in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_training_teaches_all_but_none_to_use_the_tail(conditioning: Conditioning) -> None:
    variant, pool = fresh(conditioning), tiny_pool()
    optimizer = torch.optim.SGD(variant.networks.parameters(), lr=0.1)
    window_loss(variant, pool, 2, randomness.torch_rng(0, "step")).backward()
    optimizer.step()
    before = window_loss(variant, pool, 2, randomness.torch_rng(1, "step")).item()
    pool.tail = -pool.tail
    assert (window_loss(variant, pool, 2, randomness.torch_rng(1, "step")).item() == before) == (conditioning == "none")


class Interrupted(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("conditioning", ["addition", "concatenation"])
def test_training_interrupted_and_resumed_equals_uninterrupted(
    conditioning: Conditioning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "SAVE_EVERY_STEPS", 1)
    parts, budget = origin(), Budget(steps=4, batch=2, warmup_steps=1)

    def train(folder: str, say: Callable[[str], None] = lambda line: None) -> Variant:
        return trained_variant(conditioning, parts, tiny_pool, budget, tmp_path / folder, seed=0, say=say)

    def interrupt(line: str) -> None:
        if "step 2 " in line:
            raise Interrupted

    with pytest.raises(Interrupted):
        train("resumed", interrupt)
    whole, resumed = weights(train("whole")), weights(train("resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    moved = {
        name for name, value in weights(new_variant(conditioning, parts, seed=0)).items() if not torch.equal(value, whole[name])
    }
    assert {"unet.conv_in.weight", "text_encoder.embeddings.token_embedding.weight"} & moved
    assert not (tmp_path / "resumed" / variants.CHECKPOINT_FILE).exists()


# ---------------------------------------------------------------- films


def test_scenes_have_addresses() -> None:
    assert scene(3, 0) == scene(3, 0)
    assert scene(3, 0).spec != scene(3, 1).spec
    assert [scene(number, 0).spec.motion for number in range(5)] == list(storybook.captions.MOTIONS)


def films_of(conditioning: Conditioning, anchor: Any, count: int = 2, chunks: int = 1) -> np.ndarray:
    variant, vae = fresh(conditioning), autoencoder()
    randomize(variant.networks)
    scenes = [scene(number, 0) for number in range(count)]
    first = through_autoencoder(vae, real_films(scenes, 16))
    with torch.no_grad():
        return roll_out(variant, vae, scenes, first, chunks=chunks, anchor=anchor, sampling=Sampling(steps=1, guidance=1.5))


def test_roll_outs_share_the_first_chunk_and_differ_in_the_mechanism() -> None:
    made = {anchor: films_of("attention", anchor) for anchor in ("first", "newest", "random", "null", "off")}
    assert {film.shape for film in made.values()} == {(2, 24, 64, 64, 3)}
    assert all(np.array_equal(film[:, :16], made["first"][:, :16]) for film in made.values())
    tails = [film[:, 16:].tobytes() for film in made.values()]
    assert len(set(tails)) == len(tails)
    assert np.array_equal(films_of("attention", "first"), made["first"])


def test_a_films_noise_does_not_depend_on_the_others() -> None:
    alone, among = films_of("none", "first", count=1), films_of("none", "first", count=2)
    assert np.abs(alone[0].astype(int) - among[0]).max() <= 1  # a batch of another size rounds differently


def test_anchors_are_the_frames_they_say() -> None:
    film = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :, None, None, None], (3, 40, 2, 2, 3))
    scenes = [scene(number, 0) for number in range(3)]

    def shown(anchor: Any, chunk: int = 1) -> list[int]:
        return anchor_frames(film, scenes, chunk, anchor)[:, 0, 0, 0, 0].tolist()

    assert shown("first") == [0, 0, 0]
    assert shown("newest") == [39, 39, 39]
    drawn = np.array([shown("random", chunk) for chunk in range(40)])
    assert drawn.min() >= 0
    assert drawn.max() == 31  # the last frame before the tail
    assert len({tuple(column) for column in drawn.T}) == 3  # every film has draws of its own


@torch.no_grad()
def test_blendings_differ_and_start_from_the_film() -> None:
    variant = fresh("none")
    randomize(variant.networks)
    scenes = [scene(number, 0) for number in range(2)]
    clean = torch.randn((2, 12, 32, 8, 8), generator=torch.Generator().manual_seed(0))
    made = {kind: denoise_again(variant, scenes, clean, 0.25, kind) for kind in get_args(Blending)}
    assert all(film.shape == clean.shape for film in made.values())
    assert len({film.numpy().tobytes() for film in made.values()}) == len(made)
    one = denoise_again(variant, scenes[:1], clean[:1], 0.25, "paper")
    torch.testing.assert_close(one, made["paper"][:1], atol=1e-3, rtol=1e-3)  # cuts and noise are the film's own
    naive = denoise_again(variant, scenes, clean[:, :, :16], 0.25, "naive")
    assert naive.shape[2] == 16
    with pytest.raises(ValueError, match=r"t0: expected a multiple of 1/8 .* received 0.3"):
        denoise_again(variant, scenes, clean, 0.3, "naive")


# ---------------------------------------------------------------- measures


class Words:
    """A judge that reads the words of one spec in every window but the last, in which it sees no subject."""

    def __init__(self, spec: storybook.FilmSpec, windows: int) -> None:
        self.spec, self.left = spec, windows

    def read(self, frames: np.ndarray) -> Verdict:
        assert frames.shape == (16, 64, 64, 3)
        self.left -= 1
        seen = self.left > 0
        word = {"colour": self.spec.colour, "hue": self.spec.colour, "subject": self.spec.subject}
        words = word if seen else dict.fromkeys(word)
        return Verdict(
            scene=self.spec.scene,
            variant=self.spec.variant if seen else (self.spec.variant + 1) % 6,
            motion=None,
            positions=np.zeros((16, 2)),
            seen_share=float(seen),
            confidence=1.0,
            camera_flow_px=0.0,
            **words,
        )


def test_a_real_film_measures_as_itself() -> None:
    spec = scene(4, 0).spec
    film = storybook.clip(spec, range(80))
    measures = measure_roll_out(film, film, spec, Words(spec, windows=4))
    assert set(measures) == {measure.name for measure in ROLL_OUT_MEASURES}
    assert measures["frame_difference"] == 1.0
    assert measures["boundary_ratio"] == pytest.approx(1.0, abs=0.3)
    assert measures["scene_cuts"] == 0
    assert (measures["colour"], measures["subject"], measures["scene"], measures["variant_kept"]) == (0.75, 0.75, 1.0, 0.75)


def test_jumps_at_window_ends_are_seams() -> None:
    source = np.full((48, 64, 64, 3), 100, np.uint8)
    film = source.copy()
    film[16:32] += 12  # a jump at 16, one back at 32
    measures = measure_blending(film, source)
    assert set(measures) == {measure.name for measure in BLENDING_MEASURES}
    assert (measures["seam_excess"], measures["inside_excess"], measures["seam_less_inside"]) == (12.0, 0.0, 12.0)
    assert measures["sharpness"] == 0.0


def test_a_still_film_has_no_flow_deviation_and_a_stutter_has() -> None:
    spec = replace(scene(1, 0).spec, scene="meadow")
    still = storybook.clip(spec, [0] * 6)
    stutter = storybook.clip(spec, [0, 0, 6, 6, 12, 12])
    assert flow_deviation(still) == 0.0
    assert flow_deviation(stutter) > 0.05
    assert sharpness(still) > 100


# ---------------------------------------------------------------- the whole study


class Looks:
    """A judge whose words depend on the pixels; stops the work after some readings if told to."""

    def __init__(self, readings: float = math.inf) -> None:
        self.readings = readings

    def read(self, frames: np.ndarray) -> Verdict:
        self.readings -= 1
        if self.readings < 0:
            raise Interrupted
        look = int(frames.astype(np.int64).sum())
        colour, subject = (words[look % 6] for words in (storybook.captions.COLOURS, storybook.captions.SUBJECTS))
        scene_name = storybook.captions.SCENES[look % 5]
        return Verdict(scene_name, look % 6, colour, colour, subject, None, np.zeros((16, 2)), 1.0, 1.0, 0.0)


PLAN = Plan(
    name="tiny",
    budget=Budget(steps=2, batch=2, films=4, warmup_steps=1),
    films=3,
    chunks=2,
    sampling=Sampling(steps=1, guidance=1.0),
    blended_films=2,
    blended_frames=32,
    noise_levels=(0.5,),
    at_once=2,
)
SOME_ROWS = chosen_rows(["none", "anchor-newest", "blend-naive"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    export(origin(), autoencoder(), folder)
    return folder


def study(model: Path, out: Path, judge: Looks, plan: Plan = PLAN) -> Study:
    return Study(plan, model, out, judge, judge_digest="tiny", say=lambda line: None)


@pytest.mark.long
def test_a_table_interrupted_and_resumed_equals_uninterrupted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = study(model, tmp_path / "whole", Looks()).run(SOME_ROWS)
    with pytest.raises(Interrupted):
        study(model, tmp_path / "resumed", Looks(readings=7)).run(SOME_ROWS)
    resumed = study(model, tmp_path / "resumed", Looks()).run(SOME_ROWS)
    assert resumed["tables"] == whole["tables"]
    names = [row["name"] for row in whole["tables"][0]["rows"]]
    assert names == ["reference", "cam", "none", "anchor-newest"]
    assert {row["films"] for row in whole["tables"][0]["rows"]} == {3}

    lines: list[str] = []
    third = study(model, tmp_path / "whole", Looks(readings=0))
    third.say = lines.append
    monkeypatch.setattr(variants, "_train", None)
    capsys.readouterr()
    assert third.run(SOME_ROWS)["tables"] == whole["tables"]
    # 4 lines of 3 roll-outs, 3 of 2 blended films: nothing is made twice
    assert lines == [f"reused from {tmp_path / 'whole'}: 2 of 2 trained variants, 18 measured films"]
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1])["tables"] == json.loads(json.dumps(whole["tables"]))
    assert (tmp_path / "whole" / "table.md").read_text() in out


def test_kept_work_of_another_table_is_refused(model: Path, tmp_path: Path) -> None:
    rows = chosen_rows(["blend-coded"])
    plan = replace(PLAN, blended_films=1, at_once=1)
    study(model, tmp_path, Looks(), plan).run(rows)
    other = replace(plan, budget=replace(plan.budget, steps=3))
    with pytest.raises(InvalidRequest, match=r"holds the work of another table \(other plan\)"):
        study(model, tmp_path, Looks(), other).run(rows)


def test_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["--quick", "--rows", "conditioning", "blend-naive", "--out", "there"])
    assert (args.quick, args.rows, args.out) == (True, ["conditioning", "blend-naive"], Path("there"))
    assert parser.parse_args([]).rows is None
