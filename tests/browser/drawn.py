"""A maker that draws the story-book world instead of running a model: something to look at where no weights are."""

from __future__ import annotations

import dataclasses

import numpy as np

from st2v_stream.chunk import Frames, Memory
from st2v_stream.direction import Direction
from st2v_stream.generators.testcard import TestCard
from st2v_stream.types import ModelCard, OnStep, Reference
from st2v_stream.worlds import captions, storybook

EXAMPLES = (
    captions.caption("red", "boat", "drifts left", "sea"),
    captions.caption("yellow", "ball", "bounces", "meadow"),
    captions.caption("purple", "rocket", "flies up", "night sky"),
    captions.caption("orange", "cat", "bounces", "snow field"),
    captions.caption("green", "car", "drifts right", "desert"),
)


class Drawn(TestCard):
    """Looks like storybook from outside; its pictures are renders."""

    def __init__(self, *, seconds_per_step: float) -> None:
        super().__init__(64, 64, steps=8, seconds_per_step=seconds_per_step, name="drawn")

    @property
    def card(self) -> ModelCard:
        return dataclasses.replace(
            super().card,
            title="Storybook",
            version="drawn",
            description="Renders of the story-book world, where the model's weights are not at hand.",
            example_prompts=EXAMPLES,
            vocabulary=captions.vocabulary_by_kind(),
        )

    def begin(self, direction: Direction, reference: Reference | None, on_step: OnStep) -> tuple[Frames, Memory]:
        frames, memory = super().begin(direction, reference, on_step)
        return self._draw(direction, 0, len(frames)), memory

    def generate(self, direction: Direction, memory: Memory, on_step: OnStep) -> tuple[Frames, Memory]:
        frames, after = super().generate(direction, memory, on_step)
        return self._draw(direction, memory.next_start, len(frames)), after

    def _draw(self, direction: Direction, start: int, count: int) -> Frames:
        def first(words: tuple[str, ...]) -> str:
            return next((word for word in words if word in direction.prompt), words[0])

        words = [first(kind) for kind in (captions.COLOURS, captions.SUBJECTS, captions.SCENES, captions.MOTIONS)]
        film = storybook.spec_for_words(np.random.default_rng(direction.seed), *words)
        return storybook.clip(film, range(start, start + count))
