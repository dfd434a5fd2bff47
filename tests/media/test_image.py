from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from st2v_stream.errors import InvalidRequest
from st2v_stream.media.image import fit_image, read_image


def picture(width: int = 40, height: int = 20) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), "red")
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    return image


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_formats_of_cameras_and_browsers(kind: str) -> None:
    frames = read_image(saved(picture(), kind))
    assert (frames.shape, frames.dtype) == ((1, 20, 40, 3), np.uint8)
    assert np.abs(frames[0, 10, 5].astype(int) - [255, 0, 0]).max() < 10
    assert np.abs(frames[0, 10, 35].astype(int) - [0, 0, 255]).max() < 10


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_is_applied(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned by 90 degrees clockwise
    frames = read_image(saved(picture(), kind, exif=exif))
    assert frames.shape == (1, 40, 20, 3)
    assert frames[0, 5, 10, 0] > 200  # what was left is at the top
    assert frames[0, 35, 10, 2] > 200


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_what_pillow_makes_of_it(orientation: int) -> None:
    image, exif = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)), Image.Exif()
    exif[0x0112] = orientation
    content = saved(image, exif=exif)
    assert np.array_equal(read_image(content)[0], np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content)))))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "I;16", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("I;16", (8, 8), 0x80FF) if mode == "I;16" else Image.new("L", (8, 8), 128).convert(mode)
    frames = read_image(saved(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert frames.shape == (1, 8, 8, 3)
    assert mode == "1" or np.abs(frames.astype(int) - 128).max() <= 2


def test_transparency_becomes_white() -> None:
    assert (read_image(saved(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))) == 255).all()
    assert (read_image(saved(Image.new("P", (8, 8), 0), transparency=0)) == 255).all()


def test_an_animation_gives_its_first_picture() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("PNG", "WEBP"):
        assert read_image(saved(frames[0], kind, save_all=True, append_images=frames[1:]))[0, 0, 0, 0] > 250


@pytest.mark.parametrize(
    "content", [b"no image", b"\x89PNG\r\n\x1a\n", saved(picture(), "GIF"), saved(picture(), "BMP"), b"<svg/>"]
)
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest, match="the image cannot be read: expected a whole PNG, JPEG or WebP file") as refused:
        read_image(content, param="input_reference")
    assert refused.value.param == "input_reference"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_cut_off_files_are_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    content = saved(noise, kind)
    for length in (30, len(content) // 3, len(content) // 2):
        with pytest.raises(InvalidRequest):
            read_image(content[:length])


def test_bytes_and_pixels_are_limited() -> None:
    content = saved(picture())
    with pytest.raises(InvalidRequest, match="expected 1 to 10 bytes"):
        read_image(content, max_bytes=10)
    with pytest.raises(InvalidRequest, match="expected 1 to "):
        read_image(b"")
    with pytest.raises(InvalidRequest, match="expected at most 799 pixels, received '40x20'"):
        read_image(content, max_pixels=799)


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("side", [8_000, 12_000, 100_000])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    """A PNG of a few bytes that claims many pixels; 12,000 makes Pillow warn, 100,000 makes it raise."""
    with pytest.raises(InvalidRequest, match="too large"):
        read_image(png_header(side, side))


def png_header(width: int, height: int) -> bytes:
    def part(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", ihdr) + part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b"")


@pytest.mark.filterwarnings("error")
def test_a_webp_that_claims_many_pixels_is_refused() -> None:
    content = bytearray(
        saved(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "WEBP", lossless=True, exif=Image.Exif().tobytes() or b"Exif\0\0")
    )
    at = content.find(b"VP8X")
    assert at > 0
    content[at + 12 : at + 18] = (16_382).to_bytes(3, "little") * 2
    with pytest.raises(InvalidRequest):
        read_image(bytes(content))


def test_fitting_keeps_the_middle() -> None:
    frames = fit_image(read_image(saved(picture(400, 100))), 64, 64)
    assert frames.shape == (1, 64, 64, 3)
    assert frames[0, 32, 5, 0] > 250
    assert frames[0, 32, 58, 2] > 250
    tall = fit_image(read_image(saved(picture(100, 400))), 96, 64)
    assert tall.shape == (1, 64, 96, 3)


def test_fitting_enlarges_small_images() -> None:
    assert fit_image(read_image(saved(picture(10, 10))), 64, 64).shape == (1, 64, 64, 3)
