"""The published base models in miniature: folders as diffusers and transformers write them, random weights, 64 x 64 films.

They lie beside the model under their published names, as `st2v pull` puts them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    DDIMScheduler,
    EulerDiscreteScheduler,
    MotionAdapter,
    PNDMScheduler,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from small_model import WORDS, _tokenizer, write_json, write_published_model
from small_networks import randomize
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from st2v_stream.checkpoints.bases import PIPELINE

MODELSCOPE, ADAPTER = "text-to-video-ms-1.7b", "animatediff-motion-adapter-v1-5-2"
REALISTIC, VIDEO, PICTURE = "Realistic_Vision_V5.1_noVAE", "stable-video-diffusion-img2vid-xt", "stable-diffusion-xl-base-1.0"
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
FLAT = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def write_streaming_model(home: Path) -> Path:
    """home/streaming-t2v, which needs a base; returns it."""
    folder = write_published_model(home / "streaming-t2v")
    write_json(folder / "model_index.json", {"_class_name": PIPELINE})
    return folder


def write_modelscope(home: Path) -> Path:
    """home/text-to-video-ms-1.7b."""
    folder = home / MODELSCOPE
    unet = UNet3DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=8,
    )
    _save(folder / "unet", unet)
    _save(folder / "vae", _vae())
    _save(folder / "text_encoder", CLIPTextModel(_text_config()))
    _write_tokenizer(folder / "tokenizer")
    DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False).save_pretrained(folder / "scheduler")
    return folder


def write_animatediff(home: Path) -> Path:
    """home/animatediff-motion-adapter-v1-5-2 and home/Realistic_Vision_V5.1_noVAE (96 x 96); returns the latter."""
    folder = home / REALISTIC
    adapter = MotionAdapter(
        block_out_channels=FLAT["block_out_channels"],
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
        motion_max_seq_length=16,
    )
    _save(home / ADAPTER, adapter, keep="pos_embed")
    _save(folder / "unet", UNet2DConditionModel(**FLAT, sample_size=12, cross_attention_dim=16))
    _save(folder / "vae", _vae())
    _save(folder / "text_encoder", CLIPTextModel(_text_config()))
    _write_tokenizer(folder / "tokenizer")
    PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False).save_pretrained(folder / "scheduler")
    return folder


def write_svd(home: Path) -> Path:
    """home/stable-video-diffusion-img2vid-xt: canvas 128 x 72; returns it."""
    folder = home / VIDEO
    unet = UNetSpatioTemporalConditionModel(
        sample_size=12,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",),
        up_block_types=("CrossAttnUpBlockSpatioTemporal",),
        block_out_channels=(32,),
        layers_per_block=1,
        num_attention_heads=(2,),
        cross_attention_dim=16,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        num_frames=18,
    )
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 4,
        block_out_channels=(32,) * 4,
        layers_per_block=1,
        latent_channels=4,
        sample_size=96,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,
        patch_size=112,
        projection_dim=16,
    )
    _save(folder / "unet", unet)
    _save(folder / "vae", vae)
    _save(folder / "image_encoder", CLIPVisionModelWithProjection(vision))
    CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
    euler = EulerDiscreteScheduler(
        **BETAS,
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
    )
    euler.save_pretrained(folder / "scheduler")
    return folder


def write_sdxl(home: Path) -> Path:
    """home/stable-diffusion-xl-base-1.0: pictures of 64 x 64; returns it."""
    folder = home / PICTURE
    unet = UNet2DConditionModel(
        **FLAT,
        sample_size=8,
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    _save(folder / "unet", unet)
    _save(folder / "vae", _vae())
    _save(folder / "text_encoder", CLIPTextModel(_text_config()))
    _save(folder / "text_encoder_2", CLIPTextModelWithProjection(_text_config()))
    for name in ("tokenizer", "tokenizer_2"):
        _write_tokenizer(folder / name)
    EulerDiscreteScheduler(**BETAS, timestep_spacing="leading").save_pretrained(folder / "scheduler")
    return folder


def _save(folder: Path, network: Any, keep: str = "no such name") -> None:
    """With random numbers in every tensor but those named `keep`, small enough that a few steps stay finite."""
    kept = {name: value.clone() for name, value in network.state_dict().items() if keep in name}
    randomize(network)
    with torch.no_grad():
        network.load_state_dict({**network.state_dict(), **kept})
    network.save_pretrained(folder)


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
    )


def _text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def _write_tokenizer(folder: Path) -> None:
    """Padding: the end token by tokenizer_config.json, token 0 by special_tokens_map.json, as ModelScope's."""
    tokenizer = _tokenizer()
    tokenizer.model_max_length = 12
    tokenizer.pad_token = "<eos>"
    tokenizer.save_pretrained(folder)
    write_json(folder / "special_tokens_map.json", {"pad_token": "<pad>"})
