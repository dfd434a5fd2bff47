"""From a checkpoint to a model folder in the diffusers layout: float16 safetensors, a tokenizer and a torch-free card."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextModel

from st2v_stream.networks.cam import ControlBranch
from st2v_stream.networks.resampler import LatentImageEncoder
from st2v_stream.networks.unet import StreamingUNet
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training.noise import scheduler_settings
from st2v_stream.training.parts import TAIL_FRAMES, WINDOW_FRAMES, Parts
from st2v_stream.training.text import new_tokenizer
from st2v_stream.worlds import captions

MODEL_INDEX = {
    "_class_name": "StorybookPipeline",
    "unet": ["st2v_stream.networks.unet", "StreamingUNet"],
    "cam": ["st2v_stream.networks.cam", "ControlBranch"],
    "image_encoder": ["st2v_stream.networks.resampler", "LatentImageEncoder"],
    "vae": ["st2v_stream.networks.vae", "FrameAutoencoder"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "scheduler": ["st2v_stream.networks.sampling", "ContinuousSampler"],
}
DESCRIPTION = "Flat story-book scenes with one moving subject; trained from nothing on two CPU cores."
EXAMPLE_PROMPTS = (
    "a red boat drifts left over the sea",
    "an orange cat bounces above the meadow",
    "a purple rocket flies up above the meadow",
    "a green fish drifts right across the desert",
    "a blue fish hovers over the sea",
    "a yellow ball bounces over the snow field",
)
FIRST_PICTURE = {"first_chunk_num_inference_steps": 8, "first_chunk_guidance_scale": 3.0}  # one frame costs little
GUIDED_PRESETS = {
    "live": {
        "num_inference_steps": 2,
        "guidance_scale": 1.0,
        **FIRST_PICTURE,
    },
    "default": {"num_inference_steps": 6, "guidance_scale": 1.0, **FIRST_PICTURE},
    "published": {"num_inference_steps": 50, "guidance_scale": 2.0},
}
# After distilling nothing is guided: the weights already predict what guidance led to, and guiding that once more
# over-saturates. They know the times of 2 and 3 steps and no others, so `default` takes the most they know.
# `published` keeps its arithmetic and its draws, but its 50 steps are for weights that were not distilled.
DISTILLED_PRESETS = {
    "live": {
        "num_inference_steps": 2,
        "guidance_scale": 1.0,
        **FIRST_PICTURE,
    },
    "default": {
        "num_inference_steps": 3,
        "guidance_scale": 1.0,
        **FIRST_PICTURE,
    },
    "published": {
        "num_inference_steps": 3,
        "guidance_scale": 1.0,
        **FIRST_PICTURE,
    },
}
PRESETS_OF_STAGE = {"base": GUIDED_PRESETS, "cam-apm": GUIDED_PRESETS, "distil": DISTILLED_PRESETS}


def scheduler_of_stage(stage: str) -> dict[str, Any]:
    """Distilled weights predict for DDIM: the second order corrects for what a step leaves out, which they already put in."""
    return scheduler_settings() | ({"solver_order": 1} if stage == "distil" else {})


def model_card(size: int = 64, *, presets: dict[str, dict[str, float]] = GUIDED_PRESETS) -> dict[str, Any]:
    """card.json: what the server tells about the model without loading it."""
    return {
        "name": "storybook",
        "title": "Storybook",
        "version": "third version",
        "description": DESCRIPTION,
        "licence": "Apache-2.0",
        "width": size,
        "height": size,
        "fps": 8,
        "first_chunk_frames": WINDOW_FRAMES,
        "chunk_frames": WINDOW_FRAMES - TAIL_FRAMES,
        "vocabulary": captions.vocabulary_by_kind(),
        "example_prompts": list(EXAMPLE_PROMPTS),
        "presets": presets,
    }


def export(
    parts: Parts,
    vae: FrameAutoencoder,
    folder: Path,
    *,
    card: dict[str, Any] | None = None,
    scheduler: dict[str, Any] | None = None,
    base: Parts | None = None,
) -> None:
    """Write the model folder beside its place and swap it in: nobody ever reads half a model.

    base: the image model that paints first pictures, if it is not the same.

    Files in an existing folder that an export does not write (README.md) are kept.
    """
    half = folder.with_name(f".{folder.name}.{os.getpid()}.half")
    shutil.rmtree(half, ignore_errors=True)
    if folder.exists():
        shutil.copytree(folder, half)
    _write(parts, vae, half, card or model_card(), scheduler or scheduler_settings())
    if base is not None:
        _write_base(base, half)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        folder.rename(old)
        half.rename(folder)
        shutil.rmtree(old)
    else:
        half.rename(folder)


def load_export(folder: Path) -> tuple[Parts, FrameAutoencoder]:
    """The networks of an exported folder, for measuring what was shipped."""
    parts = Parts()
    parts.unet = StreamingUNet.from_pretrained(folder / "unet")
    parts.cam = ControlBranch.from_pretrained(folder / "cam")
    parts.image_encoder = LatentImageEncoder.from_pretrained(folder / "image_encoder")
    parts.text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    return parts.eval(), FrameAutoencoder.from_pretrained(folder / "vae")


def _write(parts: Parts, vae: FrameAutoencoder, folder: Path, card: dict[str, Any], scheduler: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("unet", "cam", "image_encoder"):
        getattr(parts, name).save_pretrained(folder / name, dtype=torch.float16)
    vae.save_pretrained(folder / "vae", dtype=torch.float16)
    _half_copy(parts.text_encoder).save_pretrained(folder / "text_encoder")
    new_tokenizer().save_pretrained(folder / "tokenizer")
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    _write_json(folder / "model_index.json", MODEL_INDEX)
    _write_json(folder / "card.json", card)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for its owner alone


def _write_base(base: Parts, folder: Path) -> None:
    """The image model without what images never use: CAM and APM."""
    unet = StreamingUNet(dataclasses.replace(base.unet.config, num_control_frames=0, image_tokens=0))
    weights = base.unet.state_dict()
    unet.load_state_dict({name: weights[name] for name in unet.state_dict()})
    unet.save_pretrained(folder / "base_unet", dtype=torch.float16)
    _half_copy(base.text_encoder).save_pretrained(folder / "base_text_encoder")
    index = MODEL_INDEX | {f"base_{name}": MODEL_INDEX[name] for name in ("unet", "text_encoder")}
    _write_json(folder / "model_index.json", index)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def load_base(folder: Path) -> Parts:
    """The image model of an exported folder; CAM and APM of what comes back are new."""
    if not (folder / "base_unet").is_dir():
        return load_export(folder)[0]
    parts = Parts()
    parts.unet.load_state_dict(StreamingUNet.from_pretrained(folder / "base_unet").state_dict(), strict=False)
    parts.text_encoder = CLIPTextModel.from_pretrained(folder / "base_text_encoder", dtype=torch.float32)
    return parts.eval()


def _half_copy(module: torch.nn.Module) -> torch.nn.Module:
    copy = type(module)(module.config)
    copy.load_state_dict(module.state_dict())
    return copy.half()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
