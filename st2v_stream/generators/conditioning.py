"""What a prompt and an anchor frame become before they reach the UNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from st2v_stream.networks.resampler import ImageResampler, LatentImageEncoder, OpenClipImageEncoder
from st2v_stream.networks.vae import FrameAutoencoder


class TextEncoder(Protocol):
    """Texts -> (N, tokens, D)."""

    def __call__(self, texts: Sequence[str]) -> Tensor: ...


class ClipText:
    """A tokenizer and a `CLIPTextModel`: last hidden state after the final norm, padded to a fixed length."""

    def __init__(self, tokenizer: Any, model: Any, max_tokens: int) -> None:
        self.tokenizer, self.model, self.max_tokens = tokenizer, model, max_tokens

    def __call__(self, texts: Sequence[str]) -> Tensor:
        ids = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).input_ids
        return self.model(ids.to(self.model.device)).last_hidden_state  # no padding mask, as published


def blend_prompts(encode: TextEncoder, prompts: Sequence[tuple[str, float]]) -> Tensor:
    """((text, weight), ...) -> (1, tokens, D): the weighted mean of the embeddings; one prompt is itself, to the bit."""
    embeds = encode([text for text, _ in prompts])
    if len(prompts) == 1:
        return embeds
    weights = torch.tensor([weight for _, weight in prompts], device=embeds.device, dtype=embeds.dtype)
    return torch.einsum("n,ntd->td", weights / weights.sum(), embeds)[None]


class AnchorEncoder(Protocol):
    """The frame APM looks at -> image tokens; and the tokens of "no anchor" for the unconditional half."""

    def __call__(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] -> (N, image tokens, D)."""
        ...

    def none(self, like: Tensor) -> Tensor:
        """(1, image tokens, D); `like`: anchor frames of the film's size."""
        ...


class OpenClipAnchor:
    """As published: CLIP embedding, resampler; "no anchor" is an all-zero, mid-grey image."""

    def __init__(self, encoder: OpenClipImageEncoder, resampler: ImageResampler) -> None:
        self.encoder, self.resampler = encoder, resampler

    def __call__(self, frames: Tensor) -> Tensor:
        return self.resampler(self.encoder(frames)[:, None])

    def none(self, like: Tensor) -> Tensor:
        return self(torch.zeros_like(like[:1]))


class LatentAnchor:
    """For small models: tokens of the frame's VAE latent; "no anchor" is learned."""

    def __init__(self, encoder: LatentImageEncoder, vae: FrameAutoencoder) -> None:
        self.encoder, self.vae = encoder, vae

    def __call__(self, frames: Tensor) -> Tensor:
        return self.encoder(self.vae.encode(frames))

    def none(self, like: Tensor) -> Tensor:
        return self.encoder.null_tokens(1)
