"""Films of a model in a folder: exact, made once, whole or not there at all, from a shared first chunk where that can be."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from st2v_stream.checkpoints.models import known_models
from st2v_stream.chunk import Frames, Memory
from st2v_stream.direction import Direction, Timeline
from st2v_stream.errors import InvalidRequest, StoreError, UnknownModel
from st2v_stream.evaluation.film import ChunkGrid, open_film
from st2v_stream.evaluation.filming import ExactFile, Model, Shoot, find_model, first_chunks, make_films, slug
from st2v_stream.generators.testcard import TestCard
from st2v_stream.streaming.autoregressive import stream_chunks
from st2v_stream.types import Generator, ModelEntry, OnStep, Reference

SHOOT = Shoot(num_frames=32, seed=33, preset="live")
PROMPTS = ("a red boat", "a blue car / at night?")


class Small(TestCard):
    """48x32, one step per chunk; counts its films."""

    begun = 0

    def __init__(self) -> None:
        super().__init__(48, 32, steps=1)

    def begin(self, direction: Direction, reference: Reference | None, on_step: OnStep) -> tuple[Frames, Memory]:
        type(self).begun += 1
        return super().begin(direction, reference, on_step)


class Continuing(Small):
    """Begins with the clip it is given."""

    def begin(self, direction: Direction, reference: Reference | None, on_step: OnStep) -> tuple[Frames, Memory]:
        frames, memory = super().begin(direction, reference, on_step)
        return (frames if reference is None else reference.frames), memory


class Refusing(Small):
    """Takes no clip."""

    def begin(self, direction: Direction, reference: Reference | None, on_step: OnStep) -> tuple[Frames, Memory]:
        if reference is not None:
            raise InvalidRequest("starts from words only", param="reference")
        return super().begin(direction, reference, on_step)


class Failing(Small):
    """Breaks in its third chunk."""

    def generate(self, direction: Direction, memory: Memory, on_step: OnStep) -> tuple[Frames, Memory]:
        if memory.next_index == 2:
            raise RuntimeError("out of memory")
        return super().generate(direction, memory, on_step)


def model(kind: type[Small] = Small, label: str = "small", stamp: str = "") -> Model:
    def load() -> Generator:
        return kind()

    kind.begun = 0
    return Model(label, ModelEntry(kind().card, load), stamp)


def silent(line: str) -> None:
    pass


def frames_of(path: Path) -> Frames:
    return np.stack(list(open_film(path).frames()))


def test_films_hold_the_very_frames_that_were_made(tmp_path: Path) -> None:
    films = make_films(model(), PROMPTS, tmp_path, SHOOT, report=silent)
    assert [film.prompt for film in films] == list(PROMPTS)

    async def chunks() -> list[Frames]:
        generator = Small()
        timeline = Timeline(generator.card.direction(PROMPTS[1], preset="live", seed=33))
        return [chunk.frames async for chunk in stream_chunks(generator, timeline, num_frames=32)]

    assert np.array_equal(np.stack(list(films[1].frames())), np.concatenate(asyncio.run(chunks())))
    found = films[1]
    assert (found.width, found.height, found.fps, found.grid, found.is_exact) == (48, 32, 8, ChunkGrid(16, 8), True)
    assert found.shown is not None
    assert open_film(found.shown).prompt == PROMPTS[1]


def test_a_film_is_made_once(tmp_path: Path) -> None:
    first = make_films(model(), PROMPTS, tmp_path, SHOOT, report=silent)
    again = model()
    assert make_films(again, PROMPTS, tmp_path, SHOOT, report=silent) == first
    assert make_films(again, PROMPTS[::-1], tmp_path, SHOOT, report=silent) == first[::-1]
    assert Small.begun == 0


@pytest.mark.parametrize("change", ["prompt", "seed", "preset", "num_frames", "weights", "model"])
def test_whatever_changes_the_film_makes_it_anew(tmp_path: Path, change: str) -> None:
    make_films(model(), PROMPTS[:1], tmp_path, SHOOT, report=silent)
    changes = {"seed": {"seed": 34}, "preset": {"preset": "default"}, "num_frames": {"num_frames": 33}}
    other = model(label="other" if change == "model" else "small", stamp="new" if change == "weights" else "")
    prompts = ["a green boat"] if change == "prompt" else PROMPTS[:1]
    make_films(other, prompts, tmp_path, replace(SHOOT, **changes.get(change, {})), report=silent)
    assert Small.begun == 1
    assert len(list(tmp_path.glob("*.mkv"))) == 2


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".json"])
def test_a_film_that_lost_a_file_is_made_again(tmp_path: Path, suffix: str) -> None:
    (film,) = make_films(model(), PROMPTS[:1], tmp_path, SHOOT, report=silent)
    film.path.with_suffix(suffix).unlink()
    (again,) = make_films(model(), PROMPTS[:1], tmp_path, SHOOT, report=silent)
    assert again == film
    assert film.path.with_suffix(suffix).is_file()


def test_a_damaged_sidecar_is_no_film(tmp_path: Path) -> None:
    (film,) = make_films(model(), PROMPTS[:1], tmp_path, SHOOT, report=silent)
    film.path.with_suffix(".json").write_text("{")
    make_films(model(), PROMPTS[:1], tmp_path, SHOOT, report=silent)
    assert json.loads(film.path.with_suffix(".json").read_text())["recipe"]["direction"]["seed"] == 33


def test_a_failure_keeps_whole_films_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    make_films(model(), PROMPTS[:1], tmp_path, SHOOT, report=silent)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="out of memory"):
        make_films(model(Failing), PROMPTS, tmp_path, SHOOT, report=silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        make_films(model(), PROMPTS, tmp_path / "file" / "films", SHOOT, report=silent)


@pytest.mark.parametrize("frames", [0, -8, 100_001])
def test_lengths_that_cannot_be_are_refused_before_anything_is_made(tmp_path: Path, frames: int) -> None:
    with pytest.raises(InvalidRequest, match="num_frames is out of range"):
        make_films(model(), PROMPTS, tmp_path / "films", replace(SHOOT, num_frames=frames), report=silent)
    assert not (tmp_path / "films").exists()


class TestSharedFirstChunk:
    def starts(self, tmp_path: Path) -> dict[str, Frames]:
        other = replace(SHOOT, seed=5)
        return first_chunks(make_films(model(), PROMPTS[:1], tmp_path / "first", other, report=silent))

    def test_it_is_the_first_chunk_of_the_first_models_film(self, tmp_path: Path) -> None:
        starts = self.starts(tmp_path)
        (film,) = make_films(model(Continuing, "second"), PROMPTS[:1], tmp_path, SHOOT, starts=starts, report=silent)
        assert starts[PROMPTS[0]].shape == (16, 32, 48, 3)
        assert np.array_equal(frames_of(film.path)[:16], starts[PROMPTS[0]])
        assert film.notes == ()

    def test_a_model_that_goes_its_own_way_is_noted(self, tmp_path: Path) -> None:
        for kind in (Refusing, Small):  # one says so, the other just does
            (film,) = make_films(
                model(kind, kind.__name__), PROMPTS[:1], tmp_path, SHOOT, starts=self.starts(tmp_path), report=silent
            )
            (note,) = film.notes
            assert "does not begin with the shared first chunk" in note
            assert len(frames_of(film.path)) == 32

    def test_another_size_is_fitted(self, tmp_path: Path) -> None:
        starts = {PROMPTS[0]: np.full((16, 64, 64, 3), 90, np.uint8)}
        (film,) = make_films(model(Continuing), PROMPTS[:1], tmp_path, SHOOT, starts=starts, report=silent)
        assert (frames_of(film.path)[:16] == 90).all()

    def test_another_start_is_another_film(self, tmp_path: Path) -> None:
        make_films(model(Continuing), PROMPTS[:1], tmp_path / "films", SHOOT, report=silent)
        make_films(model(Continuing), PROMPTS[:1], tmp_path / "films", SHOOT, starts=self.starts(tmp_path), report=silent)
        assert len(list((tmp_path / "films").glob("*.mkv"))) == 2


class TestFindModel:
    def test_by_name_and_by_folder(self) -> None:
        assert find_model("testcard").card.name == "testcard"
        with pytest.raises(UnknownModel, match="testcard, or a folder"):
            find_model("nonesuch")

    def test_the_stamp_changes_with_the_weights(self, tmp_path: Path) -> None:
        card = {"name": "m", "title": "M", "version": "1", "licence": "-", "width": 8, "height": 8, "fps": 8}
        (tmp_path / "card.json").write_text(json.dumps(card | {"first_chunk_frames": 16, "chunk_frames": 8}))
        before = find_model(str(tmp_path))
        (tmp_path / "weights").write_bytes(b"1")
        assert find_model(str(tmp_path)).stamp != before.stamp
        assert before.label == tmp_path.name

    def test_known_models_have_one(self) -> None:
        for name in known_models():
            assert (find_model(name).stamp == "") is (name == "testcard")


def test_slugs_are_file_names() -> None:
    assert slug("A red boat / at night?") == "a-red-boat-at-night"
    assert slug("../../etc") == "etc"
    assert slug("夜の海") == "film"
    assert len(slug("word " * 40)) <= 48


def test_an_exact_file_without_frames_closes(tmp_path: Path) -> None:
    ExactFile(tmp_path / "empty.mkv", 16, 16, 8).close()
