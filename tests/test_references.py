"""`generate` from an image, at the level of functions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from clips import picture_of

from st2v_stream.chunk import Frames, Memory
from st2v_stream.direction import Direction, Timeline
from st2v_stream.generate import FilmFile, save_film
from st2v_stream.generators.testcard import TestCard
from st2v_stream.media.reference import read_reference_file
from st2v_stream.streaming.autoregressive import StopSignal
from st2v_stream.types import OnStep, Reference


class Watching(TestCard):
    """Remembers what it began with."""

    began_with: Reference | None = None

    def begin(self, direction: Direction, reference: Reference | None, on_step: OnStep) -> tuple[Frames, Memory]:
        self.began_with = reference
        return super().begin(direction, reference, on_step)


def test_a_film_file_begins_with_the_image(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    (tmp_path / "picture.png").write_bytes(picture_of(picture))
    card = Watching(64, 48, steps=1)
    reference = read_reference_file(tmp_path / "picture.png", card.spec)
    film = FilmFile(tmp_path / "film.mp4", card.spec, title="a film")
    timeline, stop = Timeline(Direction((("a film", 1.0),))), StopSignal()
    frames = asyncio.run(save_film(lambda: card, timeline, 24, film, stop=stop, report=lambda _: None, reference=reference))
    assert frames == 24
    assert card.began_with is not None
    assert np.array_equal(card.began_with.frames, picture[None])
