"""Films of another size than the model's own, where the networks allow it (torch-free)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from st2v_stream.checkpoints.bases import PIPELINE
from st2v_stream.errors import CheckpointError, InvalidRequest
from st2v_stream.types import ModelCard

SIDE_UNIT = 64
"""Eight pixels per latent position, and three times halved inside the UNet."""

MAX_SIDE = 2048


def at_size(card: ModelCard, folder: Path, width: int | None, height: int | None) -> ModelCard:
    """The model in `folder` with films of this size in pixels; None keeps the model's own.

    The published networks are convolutions and attention without positions, so they run at any multiple of 64; they were
    trained at 256x256. Models that begin their films by themselves have one size. Raises `InvalidRequest`.
    """
    spec = card.spec
    wanted = replace(spec, width=spec.width if width is None else width, height=spec.height if height is None else height)
    if wanted == spec:
        return card
    if not _needs_base(folder):
        own, received = f"{spec.width}x{spec.height}", f"{wanted.width}x{wanted.height}"
        raise InvalidRequest(f"{card.name} makes films of one size", expected=own, received=received, param="width")
    for name, side in (("width", wanted.width), ("height", wanted.height)):
        if side % SIDE_UNIT or not SIDE_UNIT <= side <= MAX_SIDE:
            expected = f"a multiple of {SIDE_UNIT} from {SIDE_UNIT} to {MAX_SIDE}"
            raise InvalidRequest(f"{name} is out of range", expected=expected, received=side, param=name)
    return replace(card, spec=wanted)


def _needs_base(folder: Path) -> bool:
    path = folder / "model_index.json"
    try:
        return bool(json.loads(path.read_text()).get("_class_name") == PIPELINE)
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged", expected="a JSON object", received=repr(error)) from error
