"""Passthrough and Lanczos: what every enhancer is held against."""

from __future__ import annotations

import numpy as np
import pytest

from enhancers.small_enhancer import SPEC, no_step, preview
from st2v_stream.chunk import Memory
from st2v_stream.enhancers.lanczos import Lanczos
from st2v_stream.enhancers.passthrough import Passthrough
from st2v_stream.errors import InvalidRequest, Stopped
from st2v_stream.types import Enhancer

BASELINES: tuple[Enhancer, ...] = (Passthrough(), Lanczos(2))


@pytest.mark.parametrize("enhancer", BASELINES, ids=lambda enhancer: enhancer.name)
def test_every_chunk_at_once_and_on_the_grid(enhancer: Enhancer) -> None:
    carry, sharp_spec = None, enhancer.sharp_spec(SPEC)
    for chunk in preview(3):
        (sharp,), carry = enhancer.enhance(chunk, carry, no_step)
        assert (sharp.chunk.index, sharp.chunk.start, sharp.chunk.direction) == (chunk.index, chunk.start, chunk.direction)
        assert sharp.chunk.frames.shape == (len(chunk.frames), sharp_spec.height, sharp_spec.width, 3)
        assert (sharp.revision, sharp.is_provisional) == (0, False)
        assert sharp.chunk.memory.digest == carry.digest
    assert enhancer.finish(carry, no_step) == ([], carry)
    assert enhancer.lag_frames == 0


def test_passthrough_changes_nothing() -> None:
    (chunk,) = preview(1)
    (sharp,), _ = Passthrough().enhance(chunk, None, no_step)
    assert sharp.chunk.frames is chunk.frames
    assert Passthrough().sharp_spec(SPEC) == SPEC


def test_lanczos_keeps_what_was_there_and_overshoots_at_edges() -> None:
    (chunk,) = preview(1)
    (sharp,), _ = Lanczos(4).enhance(chunk, None, no_step)
    small = sharp.chunk.frames.reshape(4, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    assert np.abs(small - chunk.frames).mean() < 16
    flat = chunk.__class__(0, 0, np.full_like(chunk.frames, 77), chunk.direction, chunk.memory)
    (sharp,), _ = Lanczos(2).enhance(flat, None, no_step)
    assert (sharp.chunk.frames == 77).all()


def test_lanczos_can_be_left_between_two_frames() -> None:
    def leave(k: int, n: int) -> None:
        assert n == 4
        if k == 2:
            raise Stopped("asked to stop")

    with pytest.raises(Stopped):
        Lanczos().enhance(preview(1)[0], None, leave)


@pytest.mark.parametrize("enhancer", BASELINES, ids=lambda enhancer: enhancer.name)
def test_what_does_not_follow_is_refused(enhancer: Enhancer) -> None:
    film = preview(3)
    _, carry = enhancer.enhance(film[0], None, no_step)
    with pytest.raises(InvalidRequest, match=r"in order.*expected \(1, 4\), received \(2, 6\)"):
        enhancer.enhance(film[2], carry, no_step)
    for call in (lambda other: enhancer.enhance(film[1], other, no_step), lambda other: enhancer.finish(other, no_step)):
        with pytest.raises(InvalidRequest, match="carry of another kind"):
            call(Memory("sdedit", 1, 1, 4, {}))


def test_an_enlargement_that_is_not_made_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"expected one of \(2, 3, 4\), received 5"):
        Lanczos(5)
