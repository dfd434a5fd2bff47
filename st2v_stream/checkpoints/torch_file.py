"""Torch files from elsewhere, read so that nothing in them can run and nothing of them is copied.

Such a file is a zip of raw numbers and one pickle that names them. torch's `weights_only` reader rebuilds tensors and plain
values and refuses everything else; mapping the file into memory leaves the numbers on disk until they are looked at. There
is no other way in: what this refuses is not read.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from st2v_stream.errors import CheckpointError

_HARMLESS = (
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
)
"""Names in the training state that Stable Diffusion's files carry beside their weights (their `callbacks` entry)."""

WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What a weight may be stored as; the published files are float32."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The weights of a torch file (its `state_dict` where it has one), mapped into memory: name -> tensor on the CPU.

    Raises `CheckpointError` naming the file, what was expected and what was found: no such file, not a torch file, cut
    short, a pickle that wants to run code, no weights, numbers of a wrong kind.
    """
    return _weights(_load(_zip_file(path)), path)


def _zip_file(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError("no such checkpoint", expected="a torch file", received=str(path))
    if not zipfile.is_zipfile(path):  # the directory is at a zip's end: a file that was cut short has none
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} cannot be read",
            expected="a whole torch file (a zip with its directory at the end, as torch.save writes it since 1.6)",
            received=f"{size} bytes without one: cut short, or of another format",
        )
    return path


def _load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([_stand_in(*name) for name in _HARMLESS]):
            return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: its pickle asks for more than weights, which could run code",
            expected="tensors and plain values only",
            received=_asked_for(error),
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} is damaged", expected="a torch file", received=f"{type(error).__name__}: {reason}"
        ) from error


class _Inert:
    """Takes anything, does nothing, is nothing."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _stand_in(module: str, name: str) -> type[_Inert]:
    """An inert class that answers to the name: the real one is never imported, let alone called."""
    return type(name, (_Inert,), {"__module__": module, "__qualname__": name})


def _asked_for(error: Exception) -> str:
    """What the pickle wanted, from torch's long message."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if wanted:
        return f"a call of {wanted[1]}"
    return str(error).rpartition("error: ")[2].partition("\n")[0]


def _weights(content: Any, path: Path) -> dict[str, Tensor]:
    named = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(named, Mapping) or not named or not any(isinstance(value, Tensor) for value in named.values()):
        found = sorted(map(str, content))[:5] if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(f"{path} holds no weights", expected="a state_dict of tensors", received=found)
    for name, value in named.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name}", expected="a tensor", received=type(value).__name__)
        if value.layout != torch.strided or value.device.type != "cpu":
            received = f"{value.layout} on {value.device}".removeprefix("torch.")
            raise CheckpointError(f"{path}: {name}", expected="a plain tensor with its numbers", received=received)
    return dict(named)
