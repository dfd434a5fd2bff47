"""`st2v evaluate storybook` from its options to metrics.json, with a tiny model of random weights."""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import cv2
import pytest

from st2v_stream.checkpoints import models
from st2v_stream.errors import CheckpointError, InvalidRequest
from st2v_stream.evaluation import storybook
from st2v_stream.evaluation.storybook import Plan, figures_of, read_metrics, why_not_better, write_metrics
from st2v_stream.evaluation.targets import KINDS
from st2v_stream.worlds.judge import judge_digest
from tests.small_model import write_model

SMALL = Plan(films=1, further_films=1, long_films=1, long_frames=200, identity_films=1, decoder_frames=2, decoder_clips=1)


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    storybook.add_arguments(parser)
    return parser.parse_args(options)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path, Path]:
    """Status, model and output of one small evaluation."""
    out, model = tmp_path_factory.mktemp("out"), write_model(tmp_path_factory.mktemp("model"))
    card = json.loads((model / "card.json").read_text())
    one_step = {"num_inference_steps": 1}
    (model / "card.json").write_text(json.dumps(card | {"presets": {"live": one_step, "default": one_step}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storybook, "QUICK", SMALL)
        status = storybook.run(
            parsed("--model", str(model), "--out", str(out), "--quick", "--sheets", "--check", "--device", "cpu")
        )
    return status, model, out


@pytest.mark.long
def test_random_weights_are_measured_and_fail_the_check(evaluated: tuple[int, Path, Path]) -> None:
    status, _, out = evaluated
    assert status == 1
    report = read_metrics(out / "metrics.json")
    figures = figures_of(report)
    assert set(figures["live"]) == set(KINDS)
    assert set(figures["default"]) == {key for key in KINDS if key.startswith("opening.")}
    assert figures["live"]["opening.seen.subject"].ceiling == 1.0
    assert figures["live"]["opening.seen.subject"].n == 1
    assert report["judge_sha256"] == judge_digest()
    assert report["device"] == "cpu"
    assert report["is_quick"] is True


@pytest.mark.long
def test_a_second_run_makes_no_film(evaluated: tuple[int, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, model, out = evaluated
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    assert len(before) == 3 + 1 + 2 + 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storybook, "QUICK", SMALL)
        assert storybook.run(parsed("--model", str(model), "--out", str(out), "--quick", "--device", "cpu")) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")} == before
    printed = capsys.readouterr()
    assert "film 1 of" not in printed.err
    assert "required targets held" in printed.out
    assert "MISSED" in printed.out


@pytest.mark.long
def test_the_sheets_show_the_held_out_prompts_and_the_long_film(evaluated: tuple[int, Path, Path]) -> None:
    _, _, out = evaluated
    assert cv2.imread(str(out / "held_out.png")).shape == (2 * 128, 8 * 128, 3)
    assert cv2.imread(str(out / "long.png")).shape == (128, 3 * 128, 3)


# ---------------------------------------------------------------- plans and options


def test_the_plan_follows_the_options() -> None:
    assert Plan.of(parsed()) == Plan()
    assert Plan.of(parsed("--quick")) == storybook.QUICK
    assert Plan.of(parsed("--films", "32", "--long-frames", "400")) == Plan(films=32, further_films=10, long_frames=400)
    assert parsed("--preset", "default", "--preset", "live").presets == ["default", "live"]


@pytest.mark.parametrize("options", [("--films", "0"), ("--long-frames", "100"), ("--long-frames", "1203")])
def test_plans_that_cannot_be_are_refused(options: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match=options[0]):
        Plan.of(parsed(*options))


def test_quick_figures_are_never_committed(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="full evaluation"):
        storybook.run(parsed("--quick", "--write-metrics", "--out", str(tmp_path)))


# ---------------------------------------------------------------- metrics.json


def report(motion: float = 0.5, **changes: Any) -> dict[str, Any]:
    """A report with two figures."""
    colour = {"value": 0.97, "n": 64, "low": 0.9, "high": 1.0, "ceiling": 1.0}
    figures = {"opening.seen.colour": colour, "opening.seen.motion": {**colour, "value": motion}}
    return {"version": 1, "judge_sha256": "a", "plan": {"films": 64}, "figures": {"live": figures}} | changes


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models with a storybook in it."""
    (tmp_path / "storybook").mkdir()
    (tmp_path / "storybook" / "card.json").write_text("{}")
    monkeypatch.setattr(models, "_HOMES", (tmp_path,))
    return tmp_path / "storybook"


def test_the_first_figures_are_written(home: Path) -> None:
    assert write_metrics(report(), home)
    assert read_metrics(home / "metrics.json") == report()


def test_better_figures_replace_and_others_do_not(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_metrics(report(0.5), home)
    assert not write_metrics(report(0.5), home), "equal is not better"
    assert not write_metrics(report(0.4), home)
    assert "does not beat" in capsys.readouterr().err
    assert write_metrics(report(0.6), home)
    assert figures_of(read_metrics(home / "metrics.json"))["live"]["opening.seen.motion"].value == 0.6


def test_a_candidate_is_held_against_the_committed_figures(home: Path, tmp_path: Path) -> None:
    assert write_metrics(report(0.5), home)
    candidate = tmp_path / "candidate"
    candidate.mkdir()
    assert not write_metrics(report(0.4), candidate)
    assert not (candidate / "metrics.json").exists()
    assert write_metrics(report(0.6), candidate)
    assert figures_of(read_metrics(home / "metrics.json"))["live"]["opening.seen.motion"].value == 0.5


@pytest.mark.parametrize("changed", [{"judge_sha256": "b"}, {"plan": {"films": 8}}, {"version": 2}, {"figures": {}}])
def test_what_does_not_compare_is_refused(changed: dict[str, Any]) -> None:
    reason = why_not_better(report(0.9) | changed, report(0.1))
    assert reason is not None
    assert "committed figures" in reason


def test_no_number_survives_the_file(tmp_path: Path) -> None:
    unknown = copy.deepcopy(report())
    unknown["figures"]["live"]["opening.seen.motion"]["value"] = None
    unknown["figures"]["live"]["a.later.figure"] = {"value": 1.0, "n": 1}
    (tmp_path / "metrics.json").write_text(json.dumps(unknown))
    figures = figures_of(read_metrics(tmp_path / "metrics.json"))["live"]
    assert set(figures) == {"opening.seen.colour", "opening.seen.motion"}
    assert figures["opening.seen.motion"].value != figures["opening.seen.motion"].value
    assert why_not_better(report(0.1), unknown) is None


@pytest.mark.parametrize("text", ["", "[]", '{"figures": {}}', '{"figures": {"live": 3}}'])
def test_a_damaged_metrics_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"metrics\.json is damaged"):
        read_metrics(tmp_path / "metrics.json")
