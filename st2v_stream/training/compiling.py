"""torch.compile where it pays: on a GPU. This path has not been run on one yet."""

from __future__ import annotations

import torch
from torch import nn


def compile_on_gpu(device: torch.device, *networks: nn.Module) -> None:
    """Compile in place (names of weights stay) if the device is a GPU; what cannot be compiled runs as it is."""
    if device.type != "cuda":
        return
    torch._dynamo.config.suppress_errors = True
    for network in networks:
        network.compile()
