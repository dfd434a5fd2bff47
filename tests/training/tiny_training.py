"""Everything the training needs, small enough for a test."""

from __future__ import annotations

import dataclasses

import torch

from st2v_stream.training.denoising import BaseStage, CamApmStage
from st2v_stream.training.parts import CAM_CONFIG, IMAGE_ENCODER_CONFIG, UNET_CONFIG, Parts
from st2v_stream.training.pool import LatentPool
from st2v_stream.training.recipe import BaseRecipe, CamApmRecipe, DiffusionRecipe
from st2v_stream.training.text import new_tokenizer, tokenize

SMALL = {"block_out_channels": (16, 16), "attention_head_dim": 8, "norm_num_groups": 8}


def tiny_parts() -> Parts:
    return Parts(
        dataclasses.replace(UNET_CONFIG, **SMALL, cam_head_dim=8),
        dataclasses.replace(CAM_CONFIG, **SMALL),
        dataclasses.replace(IMAGE_ENCODER_CONFIG, widths=(8, 8)),
    )


def tiny_pool(films: int = 3) -> LatentPool:
    """Flat latents, one colour per film: learnable in seconds."""
    rng = torch.Generator().manual_seed(0)
    still = torch.randn((films, 1, 12, 1, 1), generator=rng)

    def frames(count: int) -> torch.Tensor:
        return still.expand(films, count, 12, 8, 8).half().clone()

    captions = [
        "a red boat hovers over the sea",
        "a blue cat bounces above the meadow",
        "a green car flies up in the night sky",
    ]
    return LatentPool(tokenize(new_tokenizer(), captions[:films]), frames(16), frames(16), frames(8), frames(2))


def base_stage() -> BaseStage:
    return BaseStage(tiny_parts(), tiny_pool(), tiny_pool(), DiffusionRecipe(), recipe=BaseRecipe(batch=8), seed=0)


def cam_apm_stage() -> CamApmStage:
    recipe = CamApmRecipe(batch=2, spatial_rate=1.0, timestep_shift=1.5, image_share=0.2, start_share=0.5)
    return CamApmStage(tiny_parts(), tiny_pool(), tiny_pool(), DiffusionRecipe(), recipe=recipe, seed=0)
