"""The clockwork around every stage: time budget, learning rate, log, checkpoints, a graceful end on SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from st2v_stream.training.recipe import LearningRate


class Stage(Protocol):
    """One network (or several) being trained. `train_step(step, rate)` draws its own batch from the step's address."""

    name: str

    def train_step(self, step: int, rate: float) -> float: ...

    def validate(self) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class StopFlag:
    """Set by SIGTERM or SIGINT: finish the step, save, leave."""

    def __init__(self) -> None:
        self.is_set = False

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.set())

    def set(self) -> None:
        self.is_set = True


@dataclass
class Progress:
    """Where a stage stands; saved with it."""

    step: int = 0
    elapsed_s: float = 0.0


@dataclass
class Loop:
    """Runs one stage until its budget is spent, its steps are done or the stop flag is set.

    The learning rate follows the clock, so that any budget ends decayed; with `total_steps` it follows the steps, so that
    the same seed and steps give the same weights on any day. `max_steps` only pauses.
    """

    stage: Stage
    learning_rate: LearningRate
    budget_s: float
    directory: Path
    stop: StopFlag = field(default_factory=StopFlag)
    max_steps: int | None = None
    total_steps: int | None = None
    save_every_s: float = 240.0
    validate_every_s: float = 150.0
    clock: Callable[[], float] = time.monotonic
    say: Callable[[str], None] = lambda line: print(line, flush=True)
    progress: Progress = field(default_factory=Progress)

    def run(self) -> bool:
        """Train. Returns whether the stage is finished (budget or steps), False if it was stopped early."""
        before_s, started = self.progress.elapsed_s, self.clock()
        next_save = before_s + self.save_every_s
        next_validation = before_s + min(30.0, self.validate_every_s)
        losses: list[float] = []
        while not self.is_finished and not self.stop.is_set:
            rate = self.learning_rate.at(self.progress.step, self.share_done)
            losses.append(self.stage.train_step(self.progress.step, rate))
            self.progress.step += 1
            self.progress.elapsed_s = before_s + self.clock() - started
            if self.progress.elapsed_s >= next_validation:
                self.report(losses, rate)
                losses = []
                next_validation = self.progress.elapsed_s + self.validate_every_s
            if self.progress.elapsed_s >= next_save:
                self.save()
                next_save = self.progress.elapsed_s + self.save_every_s
        if losses:
            self.report(losses, 0.0)
        self.save()
        return self.is_finished

    @property
    def share_done(self) -> float:
        """Of the training, 0..1."""
        if self.total_steps is not None:
            return self.progress.step / self.total_steps
        return self.progress.elapsed_s / self.budget_s

    @property
    def is_finished(self) -> bool:
        limits = [limit for limit in (self.max_steps, self.total_steps) if limit is not None]
        return self.progress.elapsed_s >= self.budget_s or any(self.progress.step >= limit for limit in limits)

    @property
    def checkpoint(self) -> Path:
        return self.directory / "checkpoint.pt"

    def report(self, losses: list[float], rate: float) -> None:
        """One line in log.jsonl and on the screen."""
        row = {
            "stage": self.stage.name,
            "step": self.progress.step,
            "elapsed_s": round(self.progress.elapsed_s, 1),
            "rate": rate,
            "loss": sum(losses) / len(losses),
            **self.stage.validate(),
        }
        row = {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        self.say(json.dumps(row))

    def save(self) -> None:
        """Write the checkpoint beside its place and rename: a reader never sees half a file."""
        self.directory.mkdir(parents=True, exist_ok=True)
        state = {"stage": self.stage.state_dict(), "step": self.progress.step, "elapsed_s": self.progress.elapsed_s}
        half = self.checkpoint.with_suffix(".half")
        torch.save(state, half)
        os.replace(half, self.checkpoint)

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return False
        state = load_checkpoint(self.checkpoint)
        self.stage.load_state_dict(state["stage"])
        self.progress = Progress(state["step"], state["elapsed_s"])
        return True


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's tensors and numbers (no code is unpickled)."""
    return torch.load(path, map_location="cpu", weights_only=True)
