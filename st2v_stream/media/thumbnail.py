"""A small still of a film: one frame as JPEG, enlarged like the film itself."""

from __future__ import annotations

import io

from PIL import Image

from st2v_stream.chunk import Frames
from st2v_stream.media.scaling import enlarge_factor, resize


def thumbnail_jpeg(frame: Frames, *, quality: int = 85) -> bytes:
    """One frame (H, W, 3) uint8 as JPEG; frames with a short side under 192 pixels are enlarged x2 or x4."""
    height, width = frame.shape[:2]
    factor = enlarge_factor(width, height)
    picture = frame if factor == 1 else resize(frame, width * factor, height * factor)
    jpeg = io.BytesIO()
    Image.fromarray(picture).save(jpeg, "JPEG", quality=quality)
    return jpeg.getvalue()
