from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from st2v_stream.training.loop import Loop, StopFlag
from st2v_stream.training.recipe import LearningRate


class CountingStage:
    """Remembers the rates it was given."""

    name = "counting"

    def __init__(self) -> None:
        self.rates: list[float] = []

    def train_step(self, step: int, rate: float) -> float:
        self.rates.append(rate)
        return 1.0 / (1 + step)

    def validate(self) -> dict[str, float]:
        return {"seen": float(len(self.rates))}

    def state_dict(self) -> dict[str, Any]:
        return {"rates": self.rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rates = state["rates"]


class Clock:
    """One second per look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def make_loop(directory: Path, stage: CountingStage, **options: Any) -> Loop:
    rate = LearningRate(peak=1.0, warmup_steps=2, decay_share=0.5, floor=0.1)
    return Loop(stage, rate, budget_s=20.0, directory=directory, clock=Clock(), say=lambda _: None, **options)


def test_the_rate_warms_up_holds_and_falls_by_the_clock(tmp_path: Path) -> None:
    stage = CountingStage()
    assert make_loop(tmp_path, stage).run()
    assert stage.rates[:3] == [0.5, 1.0, 1.0]
    assert stage.rates[-1] == pytest.approx(0.1)
    assert stage.rates == sorted(stage.rates[:2]) + sorted(stage.rates[2:], reverse=True)


def test_a_stopped_loop_saves_and_continues_where_it_was(tmp_path: Path) -> None:
    stop = StopFlag()
    first = CountingStage()
    loop = make_loop(tmp_path, first, max_steps=5, stop=stop)
    loop.run()
    stop.set()
    second = CountingStage()
    again = make_loop(tmp_path, second)
    assert again.resume()
    assert again.progress.step == 5
    assert again.run()
    whole = CountingStage()
    make_loop(tmp_path / "whole", whole).run()
    assert second.rates == whole.rates


def test_a_set_flag_ends_the_loop_unfinished(tmp_path: Path) -> None:
    stop = StopFlag()
    stop.set()
    loop = make_loop(tmp_path, CountingStage(), stop=stop)
    assert not loop.run()
    assert loop.checkpoint.exists()


def test_the_log_has_one_json_line_per_validation(tmp_path: Path) -> None:
    make_loop(tmp_path, CountingStage(), validate_every_s=5.0).run()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(rows) >= 3
    assert {"stage", "step", "elapsed_s", "rate", "loss", "seen"} <= set(rows[0])


def test_with_steps_the_clock_does_not_matter(tmp_path: Path) -> None:
    slow, fast = CountingStage(), CountingStage()
    make_loop(tmp_path / "slow", slow, total_steps=8).run()
    loop = make_loop(tmp_path / "fast", fast, total_steps=8)
    loop.clock = lambda: 0.0
    assert loop.run()
    assert slow.rates == fast.rates
    assert len(fast.rates) == 8
    assert fast.rates[-1] == pytest.approx(0.25)  # an eighth is left, the second half falls
