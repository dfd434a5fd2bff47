"""Weights written as safetensors, one tensor at a time: memory holds one tensor, however large the file.

(The library's own writer takes all tensors of a file at once.) A part that is larger than a shard is cut into several
files with an index beside them, as diffusers and transformers lay them out:

    NAME.safetensors                                                 or
    NAME-00001-of-00002.safetensors ... NAME.safetensors.index.json  {"metadata": {...}, "weight_map": {tensor: file}}
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from st2v_stream.errors import CheckpointError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}

Shapes = Mapping[str, tuple[int, ...]]


def bytes_of(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of a tensor on disk."""
    return math.prod(shape) * int(dtype.itemsize)


def write_weights(
    path: Path, shapes: Shapes, read: Callable[[str], Tensor], dtype: torch.dtype, shard_bytes: int
) -> list[Path]:
    """Write the tensors `shapes` names, each got by `read` when its turn comes, into `path` or into shards beside it.

    Raises `CheckpointError` for a tensor with a number that is none (NaN, infinity) or that does not fit `dtype`.
    """
    shards = _cut(shapes, dtype, shard_bytes)
    paths = [_shard_path(path, number, len(shards)) for number in range(len(shards))]
    path.parent.mkdir(parents=True, exist_ok=True)
    for shard, shard_path in zip(shards, paths, strict=True):
        _write_file(shard_path, {name: shapes[name] for name in shard}, read, dtype)
    if len(shards) > 1:
        total = sum(bytes_of(shape, dtype) for shape in shapes.values())
        where = {name: file.name for shard, file in zip(shards, paths, strict=True) for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        path.with_name(f"{path.name}.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return paths


def _cut(shapes: Shapes, dtype: torch.dtype, shard_bytes: int) -> list[list[str]]:
    """Names in order, cut so that no shard is larger than `shard_bytes`, unless one tensor alone is."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = bytes_of(shape, dtype)
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _shard_path(path: Path, number: int, count: int) -> Path:
    return path if count == 1 else path.with_name(f"{path.stem}-{number + 1:05d}-of-{count:05d}{path.suffix}")


def _write_file(path: Path, shapes: Shapes, read: Callable[[str], Tensor], dtype: torch.dtype) -> None:
    with path.open("wb") as file:
        file.write(_header(shapes, dtype))
        for name, shape in shapes.items():
            tensor = _stored(name, read(name), dtype)
            assert tuple(tensor.shape) == shape, name
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def _header(shapes: Shapes, dtype: torch.dtype) -> bytes:
    """Eight bytes of length, then JSON, padded with spaces so that the numbers start at a multiple of eight."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        end = start + bytes_of(shape, dtype)
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    stored = tensor.to(dtype).contiguous()
    if stored.numel() and not all(map(math.isfinite, torch.stack(stored.aminmax()).tolist())):
        raise CheckpointError(f"the weights are damaged: {name}", expected="finite numbers", received="NaN or infinity")
    return stored


def folder_bytes(paths: Iterable[Path]) -> int:
    """Bytes of the files."""
    return sum(path.stat().st_size for path in paths)
