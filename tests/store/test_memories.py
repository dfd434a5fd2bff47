from __future__ import annotations

import json

import numpy as np
import pytest

from st2v_stream.chunk import Memory
from st2v_stream.errors import StoreError
from st2v_stream.store.memories import memory_from_blobs, memory_to_blobs


def memory_of(**parts: np.ndarray) -> Memory:
    return Memory("test", 3, 7, 64, parts)


def loaded(memory: Memory) -> Memory:
    row, blobs = memory_to_blobs(memory)
    return memory_from_blobs(row, {blob.sha256: blob.data for blob in blobs}.__getitem__)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint64", "float16", "float32", "float64", "bool"])
def test_every_bit_comes_back(dtype: str) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 255, (8, 6, 4, 3)).astype(dtype)
    memory = memory_of(tail=array[2:, ::-1], anchor=array[0], scalar=np.array(3, dtype), empty=np.zeros((0, 3), dtype))
    again = loaded(memory)
    assert again.digest == memory.digest
    assert (again.kind, again.version, again.next_index, again.next_start) == ("test", 3, 7, 64)
    for name, part in memory.parts.items():
        assert again.parts[name].dtype == part.dtype
        assert np.array_equal(again.parts[name], part)


def test_odd_floats_come_back() -> None:
    odd = np.array([np.nan, -np.nan, np.inf, -0.0, 1e-45], np.float32)
    assert loaded(memory_of(odd=odd)).parts["odd"].tobytes() == odd.tobytes()


def test_what_stays_the_same_is_one_blob() -> None:
    anchor = np.ones((4, 4, 3), np.uint8)
    hashes = [{blob.sha256 for blob in memory_to_blobs(memory_of(anchor=anchor, tail=anchor * n))[1]} for n in (2, 3)]
    assert len(hashes[0] & hashes[1]) == 1


def test_a_wrong_part_is_noticed() -> None:
    row, _ = memory_to_blobs(memory_of(tail=np.ones(3)))
    _, others = memory_to_blobs(memory_of(tail=np.zeros(3)))
    with pytest.raises(StoreError, match=r"damaged: expected digest .*, received"):
        memory_from_blobs(row, lambda sha256: others[0].data)
    with pytest.raises(StoreError, match="damaged"):
        memory_from_blobs(row, lambda sha256: b"no safetensors")
    assert set(json.loads(row)) == {"kind", "version", "next_index", "next_start", "parts", "digest"}
