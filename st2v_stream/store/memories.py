"""A `Memory` as blobs: each part one safetensors file named by its hash, so what stays the same is stored once."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from st2v_stream.chunk import Memory
from st2v_stream.errors import StoreDamaged
from st2v_stream.store.blobs import Blob


def memory_to_blobs(memory: Memory) -> tuple[str, tuple[Blob, ...]]:
    """The JSON for the chunk's row, and the parts it names."""
    blobs = {name: Blob.of("memory", _save(name, memory.parts[name])) for name in sorted(memory.parts)}
    fields = {
        "kind": memory.kind,
        "version": memory.version,
        "next_index": memory.next_index,
        "next_start": memory.next_start,
        "parts": {name: blob.sha256 for name, blob in blobs.items()},
        "digest": memory.digest,
    }
    return json.dumps(fields), tuple(blobs.values())


def memory_from_blobs(row: str, read: Callable[[str], bytes]) -> Memory:
    """The memory whose row this is, bit for bit. Raises `StoreDamaged` when a part is damaged, `NotFound` when one is gone."""
    fields = json.loads(row)
    try:
        parts = {name: safetensors.numpy.load(read(sha256))[name].copy() for name, sha256 in fields["parts"].items()}
    except (SafetensorError, KeyError) as error:
        raise StoreDamaged("a memory is damaged", expected="safetensors with the part's name", received=repr(error)) from error
    memory = Memory(fields["kind"], fields["version"], fields["next_index"], fields["next_start"], parts)
    if memory.digest != fields["digest"]:
        raise StoreDamaged("a memory is damaged", expected=f"digest {fields['digest']}", received=memory.digest)
    return memory


def parts_of(row: str) -> list[str]:
    """sha256 of the blobs that the memory of this row is made of."""
    return list(json.loads(row)["parts"].values())


def _save(name: str, part: NDArray[np.generic]) -> bytes:
    # safetensors 0.8 writes the bytes of a view (a slice, a flip) in the wrong order, without a word: give it plain arrays.
    return safetensors.numpy.save({name: np.asarray(part, order="C")})
