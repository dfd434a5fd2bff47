"""An enhancer by name or from a folder: the published one, as `st2v convert` made it, or a small one that we have trained.

model_index.json (VideoToVideoPipeline)  unet/  vae/     config.json + diffusion_pytorch_model.safetensors
text_encoder/  tokenizer/                                as transformers writes them
model_index.json (OneStepPipeline)       unet/           config.json + diffusion_pytorch_model.safetensors

A model that brings the enhancer of its films keeps it in its folder `enhancer/`; its name, or its folder, means that one.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import CLIPTextModel

from st2v_stream.checkpoints.load import choose_device
from st2v_stream.checkpoints.models import ENHANCER_FOLDER, find_folder
from st2v_stream.checkpoints.parts import read, read_json, read_network, read_tokenizer
from st2v_stream.enhancers.choice import WITHOUT_WEIGHTS
from st2v_stream.enhancers.lanczos import Lanczos
from st2v_stream.enhancers.onestep import OneStep
from st2v_stream.enhancers.passthrough import Passthrough
from st2v_stream.enhancers.sdedit import EnhancerNetworks, SdEdit, SdEditSettings
from st2v_stream.errors import CheckpointError, UnknownModel
from st2v_stream.generators.conditioning import ClipText
from st2v_stream.networks.enhancer_onestep import OneStepUNet
from st2v_stream.networks.enhancer_unet import EnhancerUNet
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.types import Enhancer

PIPELINE, ONE_STEP_PIPELINE = "VideoToVideoPipeline", "OneStepPipeline"


def load_enhancer(name_or_folder: str | Path, device: str = "auto", settings: SdEditSettings | None = None) -> Enhancer:
    """`passthrough`, `lanczos`, a model that brings an enhancer (`storybook`), or an enhancer's folder.

    settings: of the Video-to-Video networks, None as published. On a GPU their UNet runs in float16, as published; all else
    in float32. Raises `CheckpointError` naming file and fault, `InvalidRequest` for a device that is not there.
    """
    if name_or_folder == "passthrough":
        return Passthrough()
    if name_or_folder == "lanczos":
        return Lanczos()
    folder, place = enhancer_folder(name_or_folder), choose_device(device)
    if _pipeline(folder) == ONE_STEP_PIPELINE:
        return OneStep(read(folder / "unet", OneStepUNet.from_pretrained).to(place))
    return SdEdit(load_networks(folder, place), settings)


def enhancer_folder(name_or_folder: str | Path) -> Path:
    """Where an enhancer's parts lie: the folder itself, or `enhancer/` in a model's. Raises `CheckpointError`."""
    try:
        folder = Path(name_or_folder) if os.path.isdir(name_or_folder) else find_folder(str(name_or_folder))
    except UnknownModel as error:
        expected = f"{', '.join(WITHOUT_WEIGHTS)}, or a folder that st2v convert made"
        raise CheckpointError("no such enhancer", expected=expected, received=str(name_or_folder)) from error
    own = folder / ENHANCER_FOLDER
    return own if own.is_dir() else folder


def load_networks(folder: Path, device: torch.device) -> EnhancerNetworks:
    """The networks of the published enhancer's folder, strictly. Raises `CheckpointError`."""
    pipeline = _pipeline(folder)
    if pipeline != PIPELINE:
        expected = f"{PIPELINE} or {ONE_STEP_PIPELINE}"
        raise CheckpointError(f"{folder} holds no enhancer", expected=expected, received=pipeline)
    half = torch.float16 if device.type == "cuda" else torch.float32
    unet = read(folder / "unet", lambda path: EnhancerUNet.from_pretrained(path, half)).to(device)
    vae = read(folder / "vae", FrameAutoencoder.from_pretrained).to(device)
    return EnhancerNetworks(unet, vae, _text(folder, device))


def _pipeline(folder: Path) -> object:
    return read(folder / "model_index.json", read_json).get("_class_name")


def _text(folder: Path, device: torch.device) -> ClipText:
    model = read_network(CLIPTextModel, folder / "text_encoder", torch.float32, stem="model").to(device)
    return ClipText(read(folder / "tokenizer", read_tokenizer), model, model.config.max_position_embeddings)
