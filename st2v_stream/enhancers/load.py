"""An enhancer by name, or from the folder that `st2v convert` made of the published files.

model_index.json (VideoToVideoPipeline)  unet/  vae/     config.json + diffusion_pytorch_model.safetensors
text_encoder/  tokenizer/                                as transformers writes them
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPTextModel

from st2v_stream.checkpoints.load import choose_device
from st2v_stream.checkpoints.parts import read, read_json, read_network, read_tokenizer
from st2v_stream.enhancers.lanczos import Lanczos
from st2v_stream.enhancers.passthrough import Passthrough
from st2v_stream.enhancers.sdedit import EnhancerNetworks, SdEdit, SdEditSettings
from st2v_stream.errors import CheckpointError
from st2v_stream.generators.conditioning import ClipText
from st2v_stream.networks.enhancer_unet import EnhancerUNet
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.types import Enhancer

PIPELINE = "VideoToVideoPipeline"
NAMES = ("passthrough", "lanczos")
"""Enhancers without weights."""


def load_enhancer(name_or_folder: str | Path, device: str = "auto", settings: SdEditSettings | None = None) -> Enhancer:
    """`passthrough`, `lanczos`, or a folder with the Video-to-Video networks.

    settings: of the latter, None as published. On a GPU its UNet runs in float16, as published; all else in float32.
    Raises `CheckpointError` naming file and fault, `InvalidRequest` for a device that is not there.
    """
    if name_or_folder == "passthrough":
        return Passthrough()
    if name_or_folder == "lanczos":
        return Lanczos()
    return SdEdit(load_networks(Path(name_or_folder), choose_device(device)), settings)


def load_networks(folder: Path, device: torch.device) -> EnhancerNetworks:
    """The networks of such a folder, strictly. Raises `CheckpointError`."""
    if not folder.is_dir():
        expected = f"{', '.join(NAMES)}, or a folder that st2v convert made"
        raise CheckpointError("no such enhancer", expected=expected, received=str(folder))
    pipeline = read(folder / "model_index.json", read_json).get("_class_name")
    if pipeline != PIPELINE:
        raise CheckpointError(f"{folder} holds no enhancer", expected=PIPELINE, received=pipeline)
    half = torch.float16 if device.type == "cuda" else torch.float32
    unet = read(folder / "unet", lambda path: EnhancerUNet.from_pretrained(path, half)).to(device)
    vae = read(folder / "vae", FrameAutoencoder.from_pretrained).to(device)
    return EnhancerNetworks(unet, vae, _text(folder, device))


def _text(folder: Path, device: torch.device) -> ClipText:
    model = read_network(CLIPTextModel, folder / "text_encoder", torch.float32, stem="model").to(device)
    return ClipText(read(folder / "tokenizer", read_tokenizer), model, model.config.max_position_embeddings)
