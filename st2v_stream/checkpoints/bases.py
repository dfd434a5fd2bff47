"""The base models of the published pipeline: what makes a film's first chunk, which StreamingT2V then extends (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from st2v_stream.checkpoints.models import find_published
from st2v_stream.checkpoints.published import ANIMATEDIFF, MODELSCOPE, REALISTIC_VISION, SDXL, SVD, Published
from st2v_stream.errors import CheckpointError, InvalidRequest
from st2v_stream.types import ModelCard

PIPELINE = "StreamingT2VPipeline"
"""`_class_name` in model_index.json of a model that needs a base; every other one begins its films by itself."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """name: as the published command line says it. folders: the published folders it is made of, by what they are.

    optional: those it can do without. num_inference_steps, guidance_scale: published values of the first chunk.
    """

    name: str
    folders: Mapping[str, Published]
    num_inference_steps: int
    guidance_scale: float
    optional: tuple[str, ...] = ()


MODELSCOPE_T2V = BaseModel("ModelscopeT2V", {"model": MODELSCOPE}, 50, 9.0)
ANIMATE_DIFF = BaseModel("AnimateDiff", {"motion_adapter": ANIMATEDIFF, "model": REALISTIC_VISION}, 25, 7.5)
STABLE_VIDEO = BaseModel("SVD", {"model": SVD, "image_model": SDXL}, 25, 3.0, optional=("image_model",))

BASES: Mapping[str, BaseModel] = {base.name: base for base in (MODELSCOPE_T2V, ANIMATE_DIFF, STABLE_VIDEO)}


def base_named(name: str) -> BaseModel:
    """By its name, whatever the case. Raises `InvalidRequest`."""
    for base in BASES.values():
        if base.name.casefold() == name.casefold():
            return base
    raise InvalidRequest("unknown base model", expected="one of " + ", ".join(BASES), received=name, param="base_model")


def with_base(card: ModelCard, base: BaseModel) -> ModelCard:
    """The card of the model with this base: every preset begins with the base's own steps and guidance, the version names it.

    With ModelScope, what the model was published with, the card stays as it is.
    """
    if base is MODELSCOPE_T2V:
        return card
    first = {
        "first_chunk_num_inference_steps": float(base.num_inference_steps),
        "first_chunk_guidance_scale": base.guidance_scale,
    }
    presets = {name: {**values, **first} for name, values in card.presets.items()}
    return replace(card, version=f"{card.version} with {base.name}", presets=presets)


def find_base(base: BaseModel, beside: Path, given: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """Its folders: those given, else those of the published name beside the model's folder or under checkpoints/.

    Raises `CheckpointError` naming what is not there, `InvalidRequest` for a given name that the base does not know.
    """
    given = given or {}
    if unknown := sorted(set(given) - set(base.folders)):
        expected = ", ".join(base.folders)
        raise InvalidRequest(f"{base.name} has no such part", expected=expected, received=unknown[0], param="base_folders")
    found = {}
    for role, published in base.folders.items():
        folder = given.get(role) or _find(published, beside)
        if folder is not None and folder.is_dir():
            found[role] = folder
        elif role in given or role not in base.optional:
            raise CheckpointError(
                f"the base model {base.name} is not here",
                expected=f"the folder {folder or beside.parent / published.name} (st2v pull {published.name})",
                received="no such folder",
            )
    return found


def _find(published: Published, beside: Path) -> Path | None:
    neighbour = beside.resolve().parent / published.name
    return neighbour if neighbour.is_dir() else find_published(published.name)
