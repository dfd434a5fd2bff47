"""A whole model folder with tiny random weights: 64 x 64 pixels, twelve words, a storybook in everything but sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from small_networks import randomize, small_branch, small_image_encoder, small_unet, small_vae
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from st2v_stream.networks.resampler import (
    ImageResampler,
    ImageResamplerConfig,
    OpenClipImageEncoder,
    OpenClipImageEncoderConfig,
)

WORDS = ("<pad>", "<bos>", "<eos>", "<unk>", "a", "red", "blue", "boat", "cat", "sea", "flies", "hovers")
SCHEDULER = {
    "_class_name": "ContinuousScheduler",
    "noise_schedule": "cosine",
    "prediction_type": "v",
    "shift": 4.0,
    "guidance_rescale": 0.7,
}
DDIM = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
CARD = {
    "name": "small",
    "title": "Small",
    "version": "1",
    "licence": "Apache-2.0",
    "width": 64,
    "height": 64,
    "fps": 8,
    "first_chunk_frames": 16,
    "chunk_frames": 8,
}


def write_model(folder: Path) -> Path:
    """Write the folder and return it."""
    for part, network in (
        ("unet", small_unet()),
        ("cam", small_branch()),
        ("image_encoder", small_image_encoder()),
        ("vae", small_vae()),
    ):
        randomize(network).save_pretrained(folder / part)  # type: ignore[operator]
    randomize(_text_model(), seed=1).save_pretrained(folder / "text_encoder")  # type: ignore[operator]
    _tokenizer().save_pretrained(folder / "tokenizer")
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    write_json(folder / "model_index.json", {"_class_name": "SmallPipeline"})
    write_json(folder / "card.json", CARD)
    return folder


def write_published_model(folder: Path) -> Path:
    """The same with the published parts: OpenCLIP and resampler, pixel-fed CAM, DDIM."""
    write_model(folder)
    clip = OpenClipImageEncoder(OpenClipImageEncoderConfig(28, 14, width=16, layers=1, heads=2, output_dim=8)).eval()
    resampler = ImageResampler(ImageResamplerConfig(8, 16, cross_attention_dim=16)).eval()
    branch = small_branch(cam_features="noisy", condition_channels=(4, 4, 4, 4))
    for part, network in (("image_encoder", clip), ("resampler", resampler), ("cam", branch)):
        randomize(network).save_pretrained(folder / part)  # type: ignore[operator]
    write_json(folder / "scheduler" / "scheduler_config.json", DDIM)
    return folder


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _text_model() -> torch.nn.Module:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=12,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
