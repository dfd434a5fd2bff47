"""Everything the training needs, small enough for a test."""

from __future__ import annotations

import dataclasses

import torch

from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training.denoising import BaseStage, CamApmStage
from st2v_stream.training.distil import DistilStage
from st2v_stream.training.parts import CAM_CONFIG, IMAGE_ENCODER_CONFIG, UNET_CONFIG, Parts
from st2v_stream.training.pool import LatentPool
from st2v_stream.training.recipe import BaseRecipe, CamApmRecipe, DiffusionRecipe, DistilRecipe
from st2v_stream.training.text import new_tokenizer, tokenize
from st2v_stream.training.vae import TRAINING_CONFIG

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
    recipe = CamApmRecipe(batch=2, spatial_rate=1.0, timestep_shift=1.5, blind_share=0.3, start_share=0.5)
    return CamApmStage(tiny_parts(), tiny_pool(), tiny_pool(), DiffusionRecipe(), recipe=recipe, seed=0)


def tiny_autoencoder() -> FrameAutoencoder:
    """Untrained, with the story-book's latents."""
    config = dataclasses.replace(TRAINING_CONFIG, block_out_channels=(8, 8), latents_mean=(0.0,) * 12, latents_std=(1.0,) * 12)
    torch.manual_seed(0)
    return FrameAutoencoder(config).eval().requires_grad_(False)


TINY_DISTIL = DistilRecipe(
    batch=2, image_batch=4, chains=4, chain_chunks=3, image_share=0.25, drift_share=0.35, teacher_steps=4, image_teacher_steps=8
)


def distil_stage(recipe: DistilRecipe = TINY_DISTIL) -> DistilStage:
    """Teacher and student begin as untrained networks that predict something: training from 0 has nothing to distil."""
    parts = tiny_parts()
    torch.manual_seed(1)
    torch.nn.init.normal_(parts.unet.conv_out.weight, std=0.1)
    return DistilStage(parts, tiny_pool(), tiny_pool(), DiffusionRecipe(), recipe=recipe, vae=tiny_autoencoder(), seed=0)
