"""Small stills of a film: one frame as JPEG, enlarged like the film itself; many of them on one sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from st2v_stream.chunk import Frames
from st2v_stream.media.scaling import enlarge_factor, resize

TILE_WIDTH = 160
TILES_ACROSS = 10
MAX_TILES = 100


def tile_indexes(chunks: int) -> list[int]:
    """The chunks that a sheet shows: all of them, or `MAX_TILES` evenly spread."""
    count = min(chunks, MAX_TILES)
    return [tile * chunks // count for tile in range(count)]


def tile(frame: Frames) -> Image.Image:
    """One frame (H, W, 3) uint8 as it is on a sheet: `TILE_WIDTH` wide."""
    height, width = frame.shape[:2]
    size = TILE_WIDTH, max(1, round(height * TILE_WIDTH / width))
    return Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)


def sprite_jpeg(tiles: Sequence[Image.Image], *, quality: int = 80) -> bytes:
    """Tiles of one size, one or more, row by row with `TILES_ACROSS` in each, as JPEG."""
    width, height = tiles[0].size
    across = min(len(tiles), TILES_ACROSS)
    sheet = Image.new("RGB", (across * width, -(-len(tiles) // TILES_ACROSS) * height))
    for place, picture in enumerate(tiles):
        sheet.paste(picture, (place % TILES_ACROSS * width, place // TILES_ACROSS * height))
    jpeg = io.BytesIO()
    sheet.save(jpeg, "JPEG", quality=quality)
    return jpeg.getvalue()


def thumbnail_jpeg(frame: Frames, *, quality: int = 85) -> bytes:
    """One frame (H, W, 3) uint8 as JPEG; frames with a short side under 192 pixels are enlarged x2 or x4."""
    height, width = frame.shape[:2]
    factor = enlarge_factor(width, height)
    picture = frame if factor == 1 else resize(frame, width * factor, height * factor)
    jpeg = io.BytesIO()
    Image.fromarray(picture).save(jpeg, "JPEG", quality=quality)
    return jpeg.getvalue()
