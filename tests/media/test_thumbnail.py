from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from st2v_stream.media.thumbnail import sprite_jpeg, thumbnail_jpeg, tile, tile_indexes

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


def test_a_sheet_shows_a_film_row_by_row() -> None:
    shades = [np.full((90, 120, 3), 20 * place, np.uint8) for place in range(12)]
    sheet = Image.open(io.BytesIO(sprite_jpeg([tile(frame) for frame in shades])))
    assert (sheet.format, sheet.size) == ("JPEG", (10 * 160, 2 * 120))
    seen = [sheet.getpixel((80 + 160 * (place % 10), 60 + 120 * (place // 10))) for place in range(20)]
    wanted = [*range(0, 240, 20), *[0] * 8]
    assert max(abs(pixel[0] - shade) for pixel, shade in zip(seen, wanted, strict=True)) <= 3
    assert [tile_indexes(count) for count in (0, 1, 3)] == [[], [0], [0, 1, 2]]
    spread = tile_indexes(250)
    assert (len(spread), spread[0], spread[-1], spread[50]) == (100, 0, 247, 125)
