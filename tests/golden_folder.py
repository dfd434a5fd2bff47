"""Where the recorded vectors lie, and how to read them: nothing of one recording is wired in, all comes from the files.

`ST2V_GOLDEN_DIR` names another folder of the same layout. Formats, meanings and tolerances: README.md there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from st2v_stream.networks.cam import ControlBranch, ControlBranchConfig
from st2v_stream.networks.folder import load_weights
from st2v_stream.networks.unet import StreamingUNet, StreamingUNetConfig

Network = TypeVar("Network", bound=nn.Module)

GOLDEN = Path(os.environ.get("ST2V_GOLDEN_DIR") or Path(__file__).parent / "golden")


def read(name: str) -> dict[str, Tensor]:
    """Tensors of `<name>.safetensors`, or of its shards; float16 becomes float32 (the stored values are exact)."""
    tensors: dict[str, Tensor] = {}
    for path in _files(name):
        with safe_open(path, "pt") as file:
            tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return {key: value.float() if value.dtype == torch.float16 else value for key, value in tensors.items()}


def settings(name: str) -> dict[str, Any]:
    """The `config` that the file carries."""
    with safe_open(_files(name)[0], "pt") as file:
        return json.loads(file.metadata()["config"])


def _files(name: str) -> list[Path]:
    whole = GOLDEN / f"{name}.safetensors"
    files = [whole] if whole.exists() else sorted(GOLDEN.glob(f"{name}*.safetensors"))
    assert files, f"expected {name}*.safetensors in {GOLDEN}, received none"
    return files


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def block_sizes(config: dict[str, Any]) -> dict[str, Any]:
    """Recorded UNet settings -> ours, as far as UNet and CAM branch share them."""
    return {
        "in_channels": config["in_channels"],
        "block_out_channels": tuple(config["block_out_channels"]),
        "cross_attention_levels": tuple(kind.startswith("CrossAttn") for kind in config["down_block_types"]),
        "layers_per_block": config["layers_per_block"],
        "attention_head_dim": config["attention_head_dim"],
        "norm_num_groups": config["norm_num_groups"],
        "cross_attention_dim": config["cross_attention_dim"],
    }


def unet_config(config: dict[str, Any]) -> StreamingUNetConfig:
    """The recorded main UNet with CAM and APM."""
    return StreamingUNetConfig(
        **block_sizes(config),
        out_channels=config["out_channels"],
        transformer_in_heads=config["transformer_in_heads"],
        norm_eps=config["norm_eps"],
        num_frames=config["num_frames"],
        text_tokens=config["text_tokens"],
        image_tokens=config["image_tokens"],
        num_control_frames=config["num_control_input_frames"],
        cam_head_dim=config["cam_head_dim"],
    )


def recorded_networks() -> tuple[StreamingUNet, ControlBranch]:
    """UNet and CAM branch of section 1 (also used by sections 2a and 2b), with their recorded weights."""
    config = settings("cam_apm_unet.io")
    unet = StreamingUNet(unet_config(config))
    branch = ControlBranch(
        ControlBranchConfig(
            **block_sizes(config),
            transformer_in_heads=config["transformer_in_heads"],
            norm_eps=config["norm_eps"],
            num_frames=config["num_control_input_frames"],
            condition_channels=tuple(config["conditioning_embedding_out_channels"]),
        )
    )
    return load(unet, "cam_apm_unet.weights_base", "base_model."), load(branch, "cam_apm_unet.weights_control", "unet.")


def load(network: Network, name: str, prefix: str) -> Network:
    """Fill a network strictly from the recorded tensors under a prefix."""
    load_weights(network, part(read(name), prefix))
    return network.eval()


def deviation(received: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; shapes must agree."""
    assert received.shape == expected.shape, f"expected shape {tuple(expected.shape)}, received {tuple(received.shape)}"
    return (received - expected).abs().max().item()
