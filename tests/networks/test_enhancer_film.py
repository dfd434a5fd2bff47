"""A film that grows is denoised as a whole film is: to the bit when enough windows are held, and resumable at any point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from st2v_stream.errors import Stopped
from st2v_stream.networks.blending import Windows, cut_together, denoise_joined
from st2v_stream.networks.enhancer_film import GrowingBlend, GrowingFilm, len_of
from st2v_stream.networks.enhancer_sampling import VideoToVideoSampler, WholeFilmSampler
from st2v_stream.networks.sampling import noise_at

SIZE, OVERLAP, STEPS = 6, 2, 5
SHAPE = (2, 3, 3)  # channels, height, width


@dataclass
class StandIn:
    """A deterministic network whose prediction depends on a frame's place in its window and on the whole window."""

    sampler: VideoToVideoSampler = field(default_factory=lambda: VideoToVideoSampler(STEPS))
    evaluated: list[tuple[int, int]] = field(default_factory=list)
    cuts_asked: list[tuple[int, int]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return self.sampler.steps

    def predict(self, start: int, k: int, latents: Tensor) -> Tensor:
        self.evaluated.append((start, k))
        latents = latents.contiguous()  # the order in which a mean adds up depends on the layout
        place = torch.arange(len_of(latents), dtype=torch.float32).view(-1, 1, 1)
        prediction = torch.tanh(latents) + 0.2 * torch.cos(place + k + start) + 0.3 * torch.tanh(latents.mean())
        return self.sampler.clean(k, prediction, latents)

    def advance(self, start: int, k: int, clean: Tensor, latents: Tensor, before: Tensor | None) -> Tensor:
        return self.sampler.advance(k, clean, latents, before, self.noise(start, len_of(latents), k))

    def noise(self, first: int, count: int, k: int) -> Tensor:
        return torch.cat([frame_noise(first + i, k) for i in range(count)], dim=2)

    def cut(self, start: int, k: int) -> int:
        self.cuts_asked.append((start, k))
        return (7 * start + 3 * k) % OVERLAP


def frame_noise(frame: int, k: int) -> Tensor:
    channels, height, width = SHAPE
    return noise_at(3, 0, f"enhance:{frame}:{k}", (1, channels, 1, height, width))


def start_latents(frames: int) -> Tensor:
    return torch.cat([4 * frame_noise(frame, -1) for frame in range(frames)], dim=2)


def whole_film(frames: int) -> Tensor:
    """The published way: every window takes step k before any takes k + 1."""
    solver, windows = StandIn(), Windows(frames, SIZE, OVERLAP, short_last=True)

    def predict(k: int, latents: Tensor) -> Tensor:
        start = windows.starts[(len(solver.evaluated)) % len(windows.starts)]
        return solver.predict(start, k, latents)

    def join(k: int, parts: Sequence[Tensor]) -> Tensor:
        return cut_together(parts, windows, [solver.cut(start, k) for start in windows.starts[1:]])

    sampler = WholeFilmSampler(solver.sampler)
    return denoise_joined(predict, sampler, start_latents(frames), windows, join, lambda k: solver.noise(0, frames, k))


def grown(frames: int, together: int, pieces: Sequence[int], solver: StandIn | None = None) -> Tensor:
    """The same frames, `pieces` of them at a time (the last size repeats)."""
    blend, film, finished = GrowingBlend(solver or StandIn(), size=SIZE, overlap=OVERLAP, together=together), GrowingFilm(), []
    latents, position, sizes = start_latents(frames), 0, list(pieces)
    while position < frames:
        count = min(sizes.pop(0) if len(sizes) > 1 else sizes[0], frames - position)
        film, more = blend.add(film, latents[:, :, position : position + count], lambda k, n: None)
        finished += [] if more is None else [more]
        position += count
        assert sum(map(len_of, finished)) == blend.finished_frames(film)
    rest = blend.finish(film, lambda k, n: None)
    return torch.cat([*finished, *([] if rest is None else [rest])], dim=2)


def windows_of(frames: int) -> int:
    return len(Windows(frames, SIZE, OVERLAP, short_last=True).starts)


@pytest.mark.parametrize("frames", [1, 2, 5, 6, 7, 8, 10, 13, 14, 22])
def test_as_many_windows_as_the_film_has_give_the_whole_film(frames: int) -> None:
    together = windows_of(frames)
    assert torch.equal(grown(frames, together, [4, 2]), whole_film(frames))


@pytest.mark.parametrize("together", [STEPS, STEPS + 1, 99])
def test_as_many_windows_as_steps_give_the_whole_film_whatever_its_length(together: int) -> None:
    assert windows_of(50) > STEPS
    assert torch.equal(grown(50, together, [4, 2]), whole_film(50))


def test_fewer_windows_give_another_film_of_the_same_length() -> None:
    for together in (1, 2, 3):
        film = grown(50, together, [4, 2])
        assert film.shape == (1, *SHAPE[:1], 50, *SHAPE[1:])
        assert not torch.allclose(film, whole_film(50))


@pytest.mark.parametrize("together", [1, 2, 3])
def test_the_pieces_in_which_it_comes_change_nothing(together: int) -> None:
    expected = grown(37, together, [37])
    for pieces in ([1], [2, 3], [5, 1, 9]):
        assert torch.equal(grown(37, together, pieces), expected)


@pytest.mark.parametrize("together", [1, 2, 3, STEPS])
def test_every_window_costs_as_many_evaluations_as_there_are_steps(together: int) -> None:
    solver = StandIn()
    grown(38, together, [2], solver)
    assert sorted(solver.evaluated) == [(start, k) for start in range(0, 36, 4) for k in range(STEPS)]


@pytest.mark.parametrize("together", [1, 2, 3])
def test_a_window_whose_left_neighbour_has_gone_on_follows_it(together: int) -> None:
    """There is nothing to draw while the left one cannot be changed any more; the first windows start together."""
    solver = StandIn()
    grown(38, together, [2], solver)
    started_together = {(start, k) for start in range(4, 4 * together, 4) for k in range(STEPS)}
    later = {(start, k) for start in range(4 * together, 36, 4) for k in range(STEPS - together, STEPS)}
    assert set(solver.cuts_asked) == started_together | later


@pytest.mark.parametrize("together", [1, 2, 3])
def test_what_is_held_does_not_grow_with_the_film(together: int) -> None:
    blend, film = GrowingBlend(StandIn(), size=SIZE, overlap=OVERLAP, together=together), GrowingFilm()
    held = []
    for position in range(0, 96, 4):
        film, _ = blend.add(film, start_latents(position + 4)[:, :, position:], lambda k, n: None)
        said = sum(len(window.said) for window in film.held)
        frames = sum(len_of(window.latents) for window in film.held)
        held.append((len(film.held), said, frames, 0 if film.waiting is None else len_of(film.waiting)))
    assert len(set(held[together + 1 :])) == 1
    assert held[-1][0] == together


def test_work_is_reported_before_every_step_and_can_be_left_there() -> None:
    blend, film = GrowingBlend(StandIn(), size=SIZE, overlap=OVERLAP, together=2), GrowingFilm()
    reports: list[tuple[int, int]] = []
    film, _ = blend.add(film, start_latents(6), lambda k, n: reports.append((k, n)))
    assert reports == []
    after, _ = blend.add(film, start_latents(10)[:, :, 6:], lambda k, n: reports.append((k, n)))
    total = 2 * STEPS - 1
    assert reports == [(k, total) for k in range(total + 1)]

    def leave(k: int, n: int) -> None:
        if k == 3:
            raise Stopped("asked to stop")

    with pytest.raises(Stopped):
        blend.add(film, start_latents(10)[:, :, 6:], leave)
    again, _ = blend.add(film, start_latents(10)[:, :, 6:], lambda k, n: None)
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(after.held, again.held, strict=True))


def test_finishing_leaves_the_film_as_it_was() -> None:
    """A stop shows a tail of its own; the film that goes on does not know of it."""
    blend, film = GrowingBlend(StandIn(), size=SIZE, overlap=OVERLAP, together=2), GrowingFilm()
    latents, parts = start_latents(30), []
    for position in range(0, 30, 2):
        film, more = blend.add(film, latents[:, :, position : position + 2], lambda k, n: None)
        parts += [] if more is None else [more]
        tail = blend.finish(film, lambda k, n: None)
        assert tail is not None
        assert blend.finished_frames(film) + len_of(tail) == film.frames
    assert torch.equal(torch.cat([*parts, tail], dim=2), grown(30, 2, [30]))


@pytest.mark.parametrize(("size", "overlap", "together"), [(6, 4, 2), (6, -1, 2), (6, 2, 0)])
def test_sizes_that_do_not_go_together_are_refused(size: int, overlap: int, together: int) -> None:
    with pytest.raises(ValueError, match=r"expected .* received"):
        GrowingBlend(StandIn(), size=size, overlap=overlap, together=together)
