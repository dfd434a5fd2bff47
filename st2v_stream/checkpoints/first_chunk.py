"""Base models from their folders, as diffusers stores them -> what makes a film's first chunk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from st2v_stream.checkpoints.bases import ANIMATE_DIFF, MODELSCOPE_T2V, BaseModel
from st2v_stream.checkpoints.parts import read, read_json, read_network, read_tokenizer
from st2v_stream.chunk import Frames
from st2v_stream.direction import Direction
from st2v_stream.errors import CheckpointError
from st2v_stream.generators.conditioning import ClipText
from st2v_stream.generators.firstchunk.animatediff import AnimateDiffFirstChunk, animatediff_scheduler
from st2v_stream.generators.firstchunk.modelscope import ModelscopeFirstChunk
from st2v_stream.generators.firstchunk.svd import SvdFirstChunk
from st2v_stream.generators.firstchunk.text_to_video import TextToVideoParts
from st2v_stream.generators.streamingt2v import WindowMaker
from st2v_stream.networks.sampling import first_chunk_settings, make_sampler
from st2v_stream.types import ModelCard, OnStep


def load_first_chunk(
    base: BaseModel, folders: Mapping[str, Path], card: ModelCard, device: torch.device, dtype: torch.dtype | None = None
) -> WindowMaker:
    """The base from its folders (see `find_base`): in half precision on a GPU, as published; in float32 on a CPU.

    dtype: what it computes in, where that is not where it is loaded. Raises `CheckpointError` naming the folder and its fault.
    """
    dtype = dtype_on(device) if dtype is None else dtype
    if base is MODELSCOPE_T2V:
        return ModelscopeFirstChunk(card, _modelscope_parts(folders["model"], dtype, device))
    if base is ANIMATE_DIFF:
        return AnimateDiffFirstChunk(card, _animatediff_parts(folders["motion_adapter"], folders["model"], dtype, device))
    video = _svd_pipeline(folders["model"], dtype, device)
    image = _sdxl_pipeline(folders["image_model"], dtype, device) if "image_model" in folders else None
    return SvdFirstChunk(card, video, image)


def dtype_on(device: torch.device) -> torch.dtype:
    """What base models compute in on a device."""
    return torch.float16 if device.type == "cuda" else torch.float32


class MissingBase:
    """Implements `WindowMaker` for a model whose base is not here: it continues clips, and says what else it would need."""

    makes_a_picture: Literal[False] = False

    def __init__(self, reason: CheckpointError) -> None:
        self._reason = reason

    def __call__(self, direction: Direction, on_step: OnStep, picture: Frames | None = None) -> Tensor:
        """Raises `CheckpointError`."""
        raise CheckpointError(
            f"a film that does not continue a clip needs a base model: {self._reason.message}",
            expected=self._reason.expected,
            received=self._reason.received,
        )


def _modelscope_parts(folder: Path, dtype: torch.dtype, device: torch.device) -> TextToVideoParts:
    unet = read_network(UNet3DConditionModel, folder / "unet", dtype).to(device)
    scheduler = read(_scheduler_file(folder), lambda path: _usable(first_chunk_settings(read_json(path))))
    return TextToVideoParts(unet, _vae(folder, dtype, device), _text(folder, dtype, device), scheduler)


def _animatediff_parts(adapter: Path, folder: Path, dtype: torch.dtype, device: torch.device) -> TextToVideoParts:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel

    flat = read_network(UNet2DConditionModel, folder / "unet", dtype)
    motion = read_network(MotionAdapter, adapter, dtype)
    unet = read(adapter, lambda _: UNetMotionModel.from_unet2d(flat, motion)).eval().to(device)
    scheduler = read(_scheduler_file(folder), lambda path: _usable(animatediff_scheduler(read_json(path))))
    text = _text(folder, dtype, device)
    return TextToVideoParts(unet, _vae(folder, dtype, device), text, scheduler, text_per_frame=True)


def _svd_pipeline(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    pipeline = StableVideoDiffusionPipeline(
        vae=read_network(AutoencoderKLTemporalDecoder, folder / "vae", dtype),
        image_encoder=read_network(CLIPVisionModelWithProjection, folder / "image_encoder", dtype, stem="model"),
        unet=read_network(UNetSpatioTemporalConditionModel, folder / "unet", dtype),
        scheduler=_scheduler(EulerDiscreteScheduler, folder),
        feature_extractor=read(folder / "feature_extractor", CLIPImageProcessor.from_pretrained),
    )
    return pipeline.to(device, silence_dtype_warnings=True)  # half precision may wait on the CPU for its GPU


def _sdxl_pipeline(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModelWithProjection

    pipeline = StableDiffusionXLPipeline(
        vae=read_network(AutoencoderKL, folder / "vae", dtype),
        text_encoder=read_network(CLIPTextModel, folder / "text_encoder", dtype, stem="model"),
        text_encoder_2=read_network(CLIPTextModelWithProjection, folder / "text_encoder_2", dtype, stem="model"),
        tokenizer=_tokenizer(folder / "tokenizer"),
        tokenizer_2=_tokenizer(folder / "tokenizer_2"),
        unet=read_network(UNet2DConditionModel, folder / "unet", dtype),
        scheduler=_scheduler(EulerDiscreteScheduler, folder),
        add_watermarker=False,
    )
    return pipeline.to(device, silence_dtype_warnings=True)  # half precision may wait on the CPU for its GPU


def _vae(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    return read_network(AutoencoderKL, folder / "vae", dtype).to(device)


def _text(folder: Path, dtype: torch.dtype, device: torch.device) -> ClipText:
    model = read_network(CLIPTextModel, folder / "text_encoder", dtype, stem="model").to(device)
    return ClipText(_tokenizer(folder / "tokenizer"), model, model.config.max_position_embeddings)


def _tokenizer(folder: Path) -> Any:
    return read(folder, tokenizer_from)


def tokenizer_from(folder: Path) -> Any:
    """The tokenizer, padding with what special_tokens_map.json says, as in the published version of transformers (4.39).

    ModelScope's and SDXL's second one pad with token 0 there and with the end token in tokenizer_config.json; newer versions
    believe the latter, and the padding is most of what the networks read. Raises FileNotFoundError, ValueError.
    """
    found, special = read_tokenizer(folder), folder / "special_tokens_map.json"
    pad = read_json(special).get("pad_token") if special.is_file() else None
    if pad is not None:
        found.pad_token = pad["content"] if isinstance(pad, dict) else pad
    return found


def _scheduler(scheduler_class: Any, folder: Path) -> Any:
    return read(_scheduler_file(folder), lambda path: scheduler_class.from_config(read_json(path)))


def _scheduler_file(folder: Path) -> Path:
    return folder / "scheduler" / "scheduler_config.json"


def _usable(settings: dict[str, Any]) -> dict[str, Any]:
    make_sampler(settings, 1)  # says at once what it does not know
    return settings
