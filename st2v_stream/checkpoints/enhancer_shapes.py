"""Names and shapes of the enhancer's UNet (Video-to-Video, 1,411 M parameters), from its sizes alone.

What the published `non_ema_0035000.pth` must hold is thus known before a file is opened: 1,480 tensors. The network is built
on the meta device: no memory, no time.
"""

from __future__ import annotations

import torch

from st2v_stream.networks.enhancer_unet import EnhancerUNet, EnhancerUNetConfig

__all__ = ["EnhancerUNetConfig", "enhancer_unet_shapes"]

Shapes = dict[str, tuple[int, ...]]


def enhancer_unet_shapes(config: EnhancerUNetConfig) -> Shapes:
    """Every tensor of the network by its published name."""
    with torch.device("meta"):
        network = EnhancerUNet(config)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}
