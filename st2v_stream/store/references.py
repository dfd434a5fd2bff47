"""What a film starts from as a blob: the decoded pixels, lossless; nothing of the file they came in."""

from __future__ import annotations

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from st2v_stream.errors import StoreDamaged
from st2v_stream.store.blobs import Blob
from st2v_stream.types import Reference

_NAME = "frames"


def reference_to_blob(reference: Reference) -> Blob:
    """One safetensors file."""
    return Blob.of("input", safetensors.numpy.save({_NAME: np.asarray(reference.frames, order="C")}))


def reference_from_blob(data: bytes) -> Reference:
    """The reference, pixel for pixel. Raises `StoreDamaged`."""
    try:
        return Reference(safetensors.numpy.load(data)[_NAME])
    except (SafetensorError, KeyError) as error:
        raise StoreDamaged("an input is damaged", expected="safetensors with the frames", received=repr(error)) from error
