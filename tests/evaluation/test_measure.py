"""All measures of drawn films, and that a film of any length is measured in the same memory."""

from __future__ import annotations

import json
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evaluation.drawn_films import Film, noise, texture, translation, write_film
from st2v_stream.errors import InvalidRequest
from st2v_stream.evaluation.film import ChunkGrid, open_film
from st2v_stream.evaluation.flow import NamedFlow, dis_flow
from st2v_stream.evaluation.glossary import KEYS
from st2v_stream.evaluation.measure import FilmMeasures, RunningMeasures, Settings, measure_film, measure_frames, to_square
from st2v_stream.evaluation.seams import boundary_ratio, rgb_drift, saturation_drift

SIDE = 96
GRID = ChunkGrid(16, 8)


def no_flow(frame: Film, following: Film) -> NDArray[np.float32]:
    return np.ones((*frame.shape[:2], 2), np.float32)


def settings(**changes: object) -> Settings:
    return Settings(**({"flow": dis_flow(), "side": SIDE} | changes))  # type: ignore[arg-type]


def values_of(film: Film, grid: ChunkGrid | None = GRID) -> dict[str, float | None]:
    return measure_frames(film, 8, settings()).values(grid)


def value(film: Film, key: str) -> float:
    found = values_of(film)[key]
    assert found is not None
    return found


def test_a_translation_is_explained_by_its_flow_and_noise_is_not() -> None:
    moving, noisy = values_of(translation(12)), values_of(noise(12))
    for key in ("mawe", "mawe_squared", "mawe_of_released_code"):
        good, bad = moving[key], noisy[key]
        assert good is not None
        assert bad is not None
        assert good < 1.0
        assert bad > 10 * good


def test_flow_is_the_motion_in_pixels_of_the_square() -> None:
    assert value(translation(8, step=2), "flow_length") == pytest.approx(2, rel=0.15)
    larger = measure_frames(translation(8, step=2), 8, settings(side=2 * SIDE)).values()["flow_length"]
    assert larger == pytest.approx(4, rel=0.15)


def test_flow_deviation_grows_with_jerks() -> None:
    steady = translation(20, step=1)
    jerky = steady[np.repeat(np.arange(0, 20, 4), 2)]  # stands, jumps by 4, stands ...
    assert value(jerky, "flow_deviation") > 4 * value(steady, "flow_deviation")


def test_the_film_in_one_pass_gives_what_the_functions_give_on_the_whole() -> None:
    film = np.concatenate([noise(14), translation(12)])
    found = values_of(film)
    assert found["boundary_ratio"] == pytest.approx(boundary_ratio(film))
    assert found["rgb_drift"] == pytest.approx(rgb_drift(film))
    assert found["saturation_drift"] == pytest.approx(saturation_drift(film))
    assert found["frame_difference"] == pytest.approx(np.abs(np.diff(film.astype(int), axis=0)).mean())
    assert set(found) == set(KEYS)


def test_a_cut_is_counted() -> None:
    film = np.concatenate([translation(20, step=1, seed=1), translation(4, step=1, seed=2)])
    assert value(film, "cuts") == 1
    assert value(film[:20], "cuts") == 0


def test_a_still_film_has_no_warp_error_per_motion_and_says_so(tmp_path: Path) -> None:
    film = open_film(write_film(tmp_path / "still.mkv", np.repeat(translation(1), 20, axis=0)))
    found = measure_film(film, settings())
    assert [found.values[key] for key in ("mawe", "mawe_squared", "mawe_of_released_code")] == [None] * 3
    assert found.values["flow_length"] == found.values["frame_difference"] == 0
    assert any("19 of 19 pairs of frames do not move" in note for note in found.notes)


def test_without_a_grid_there_is_no_boundary_ratio_and_the_way_to_one_is_named(tmp_path: Path) -> None:
    film = open_film(write_film(tmp_path / "film.mkv", translation(20)))
    found = measure_film(film, settings())
    assert found.values["boundary_ratio"] is None
    assert any("--chunk-frames" in note for note in found.notes)


def test_a_film_is_looked_at_up_to_the_frames_asked_for(tmp_path: Path) -> None:
    film = open_film(write_film(tmp_path / "film.mkv", translation(20)))
    assert measure_film(film, settings(max_frames=12)).frames == 12
    short = measure_film(film, settings(max_frames=40))
    assert short.frames == 20
    assert "20 frames, 40 were asked for" in short.notes


def test_a_file_that_ends_early_is_measured_and_said(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.mkv", translation(32)).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[: len(whole) // 2])
    (note,) = [note for note in measure_film(open_film(path), settings()).notes if "not whole" in note]
    assert "speaks of 32 frames" in note


def test_a_single_frame_is_no_film(tmp_path: Path) -> None:
    film = open_film(write_film(tmp_path / "one.mkv", translation(1)))
    with pytest.raises(InvalidRequest, match="expected at least 2 frames, received 1"):
        measure_film(film, settings())


def test_the_protocol_can_have_every_measure_on_squares(tmp_path: Path) -> None:
    film = open_film(write_film(tmp_path / "film.mkv", noise(6, side=64)))
    own, squares = measure_film(film, settings()), measure_film(film, settings(resizes_all=True))
    assert own.values["mawe"] == squares.values["mawe"]
    assert own.values["frame_difference"] != squares.values["frame_difference"]


def test_measures_survive_json(tmp_path: Path) -> None:
    film = open_film(write_film(tmp_path / "film.mkv", noise(12)))
    found = measure_film(film, settings())
    text = json.dumps(found.to_json(), allow_nan=False)
    assert FilmMeasures.from_json(json.loads(text)) == found


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (96, 96), (200, 120)])
def test_squares_are_those_of_the_released_code(size: tuple[int, int]) -> None:
    frame = texture(size[1], size[0])
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    unrounded = torch.nn.functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=False)[0]
    expected = unrounded.permute(1, 2, 0).numpy()
    differs = to_square(frame, SIDE) != expected.round()
    assert np.allclose(np.abs(expected - np.floor(expected))[differs], 0.5, atol=1e-3)  # float noise moves halves only
    assert np.abs(to_square(frame, SIDE) - expected).max() < 0.5 + 1e-3


class Tracked(np.ndarray):
    """Frames that can be counted while they live."""


class TestMemory:
    def test_of_1200_frames_only_a_few_live_at_once(self) -> None:
        living: weakref.WeakValueDictionary[int, Tracked] = weakref.WeakValueDictionary()
        most = 0
        running = RunningMeasures(8, settings(flow=NamedFlow("none", no_flow), side=32))
        for number, frame in enumerate(self.frames(1200, 32)):
            tracked = frame.view(Tracked)
            living[number] = tracked
            running.push(tracked)
            del tracked
            most = max(most, len(living))
        assert running.frames == 1200
        assert 1 <= most <= 4

    @pytest.mark.slow
    def test_at_720_pixels_memory_does_not_grow_with_the_film(self) -> None:
        peaks = [self.peak_bytes(frames) for frames in (8, 40)]
        assert peaks[1] < 1.05 * peaks[0]
        assert peaks[1] < 40 * 720 * 720 * 3

    def peak_bytes(self, frames: int) -> int:
        tracemalloc.start()
        try:
            measure_frames(self.frames(frames, 720), 8, Settings(NamedFlow("none", no_flow)))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def frames(self, count: int, side: int) -> Iterator[Film]:
        picture = texture(side, side)
        for number in range(count):
            yield np.roll(picture, number, axis=1)
