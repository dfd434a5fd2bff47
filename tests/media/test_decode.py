from __future__ import annotations

import numpy as np
import pytest

from st2v_stream.media.boxes import DamagedMedia
from st2v_stream.media.decode import decode_frames
from st2v_stream.media.segment import Segment


def test_every_segment_alone_with_its_init_decodes_to_its_frames(film: list[Segment]) -> None:
    for segment in film:
        assert decode_frames(segment.init, [segment.data]).shape == (segment.frames, 256, 256, 3)


def test_pieces_equal_the_whole(film: list[Segment]) -> None:
    whole = decode_frames(film[0].init, [segment.data for segment in film])
    pieces = [decode_frames(segment.init, [segment.data]) for segment in film]
    assert len(whole) == 16 + 14 * 8
    assert np.array_equal(whole, np.concatenate(pieces))


def test_what_cannot_be_decoded_is_damaged(film: list[Segment]) -> None:
    with pytest.raises(DamagedMedia):
        decode_frames(b"nonsense", [film[0].data])
    with pytest.raises(DamagedMedia, match="at least one frame"):
        decode_frames(film[0].init, [])
