"""Randomized blending of a film that grows: windows move to the right as frames come, and leave on the left, finished.

Over a whole film (networks/blending.py, `denoise_joined`) every window takes step k before any takes step k + 1, so the
first one waits for the last. But a window looks at its neighbours only, one step back; so windows may stand at different
steps, each one step behind the one on its left. With `together` = W of them, S steps and a new window every stride frames:

    window          n-W    n-W+1   n-W+2  ...    n-1     n (new)
    steps taken      S       S      S-1         S-W+2   S-W+1          after the work that window n allows

    new window      takes its first S-W+1 steps at once. Where its left neighbour has long gone on, it takes over what that one
                    said at this step of the frames they share (`said`, the carry), all of it: the past cannot come to meet it
    the others      take one step each. Both neighbours are there: of the shared frames the first r are the left one's, r
                    random, and the right one's version is what both go on with

So every window costs S evaluations, as over the whole film, and every border is blended from both sides in the last W-1 steps.
Nothing is taken before W windows are there: a film of at most W windows is denoised as a whole, to the bit, and so is one of
any length if W >= S. That the past is followed whole, not up to a random cut, is what keeps a small W together
(docs/enhancement.md). What is held (W windows, overlaps of one more) does not grow with the film.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from st2v_stream.types import OnStep


class WindowSolver(Protocol):
    """What is done to the frames: network, solver and draws. Frames count from the beginning of the film."""

    @property
    def steps(self) -> int:
        """Denoising steps of every window."""
        ...

    def predict(self, start: int, k: int, latents: Tensor) -> Tensor:
        """The window (1, C, F, h, w) that begins at frame `start`, at step k -> its clean latents."""
        ...

    def advance(self, start: int, k: int, clean: Tensor, latents: Tensor, before: Tensor | None) -> Tensor:
        """The window's latents after step k, each frame for itself, with noise that depends on the frame and the step only.

        before: the clean latents of the step before, None at step 0.
        """
        ...

    def cut(self, start: int, k: int) -> int:
        """Of the overlap at the left end of the window that begins at `start`, how many frames are the left one's, step k."""
        ...


@dataclass(frozen=True)
class OpenWindow:
    """A window between its first step and the moment its right neighbour has taken the last.

    start: its first frame. latents: its version of its frames, (1, C, F, h, w), after `step` steps; of a finished window only
    the frames it shares with the next. clean: the joined prediction of the step before, None for a finished window. said: what
    it predicted of its last, shared frames, (1, C, overlap, h, w) for each step up to `step` that the right neighbour has not
    taken.
    """

    start: int
    latents: Tensor = field(repr=False)
    step: int = 0
    clean: Tensor | None = field(default=None, repr=False)
    said: tuple[Tensor, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class GrowingFilm:
    """The state between two calls. frames: how many have come. waiting: start latents that no window has yet taken over."""

    frames: int = 0
    waiting: Tensor | None = field(default=None, repr=False)
    held: tuple[OpenWindow, ...] = ()


class GrowingBlend:
    """size, overlap: frames of a window and of what neighbours share (published 24, 8). together: windows held, W.

    Raises ValueError for sizes that do not go together.
    """

    def __init__(self, solver: WindowSolver, *, size: int = 24, overlap: int = 8, together: int = 2) -> None:
        if not 0 <= 2 * overlap <= size or size < 1:
            raise ValueError(f"overlap: expected 0 to half a window of {size} frames, received {overlap}")
        if together < 1:
            raise ValueError(f"windows held together: expected 1 or more, received {together}")
        self._solver, self._size, self._overlap = solver, size, overlap
        self._together = min(together, solver.steps)  # more change nothing: the film is exact with as many as steps
        self._stride = size - overlap

    def add(self, film: GrowingFilm, latents: Tensor, on_step: OnStep) -> tuple[GrowingFilm, Tensor | None]:
        """Start latents of the next frames (1, C, n, h, w) -> the film after them, and what became finished, if anything.

        Finished frames follow each other from the first frame on. `on_step` may raise to leave: the film that was given stays
        as it was.
        """
        waiting = latents if film.waiting is None else torch.cat([film.waiting, latents], dim=2)
        held, finished = list(film.held), list[Tensor]()
        report = _Report(on_step, self._work_for(len_of(waiting), self._next_start(held)))
        while len_of(waiting) >= self._size:
            held.append(OpenWindow(self._next_start(held), waiting[:, :, : self._size].clone()))
            waiting = waiting[:, :, self._stride :].clone()
            self._run(held, self._targets(held), report)
            finished += self._take_finished(held)
        report.end()
        after = GrowingFilm(film.frames + len_of(latents), waiting, tuple(held))
        return after, torch.cat(finished, dim=2) if finished else None

    def finish(self, film: GrowingFilm, on_step: OnStep) -> Tensor | None:
        """Every frame that has come and is not finished, as if none followed: (1, C, n, h, w), None if there are none.

        The film stays as it is: when it goes on, these frames are made again, with their right neighbours.
        """
        held, start = list(film.held), self._next_start(film.held)
        if film.waiting is not None and film.frames > (start + self._overlap if held else 0):
            held.append(OpenWindow(start, film.waiting))  # a short one
        steps = self._solver.steps
        report = _Report(on_step, sum(steps - window.step for window in held))
        self._run(held, [steps] * len(held), report)
        report.end()
        parts = [window.latents[:, :, : self._stride] for window in held[:-1] if not self._has_left(window)]
        parts += [window.latents for window in held[-1:]]
        return torch.cat(parts, dim=2) if parts else None

    def finished_frames(self, film: GrowingFilm) -> int:
        """How many frames have left, counted from the film's beginning."""
        unfinished = (window.start for window in film.held if window.step < self._solver.steps)
        return next(unfinished, self._next_start(film.held))

    def _has_left(self, window: OpenWindow) -> bool:
        return window.clean is None and window.step > 0

    def _next_start(self, held: Sequence[OpenWindow]) -> int:
        return held[-1].start + self._stride if held else 0

    def _work_for(self, waiting: int, start: int) -> int:
        """Evaluations that `waiting` frames from `start` on allow."""
        numbers = range(start // self._stride, start // self._stride + max(0, (waiting - self._overlap) // self._stride))
        return sum(self._work_of(number) for number in numbers)

    def _work_of(self, number: int) -> int:
        """Evaluations when window `number` comes: none, all that were put off, then as many as steps."""
        steps, together = self._solver.steps, self._together
        if number + 1 < together:
            return 0
        return steps if number + 1 > together else together * steps - together * (together - 1) // 2

    def _targets(self, held: Sequence[OpenWindow]) -> list[int]:
        """How far each window may go now that the last of them is there."""
        newest, steps = held[-1].start // self._stride, self._solver.steps
        if newest + 1 < self._together:
            return [0] * len(held)
        return [min(steps, steps + newest - window.start // self._stride - (self._together - 1)) for window in held]

    def _take_finished(self, held: list[OpenWindow]) -> Iterator[Tensor]:
        """The frames of finished windows up to the next one's; of the windows the last stays, for what it said."""
        for i, window in enumerate(held):
            if window.step == self._solver.steps and not self._has_left(window):
                yield window.latents[:, :, : self._stride]
                held[i] = replace(window, latents=window.latents[:, :, self._stride :].clone(), clean=None)
        while len(held) > 1 and held[1].step == self._solver.steps:
            del held[0]

    def _run(self, held: list[OpenWindow], targets: Sequence[int], report: _Report) -> None:
        """Whatever may go on goes on, until every window is where it may be; the order changes nothing."""
        while (i := _next_ready(held, targets)) is not None:
            report.step()
            self._take_step(held, i)

    def _take_step(self, held: list[OpenWindow], i: int) -> None:
        window, k, overlap = held[i], held[i].step, self._overlap
        latents, before = self._shared_with_right(held, i)
        own = self._solver.predict(window.start, k, latents)
        clean = own
        if i > 0:
            left = held[i - 1]
            cut = self._solver.cut(window.start, k) if left.step == k + 1 else overlap
            clean = torch.cat([left.said[0][:, :, :cut], own[:, :, cut:]], dim=2)
            held[i - 1] = replace(left, said=left.said[1:])
        after = self._solver.advance(window.start, k, clean, latents, before)
        said = own[:, :, len_of(own) - overlap :].clone()
        held[i] = OpenWindow(window.start, after, k + 1, clean, (*window.said, said))

    def _shared_with_right(self, held: list[OpenWindow], i: int) -> tuple[Tensor, Tensor | None]:
        """Latents and last prediction of window i; of the frames it shares with its right neighbour, the neighbour's."""
        window, latents, before = held[i], held[i].latents, held[i].clean
        if i == len(held) - 1 or not self._overlap:
            return latents, before
        right, kept = held[i + 1], len_of(window.latents) - self._overlap
        latents = torch.cat([latents[:, :, :kept], right.latents[:, :, : self._overlap]], dim=2)
        if before is not None and right.clean is not None:
            before = torch.cat([before[:, :, :kept], right.clean[:, :, : self._overlap]], dim=2)
        return latents, before


def len_of(latents: Tensor) -> int:
    """Frames of (1, C, F, h, w)."""
    return int(latents.shape[2])


def _next_ready(held: Sequence[OpenWindow], targets: Sequence[int]) -> int | None:
    """The first window that may take a step: its left neighbour has taken it, its right one all before it."""
    for i, window in enumerate(held):
        left_spoke = i == 0 or held[i - 1].step > window.step
        right_is_there = i == len(held) - 1 or held[i + 1].step == window.step
        if window.step < targets[i] and left_spoke and right_is_there:
            return i
    return None


class _Report:
    """Evaluations counted through several windows; nothing is reported where there is nothing to do."""

    def __init__(self, on_step: OnStep, total: int) -> None:
        self._on_step, self._total, self._done = on_step, total, 0

    def step(self) -> None:
        self._on_step(self._done, self._total)
        self._done += 1

    def end(self) -> None:
        if self._total:
            self._on_step(self._done, self._total)
