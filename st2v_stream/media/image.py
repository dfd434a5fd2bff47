"""Reading an image that somebody sent: checked before it is decoded, upright, without its metadata."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from st2v_stream.chunk import Frames
from st2v_stream.errors import InvalidRequest

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_IMAGE_BYTES = 20 * 2**20
MAX_IMAGE_PIXELS = 50_000_000
"""The largest phone photographs; decoded that is 150 MB."""

_DAMAGED = (OSError, SyntaxError, ValueError, EOFError)
"""What Pillow raises for files that are damaged or of another format."""

_ORIENTATION = 0x0112  # EXIF tag
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_EXPECTED = "a whole PNG, JPEG or WebP file"


def read_image(
    content: bytes, *, max_bytes: int = MAX_IMAGE_BYTES, max_pixels: int = MAX_IMAGE_PIXELS, param: str = "image"
) -> Frames:
    """A PNG, JPEG or WebP as (1, H, W, 3) uint8 RGB: EXIF orientation applied, transparency on white, metadata dropped.

    Only the header is read until its size is known to be within the limits. An animation gives its first picture.
    Raises `InvalidRequest` (naming `param`).
    """
    if not 0 < len(content) <= max_bytes:
        raise InvalidRequest(
            "the image file has no usable size",
            expected=f"1 to {max_bytes} bytes",
            received=f"{len(content)} bytes",
            param=param,
        )
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _require_pixels(image.width, image.height, max_pixels, param)
            upright = _opaque_rgb(_turned_upright(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidRequest(
            "the image is too large", expected=f"at most {max_pixels} pixels", received=str(error), param=param
        ) from error
    except _DAMAGED as error:
        received = "another format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise InvalidRequest("the image cannot be read", expected=_EXPECTED, received=received, param=param) from error
    return np.asarray(upright)[None]


def fit_image(frames: Frames, width: int, height: int) -> Frames:
    """(T, H, W, 3) -> (T, height, width, 3): scaled until it covers the target, the middle kept."""
    return np.stack(
        [np.asarray(ImageOps.fit(Image.fromarray(frame), (width, height), Image.Resampling.LANCZOS)) for frame in frames]
    )


def _require_pixels(width: int, height: int, max_pixels: int, param: str) -> None:
    if width * height > max_pixels:
        raise InvalidRequest(
            "the image is too large", expected=f"at most {max_pixels} pixels", received=f"{width}x{height}", param=param
        )


def _turned_upright(image: Image.Image) -> Image.Image:
    """As the camera was held. Not `ImageOps.exif_transpose`: it writes the EXIF anew and fails on damaged ones."""
    orientation = image.getexif().get(_ORIENTATION)
    transposition = _TO_UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if transposition is None else image.transpose(transposition)


def _opaque_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB. 16-bit greys are scaled (Pillow's own conversion clips them); transparent parts become white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    opaque = Image.new("RGBA", image.size, "white")
    opaque.alpha_composite(image.convert("RGBA"))
    return opaque.convert("RGB")
