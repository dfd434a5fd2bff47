from __future__ import annotations

import numpy as np
import pytest

from st2v_stream.chunk import Chunk, StreamSpec
from st2v_stream.direction import Direction
from st2v_stream.errors import Stopped
from st2v_stream.generators.testcard import TestCard, draw_frames, read_frame_number
from st2v_stream.types import Generator, Reference

DIRECTION = Direction((("a numbered film", 1.0),), num_inference_steps=3)


def no_step(k: int, n: int) -> None:
    pass


def test_it_is_a_generator_with_the_promised_chunks() -> None:
    card: Generator = TestCard()
    frames, memory = card.begin(DIRECTION, None, no_step)
    assert frames.shape == (16, card.spec.height, card.spec.width, 3)
    frames, memory = card.generate(DIRECTION, memory, no_step)
    assert frames.shape == (8, card.spec.height, card.spec.width, 3)
    assert (memory.next_index, memory.next_start) == (2, 24)
    assert np.array_equal(TestCard().frames_of(DIRECTION, memory), frames)
    assert [read_frame_number(frame) for frame in frames] == list(range(16, 24))


@pytest.mark.parametrize("number", [0, 1, 2, 255, 4097, 40000, 65535])
@pytest.mark.parametrize("size", [(256, 192), (64, 64), (320, 180), (48, 32)])
def test_numbers_are_readable(number: int, size: tuple[int, int]) -> None:
    frames = draw_frames(StreamSpec(*size, 8, 16, 8), [number], np.array([90, 120, 150], np.uint8), bytes(range(0, 256, 8)))
    assert read_frame_number(frames[0]) == number


def test_numbers_are_readable_after_h264() -> None:
    encode, segment, decode = (pytest.importorskip(f"st2v_stream.media.{name}") for name in ("encode", "segment", "decode"))
    for card in (TestCard(), TestCard(64, 64)):
        frames, memory = card.begin(DIRECTION, None, no_step)
        chunk = Chunk(0, 0, frames, DIRECTION, memory)
        encoded = encode.encode_segment(chunk, segment.EncodeSpec.for_stream(card.spec))
        decoded = decode.decode_frames(encoded.init, [encoded.data])
        assert [read_frame_number(frame) for frame in decoded] == list(range(16))


def test_the_past_enters_every_frame() -> None:
    card = TestCard()
    other = Direction((("another film", 1.0),), num_inference_steps=3)
    _, memory = card.begin(DIRECTION, None, no_step)
    _, of_other = card.begin(other, None, no_step)
    _, of_image = card.begin(DIRECTION, Reference(np.ones((1, 8, 8, 3), np.uint8)), no_step)
    chunks = [card.generate(DIRECTION, past, no_step)[0] for past in (memory, memory, of_other, of_image)]
    assert np.array_equal(chunks[0], chunks[1])
    assert not np.array_equal(chunks[0], chunks[2])
    assert not np.array_equal(chunks[0], chunks[3])


def test_it_obeys_on_step() -> None:
    seen: list[tuple[int, int]] = []

    def stop_at_two(k: int, n: int) -> None:
        seen.append((k, n))
        if k == 2:
            raise Stopped("enough")

    with pytest.raises(Stopped):
        TestCard(steps=5).begin(DIRECTION, None, stop_at_two)
    assert seen == [(0, 5), (1, 5), (2, 5)]
    seen.clear()
    TestCard(steps=1).begin(DIRECTION, None, stop_at_two)
    assert seen == [(0, 1), (1, 1)]
