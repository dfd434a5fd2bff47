"""Single parts of a model folder: networks of diffusers and transformers, settings, tokenizers; every fault names its file.

Only safetensors are read, and strictly: the libraries themselves would fill what is missing with random numbers and warn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from st2v_stream.errors import CheckpointError

T = TypeVar("T")

_HALF = "fp16"


def read(path: Path, reader: Callable[[Path], T]) -> T:
    """reader(path). Raises `CheckpointError` naming the path for every way in which reading can fail."""
    with checkpoint_errors(path):
        return reader(path)


@contextmanager
def checkpoint_errors(path: Path) -> Iterator[None]:
    """Every way in which reading `path` can fail becomes a `CheckpointError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"the checkpoint lacks {path}: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError."""
    settings = json.loads(path.read_text())
    if not isinstance(settings, dict):
        raise ValueError(f"expected a JSON object, received {type(settings).__name__}")
    return settings


def existing(folder: Path, *names: str) -> Path:
    """The folder, if these files are in it. Raises FileNotFoundError."""
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"expected {folder / name}, received no such file")
    return folder


def read_network(network_class: Any, folder: Path, dtype: torch.dtype, *, stem: str = "diffusion_pytorch_model") -> Any:
    """A network of diffusers (or transformers, stem "model") from its folder, in this type, for inference.

    Where there are half-precision weights beside full ones, half precision reads those. Raises `CheckpointError`.
    """
    with checkpoint_errors(folder), _no_progress_bars():
        network, found = network_class.from_pretrained(
            existing(folder, "config.json"),
            torch_dtype=dtype,
            variant=_variant(folder, stem, dtype),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        if problems := _loading_problems(found):
            raise ValueError(f"{network_class.__name__}: {'; '.join(problems)}")
        return network.eval().requires_grad_(False)


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer its settings name, if transformers has it: code that lies in a folder is never run.

    Raises FileNotFoundError, OSError, ValueError.
    """
    existing(folder, "tokenizer_config.json")
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """One per part would run through our own line of progress."""
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


def _variant(folder: Path, stem: str, dtype: torch.dtype) -> str | None:
    """Which of the weights in the folder to read. Raises FileNotFoundError when none of them are safetensors."""
    files = {path.name for path in folder.iterdir()}
    here: list[str | None] = []
    if {f"{stem}.{_HALF}.safetensors", f"{stem}.safetensors.index.{_HALF}.json"} & files:
        here.append(_HALF)
    if {f"{stem}.safetensors", f"{stem}.safetensors.index.json"} & files:
        here.append(None)
    if not here:
        raise FileNotFoundError(f"expected {stem}.safetensors (pickles are not read), received {sorted(files)}")
    return here[0] if dtype == torch.float16 else here[-1]


def _loading_problems(found: Mapping[str, Any]) -> list[str]:
    """What was missing, left over or of another shape, at most three names of each kind."""
    kinds = {"missing_keys": "expected", "unexpected_keys": "received unknown", "mismatched_keys": "of another shape:"}
    problems = []
    for kind, words in kinds.items():
        names = sorted(str(name) for name in found.get(kind) or () if not str(name).endswith("position_ids"))
        if names:
            problems.append(f"{words} {len(names)} tensors such as {names[:3]}")
    return problems
