"""A network is a folder: `config.json` and `diffusion_pytorch_model.safetensors`, as diffusers lays them out.

`FolderModule` gives a network its `.config` (a frozen dataclass whose defaults are the published behaviour),
`save_pretrained` and `from_pretrained`. Weights may be stored as float16; they are computed with in float32
unless asked otherwise (the published stage 2 runs in float32).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


ConfigT = TypeVar("ConfigT")
T = TypeVar("T")


class FolderModule(nn.Module, Generic[ConfigT]):
    """An `nn.Module` built from one frozen config dataclass and stored as a folder."""

    config_class: ClassVar[type]
    config: ConfigT

    def __init__(self, config: ConfigT) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where the first parameter lives."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the first parameter."""
        return next(self.parameters()).dtype

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and the weights, converted to `dtype` (for example float16) when given."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"_class_name": type(self).__name__} | dataclasses.asdict(self.config)  # type: ignore[call-overload]
        (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
        tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> Self:
        """Read a folder written by `save_pretrained`; strict: every name and shape must fit.

        Raises FileNotFoundError (a file is missing) or ValueError (a setting or a tensor does not fit), each with
        the expected and the received.
        """
        settings = json.loads((Path(folder) / CONFIG_FILE).read_text())
        with torch.device("meta"):  # no time or memory for random numbers that are overwritten at once
            network = cls(config_from_settings(cls.config_class, settings))
        load_weights(network, read_weights(Path(folder)), dtype)
        return network.eval()


def config_from_settings(config_class: type[T], settings: dict[str, Any]) -> T:
    """The config dataclass from JSON settings; lists become tuples, diffusers' `_private` entries are left out."""
    given = {name: value for name, value in settings.items() if not name.startswith("_")}
    known = {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    if unknown := sorted(set(given) - known):
        raise ValueError(f"{config_class.__name__}: expected settings among {sorted(known)}, received {unknown}")
    return config_class(**{name: _frozen(value) for name, value in given.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def read_weights(folder: Path, file: str = WEIGHTS_FILE) -> dict[str, torch.Tensor]:
    """All tensors of a folder: one safetensors file, or the shards that an index file lists."""
    index = folder / f"{file}.index.json"
    if not index.exists():
        return load_file(folder / file)
    shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    return {name: value for shard in shards for name, value in load_file(folder / shard).items()}


def load_weights(network: nn.Module, tensors: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Put `tensors` into `network`, strictly. Raises ValueError naming what is missing, left over or of other shape."""
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    received = {name: tuple(value.shape) for name, value in tensors.items()}
    if problems := weight_problems(expected, received):
        raise ValueError(f"{type(network).__name__}: " + "; ".join(problems))
    network.load_state_dict({name: value.to(dtype) for name, value in tensors.items()}, assign=True)


def weight_problems(expected: dict[str, tuple[int, ...]], received: dict[str, tuple[int, ...]]) -> list[str]:
    """What differs between two name-to-shape tables, in words, at most three names of each kind."""
    missing = sorted(set(expected) - set(received))
    extra = sorted(set(received) - set(expected))
    other = sorted(name for name in set(expected) & set(received) if expected[name] != received[name])
    problems = []
    if missing:
        problems.append(f"expected {len(missing)} more tensors such as {missing[:3]}")
    if extra:
        problems.append(f"received {len(extra)} unknown tensors such as {extra[:3]}")
    problems += [f"{name}: expected shape {expected[name]}, received {received[name]}" for name in other[:3]]
    return problems
