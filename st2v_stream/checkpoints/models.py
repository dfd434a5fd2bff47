"""Which models are known by name, without loading any of them (torch-free)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st2v_stream.chunk import StreamSpec
from st2v_stream.errors import CheckpointError, UnknownModel
from st2v_stream.types import ModelCard, ModelEntry

if TYPE_CHECKING:
    from st2v_stream.types import Generator

ENHANCER_FOLDER = "enhancer"
"""Where a model folder keeps the enhancer of its films, if it brings one: a folder of the diffusers layout itself."""

_PACKAGE = Path(__file__).resolve().parent.parent
_HOMES = (_PACKAGE.parent / "checkpoints", _PACKAGE / "checkpoints", Path("checkpoints"))
"""Where model folders lie: beside the package in a checkout, inside it in an installed wheel, in the working directory."""


def find_folder(name: str) -> Path:
    """The folder of a model that comes with the package. Raises `UnknownModel`."""
    for home in _HOMES:
        if os.path.isfile(home / name / "card.json"):  # Path's own would raise for a name longer than file systems take
            return home / name
    raise UnknownModel("no such model", expected="one of " + ", ".join(sorted(known_models())), received=name, param="model")


def find_weights(name: str) -> Path:
    """The folder of weights that come with the package but make no films, such as a judge. Raises `CheckpointError`."""
    for home in _HOMES:
        if (home / name / "config.json").is_file():
            return home / name
    raise CheckpointError("the package's weights are incomplete", expected=f"checkpoints/{name}", received="no such folder")


def find_published(name: str) -> Path | None:
    """The folder of published weights under checkpoints/ (`st2v pull` makes it); None where there is none."""
    return next((home / name for home in _HOMES if (home / name).is_dir()), None)


def download_home() -> Path:
    """Where weights from elsewhere are put: checkpoints/ of a checkout, or of the working directory."""
    in_checkout = (_PACKAGE.parent / "pyproject.toml").is_file()
    return _HOMES[0] if in_checkout else _HOMES[-1]


def known_models(*, device: str = "auto") -> dict[str, ModelEntry]:
    """Every model that can be asked for by name: the folders with a card.json, and the test card."""
    entries: dict[str, ModelEntry] = {}
    for home in _HOMES:
        if home.is_dir():
            for card_file in sorted(home.glob("*/card.json")):
                entry = folder_entry(card_file.parent, device=device)
                entries.setdefault(entry.card.name, entry)
    entries["testcard"] = _testcard_entry()
    return entries


def folder_entry(folder: Path, *, device: str = "auto", base_model: str | None = None) -> ModelEntry:
    """The model in a folder of the diffusers layout with a card.json. Raises `CheckpointError` if the card is damaged.

    base_model: ModelscopeT2V, AnimateDiff or SVD begins its films; None: the one it comes with. Raises `InvalidRequest`.
    """
    card = read_card(folder)
    if base_model is not None:
        from st2v_stream.checkpoints.bases import base_named, with_base

        card = with_base(card, base_named(base_model))

    def load() -> Generator:
        from st2v_stream.checkpoints.load import load_generator

        return load_generator(folder, device=device, base_model=base_model)

    return ModelEntry(card, load)


def read_card(folder: Path) -> ModelCard:
    """Read FOLDER/card.json. Raises `CheckpointError` naming the file and what is wrong."""
    path = folder / "card.json"
    try:
        fields = json.loads(path.read_text())
        return _card_from_json(fields)
    except FileNotFoundError as error:
        raise CheckpointError("the model has no card", expected=str(path), received="no such file") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged", expected="a model card as JSON", received=repr(error)) from error


def weights_digest(folder: Path) -> str:
    """SHA-256 over all settings and weights of a model folder, by name; its card and its enhancer count for nothing.

    It is the identity of what makes the preview: a film goes on with the same weights, whatever made it sharp so far.
    """
    digest = hashlib.sha256()
    parts = [part for part in folder.iterdir() if part.is_dir() and part.name != ENHANCER_FOLDER]
    files = [path for part in parts for path in part.rglob("*") if path.suffix in (".json", ".safetensors")]
    for path in sorted(files):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder)}\n".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _card_from_json(fields: Mapping[str, Any]) -> ModelCard:
    spec = StreamSpec(
        width=int(fields["width"]),
        height=int(fields["height"]),
        fps=int(fields["fps"]),
        first_chunk_frames=int(fields["first_chunk_frames"]),
        chunk_frames=int(fields["chunk_frames"]),
        max_frames=fields.get("max_frames"),
    )
    return ModelCard(
        name=fields["name"],
        title=fields["title"],
        version=fields["version"],
        licence=fields["licence"],
        spec=spec,
        example_prompts=tuple(fields.get("example_prompts", ())),
        vocabulary=fields.get("vocabulary"),
        presets=fields.get("presets", {}),
        description=fields.get("description", ""),
    )


def _testcard_entry() -> ModelEntry:
    from st2v_stream.generators.testcard import TestCard

    return ModelEntry(TestCard().card, TestCard)
