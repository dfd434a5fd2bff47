"""The first chunk from the film's own UNet: without CAM and APM it is a plain text-to-video model (paper sec. 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from st2v_stream.direction import Direction
from st2v_stream.generators.streamingt2v import Networks, decode_window, guidance_of, latents_shape, text_rows
from st2v_stream.networks.ar_step import ChunkConditions, extend
from st2v_stream.networks.sampling import first_chunk_settings, make_sampler, noise_at
from st2v_stream.types import ModelCard, OnStep


class StorybookFirstChunk:
    """Implements `FirstChunkMaker`."""

    def __init__(self, card: ModelCard, networks: Networks) -> None:
        self._spec, self._networks = card.spec, networks

    @torch.inference_mode()
    def __call__(self, direction: Direction, on_step: OnStep) -> Tensor:
        """-> (16, 3, H, W) float32 in [0, 1]. Raises `Stopped`."""
        networks = self._networks
        guidance = guidance_of(direction, networks.scheduler)
        init = noise_at(direction.seed, 0, "init", latents_shape(self._spec, networks.unet, networks.vae))
        latents = extend(
            networks.unet,
            None,
            ChunkConditions(text_rows(networks.text, direction, guidance)),
            make_sampler(first_chunk_settings(networks.scheduler), direction.num_inference_steps),
            guidance,
            init.to(networks.unet.device),
            lambda k: noise_at(direction.seed, 0, f"step:{k}", tuple(init.shape)).to(networks.unet.device),
            on_step,
        )
        return decode_window(networks.vae, latents)
