"""From a base and what was trained over it to a model folder as the product loads it (checkpoints/load.py), float16."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from st2v_stream.checkpoints.bases import PIPELINE
from st2v_stream.checkpoints.published import MODELSCOPE
from st2v_stream.networks.folder import FolderModule
from st2v_stream.training.modelscope import Base, ExtenderParts
from st2v_stream.training.parts import TAIL_FRAMES, WINDOW_FRAMES

MODEL_INDEX = {
    "_class_name": PIPELINE,
    "unet": ["st2v_stream.networks.unet", "StreamingUNet"],
    "cam": ["st2v_stream.networks.cam", "ControlBranch"],
    "image_encoder": ["st2v_stream.networks.resampler", "OpenClipImageEncoder"],
    "resampler": ["st2v_stream.networks.resampler", "ImageResampler"],
    "vae": ["st2v_stream.networks.vae", "FrameAutoencoder"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}
_EXTENDED = {"num_inference_steps": 50, "guidance_scale": 7.5, "first_chunk_guidance_scale": 9.0}
PRESETS = {"published": _EXTENDED, "default": _EXTENDED, "live": _EXTENDED | {"num_inference_steps": 25}}
"""Steps and guidance of the published pipeline, which ignores its own flags for them; live takes half the steps."""

LICENCE = "the base's (ModelScope's is CC BY-NC 4.0)"


def model_card(base: Base, captions: Sequence[str], *, name: str, fps: float) -> dict[str, Any]:
    """card.json; `captions`: of the clips it was trained on."""
    different = list(dict.fromkeys(captions))
    return {
        "name": name,
        "title": name.capitalize(),
        "version": "1",
        "description": f"CAM, APM and resampler trained on {len(captions)} clips over {base.folder.name}.",
        "licence": LICENCE,
        "width": base.width,
        "height": base.height,
        "fps": max(1, round(fps)),
        "first_chunk_frames": WINDOW_FRAMES,
        "chunk_frames": WINDOW_FRAMES - TAIL_FRAMES,
        "example_prompts": different[:6],
        "presets": PRESETS,
    }


def export(base: Base, parts: ExtenderParts, card: dict[str, Any], folder: Path) -> None:
    """Write the model folder beside its place and put it there; one that was there before is replaced."""
    half = folder.with_name(f".{folder.name}.{os.getpid()}.half")
    shutil.rmtree(half, ignore_errors=True)
    _write(base, parts, card, half)
    if folder.exists():
        shutil.rmtree(folder)
    half.rename(folder)


def link_base(base: Base, model: Path) -> bool:
    """Put a link to the base beside the model's folder, under the name by which its first chunks are looked for there.

    Returns whether it is there: not every file system has links.
    """
    link = model.parent / MODELSCOPE.name
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(base.folder.resolve(), target_is_directory=True)
    except OSError:
        return False
    return True


def _write(base: Base, parts: ExtenderParts, card: dict[str, Any], folder: Path) -> None:
    networks: dict[str, FolderModule[Any]] = {"unet": parts.unet, "cam": parts.cam, "resampler": parts.resampler}
    networks |= {"vae": base.vae, "image_encoder": base.image_encoder}
    for name, network in networks.items():
        network.save_pretrained(folder / name, dtype=torch.float16)
    state = {name: value.half() for name, value in base.text.model.state_dict().items()}
    base.text.model.save_pretrained(folder / "text_encoder", state_dict=state)
    base.text.tokenizer.save_pretrained(folder / "tokenizer")
    _write_json(folder / "scheduler" / "scheduler_config.json", base.scheduler)
    _write_json(folder / "model_index.json", MODEL_INDEX)
    _write_json(folder / "card.json", card)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for its owner alone


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
