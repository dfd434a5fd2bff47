"""Every random number has an address (seed, purpose, step): a resumed run draws what the uninterrupted one would."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def address(seed: int, purpose: str, step: int = 0) -> int:
    """A 63-bit number for this address."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_rng(seed: int, purpose: str, step: int = 0) -> np.random.Generator:
    """For what numpy draws: films."""
    return np.random.default_rng(address(seed, purpose, step))


def torch_rng(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A CPU generator: draws do not depend on the device."""
    return torch.Generator().manual_seed(address(seed, purpose, step))
