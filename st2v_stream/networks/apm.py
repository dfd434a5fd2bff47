"""APM, the appearance preservation module: image tokens of the anchor frame enter every spatial cross-attention.

Paper sec. 4.2, eq. 5; published in the xformers attention processor of branch StreamingModelscope. Per layer, with the
tokens c = concat(text (77), image (16)):

    mixed = LayerNorm(Conv1d(c))         the 93 tokens are the *channels* (93 -> 77), kernel 3 runs along the embedding
    x     = text + SiLU(alpha) * mixed   alpha: one learned scalar per layer, 0 = APM off
    keys and values are made from x

Text and image tokens belong to the chunk, not to a frame, so all frames of a window share one context: queries of all
frames attend to it in one call, and the mixing, keys and values are computed once instead of once per frame (the
published code repeats them 16 times). The numbers are the same.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn


class ApmAttention(Protocol):
    """A diffusers `Attention` that `add_apm` has extended; names as in the published checkpoint."""

    conv: nn.Conv1d
    conv_ln: nn.LayerNorm
    alpha: nn.Parameter


def add_apm(attention: Attention, text_tokens: int, image_tokens: int, width: int, alpha_init: float) -> None:
    """Give a cross-attention its mixing weights `conv`, `conv_ln`, `alpha` (published: 77, 16, 1024, 0)."""
    attention.conv = nn.Conv1d(text_tokens + image_tokens, text_tokens, kernel_size=3, padding="same")
    attention.conv_ln = nn.LayerNorm(width)
    attention.alpha = nn.Parameter(torch.tensor(float(alpha_init)))


def mix_context(attention: ApmAttention, context: Tensor) -> Tensor:
    """(B, text + image, D) -> (B, text, D): text + SiLU(alpha) * LayerNorm(Conv1d(context))."""
    mixed = attention.conv_ln(attention.conv(context))
    return context[:, : mixed.shape[1]] + F.silu(attention.alpha) * mixed


class SharedContextAttention:
    """Attention processor of every spatial cross-attention: one context for all frames, mixed by APM if it has images.

    `hidden_states` (B*F, N, C), `encoder_hidden_states` (B, tokens, D) -> (B*F, N, C).
    """

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object) -> Tensor:
        batch = encoder_hidden_states.shape[0]
        context = encoder_hidden_states
        if hasattr(attn, "conv") and context.shape[1] > attn.conv.out_channels:  # image tokens are present
            context = mix_context(cast(ApmAttention, attn), context)
        query = rearrange(attn.to_q(hidden_states), "(b f) n (heads c) -> b heads (f n) c", b=batch, heads=attn.heads)
        key = rearrange(attn.to_k(context), "b n (heads c) -> b heads n c", heads=attn.heads)
        value = rearrange(attn.to_v(context), "b n (heads c) -> b heads n c", heads=attn.heads)
        out = F.scaled_dot_product_attention(query, key, value)
        out = rearrange(out, "b heads (f n) c -> (b f) n (heads c)", n=hidden_states.shape[1])
        return attn.to_out[1](attn.to_out[0](out))
