"""Optical flow between two frames, as a plain function, so that any estimator can be put in its place.

What is measured with one estimator does not compare with another's numbers: the paper took RAFT (large); where its weights
are not given, OpenCV's dense inverse search stands in for it, and every report says so.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from st2v_stream.chunk import Frames
from st2v_stream.errors import InvalidRequest

Flow: TypeAlias = Callable[[Frames, Frames], NDArray[np.float32]]
"""flow(frame, following): both (H, W, 3) uint8 RGB -> (H, W, 2) float32, where every pixel went, in x and y pixels."""

_NO_STATE_DICT = (pickle.UnpicklingError, struct.error, EOFError, AttributeError, IndexError)
"""What torch's reader of pickles raises, besides others, for bytes that are none."""

_RAFT_MULTIPLE = 8
_RAFT_LEAST = 128  # below, its coarsest correlation level is smaller than a pixel


@dataclass(frozen=True, slots=True)
class NamedFlow:
    """An estimator and how reports call it."""

    name: str
    estimate: Flow
    is_raft: bool = False


def dis_flow() -> NamedFlow:
    """OpenCV's dense inverse search, preset medium: no weights, fast on a CPU, weaker than RAFT on large motion."""
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def estimate(frame: Frames, following: Frames) -> NDArray[np.float32]:
        start: Any = None  # a flow to start from: none
        return np.asarray(search.calc(_grey(frame), _grey(following), start), np.float32)

    return NamedFlow("OpenCV DIS, medium preset (not RAFT)", estimate)


def raft_flow(weights: Path, device: str = "cpu") -> NamedFlow:
    """RAFT (large) from torchvision with weights from a local file; nothing is ever downloaded.

    Raises `InvalidRequest` if torchvision is not installed, `CheckpointError` if the file is not RAFT's state dict.
    """
    import torch

    network = _load_raft(weights).to(device).eval()

    def estimate(frame: Frames, following: Frames) -> NDArray[np.float32]:
        first, second = (_to_raft(picture).to(device) for picture in (frame, following))
        with torch.inference_mode():
            flow = network(first, second)[-1][0]  # the last of 12 refinements, (2, H, W)
        return np.asarray(rearrange(flow, "c h w -> h w c").cpu().numpy(), np.float32)

    return NamedFlow(f"RAFT large, 12 updates ({weights.name})", estimate, is_raft=True)


def _load_raft(weights: Path) -> Any:
    try:
        from torchvision.models.optical_flow import raft_large
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        expected = "torchvision beside torch (pip install torchvision), or no --raft"
        raise InvalidRequest("RAFT is not available", expected=expected, received=str(error), param="raft") from error
    from st2v_stream.checkpoints.load import checkpoint_errors

    network = raft_large(weights=None)
    with checkpoint_errors(weights):
        network.load_state_dict(_state_dict(weights))
    return network


def _state_dict(weights: Path) -> Any:
    if weights.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(weights)
    import torch

    try:
        return torch.load(weights, map_location="cpu", weights_only=True)
    except _NO_STATE_DICT as error:
        raise ValueError(f"expected torchvision's state dict, received {error}") from error


def _to_raft(frame: Frames) -> Any:
    """(H, W, 3) uint8 -> (1, 3, H, W) in [-1, 1]."""
    import torch

    height, width = frame.shape[:2]
    if height % _RAFT_MULTIPLE or width % _RAFT_MULTIPLE or min(height, width) < _RAFT_LEAST:
        expected = f"sides that are multiples of {_RAFT_MULTIPLE}, {_RAFT_LEAST} or more"
        raise InvalidRequest("RAFT cannot take frames of this size", expected=expected, received=f"{width}x{height}")
    return rearrange(torch.from_numpy(np.ascontiguousarray(frame)), "h w c -> 1 c h w") / 127.5 - 1.0


def _grey(frame: Frames) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
