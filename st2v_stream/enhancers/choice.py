"""Which enhancer makes a model's films sharp, by what the configuration says; nothing is loaded here (torch-free)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from st2v_stream.checkpoints.models import ENHANCER_FOLDER, find_folder, find_published
from st2v_stream.errors import InvalidRequest, UnknownModel
from st2v_stream.types import Enhancer, ModelEntry

WITHOUT_WEIGHTS = ("passthrough", "lanczos")
"""Enhancers that need no files."""


def equipped(entry: ModelEntry, choice: str, device: str, folder: Path | None = None) -> ModelEntry:
    """The model with its enhancer. choice: auto = the one in its own folder, if there is one; none; a name; or a folder.

    folder: the model's own, None = where a model of its name lies. Raises `InvalidRequest` for a choice that is not there.
    """
    found = _own(entry, folder) if choice == "auto" else _named(choice)
    if found is None:
        return replace(entry, load_enhancer=None, enhancer=None)
    name, place = found

    def load() -> Enhancer:
        from st2v_stream.enhancers.load import load_enhancer

        return load_enhancer(place, device)

    return replace(entry, load_enhancer=load, enhancer=name)


def _own(entry: ModelEntry, folder: Path | None) -> tuple[str, str | Path] | None:
    try:
        own = (folder or find_folder(entry.card.name)) / ENHANCER_FOLDER
    except UnknownModel:  # it has no folder
        return None
    return (entry.card.name, own) if own.is_dir() else None


def _named(choice: str) -> tuple[str, str | Path] | None:
    if choice == "none":
        return None
    if choice in WITHOUT_WEIGHTS:
        return choice, choice
    place = Path(choice) if os.path.isdir(choice) else find_published(choice)
    if place is None:
        expected = f"auto, none, {', '.join(WITHOUT_WEIGHTS)}, a model that brings one, or a folder"
        raise InvalidRequest("there is no such enhancer", expected=expected, received=choice, param="enhancer")
    return place.name, place
