from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from st2v_stream.media.thumbnail import thumbnail_jpeg

from .conftest import patches


@pytest.mark.parametrize(("size", "shown"), [(64, 256), (128, 256), (256, 256)])
def test_a_thumbnail_is_as_large_as_the_film(size: int, shown: int) -> None:
    frame = patches(3, 1, size)[0]
    picture = Image.open(io.BytesIO(thumbnail_jpeg(frame)))
    assert (picture.format, picture.size) == ("JPEG", (shown, shown))
    got, want = np.asarray(picture)[32::64, 32::64], frame[size // 8 :: size // 4, size // 8 :: size // 4]
    assert np.abs(got.astype(int) - want).max() <= 12


def test_equal_frames_give_equal_thumbnails() -> None:
    assert thumbnail_jpeg(patches(0, 1)[0]) == thumbnail_jpeg(patches(0, 1)[0])
