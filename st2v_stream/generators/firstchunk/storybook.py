"""The first picture from the film's own UNet: a window of one frame passes no temporal layer, no CAM and no APM.

As with SVD in the published pipeline a picture comes first and is then set in motion (`StreamingT2V` does that): where the
thing is, the picture says; which way it goes, the prompt. A small network learns these one after the other much faster
than a whole clip from nothing (docs/storybook.md).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from st2v_stream.direction import Direction
from st2v_stream.generators.streamingt2v import Networks, decode_window, guidance_of, latents_shape, text_rows
from st2v_stream.networks.ar_step import ChunkConditions, extend
from st2v_stream.networks.sampling import first_chunk_settings, make_sampler, noise_at
from st2v_stream.types import ModelCard, OnStep


class StorybookFirstChunk:
    """Implements `PictureMaker`."""

    makes_a_picture: Literal[True] = True

    def __init__(self, card: ModelCard, networks: Networks) -> None:
        self._spec, self._networks = card.spec, networks

    @torch.inference_mode()
    def __call__(self, direction: Direction, on_step: OnStep) -> Tensor:
        """-> (1, 3, H, W) float32 in [0, 1]. Raises `Stopped`."""
        networks = self._networks
        guidance = guidance_of(direction, networks.scheduler)
        batch, channels, _, height, width = latents_shape(self._spec, networks.unet, networks.vae)
        shape = (batch, channels, 1, height, width)
        latents = extend(
            networks.unet,
            None,
            ChunkConditions(text_rows(networks.text, direction, guidance)),
            make_sampler(first_chunk_settings(networks.scheduler), direction.num_inference_steps),
            guidance,
            noise_at(direction.seed, 0, "init", shape).to(networks.unet.device),
            lambda k: noise_at(direction.seed, 0, f"step:{k}", shape).to(networks.unet.device),
            on_step,
        )
        return decode_window(networks.vae, latents)
