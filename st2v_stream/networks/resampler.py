"""From the anchor frame to image tokens for APM: the published image embedder and resampler, and a small encoder.

Published (paper sec. 4.2): OpenCLIP ViT-H-14 pooled embedding (not normalised) -> MLP -> 16 tokens. The small one
(`LatentImageEncoder`) makes its tokens from the anchor's VAE latent, one token per position of the halved grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from st2v_stream.networks.folder import FolderModule

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Leftovers of OpenCLIP's text half in the published checkpoint (`image_encoder.model.*`): never used, not loaded.
DROPPED_PREFIXES = ("token_embedding", "positional_embedding", "ln_final", "text_projection", "logit_scale")


@dataclass(frozen=True)
class OpenClipImageEncoderConfig:
    """The visual tower of ViT-H-14 (`laion2b_s32b_b79k`), 632 M parameters."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1280
    layers: int = 32
    heads: int = 16
    mlp_ratio: float = 4.0
    output_dim: int = 1024


class _ResidualAttention(nn.Module):
    """Pre-norm transformer block with OpenCLIP's names."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, mlp_width), "c_proj": nn.Linear(mlp_width, width)})

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.ln_1(hidden)
        hidden = hidden + self.attn(normed, normed, normed, need_weights=False)[0]
        return hidden + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(hidden))))


class _Visual(nn.Module):
    """Vision transformer -> projected class token."""

    def __init__(self, config: OpenClipImageEncoderConfig) -> None:
        super().__init__()
        width, patch = config.width, config.patch_size
        patches = (config.image_size // patch) ** 2
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(patches + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        blocks = [_ResidualAttention(width, config.heads, int(width * config.mlp_ratio)) for _ in range(config.layers)]
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(blocks)})
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, config.output_dim))

    def forward(self, images: Tensor) -> Tensor:
        tokens = rearrange(self.conv1(images), "b c h w -> b (h w) c")
        first = repeat(self.class_embedding, "c -> b 1 c", b=images.shape[0])
        hidden = self.ln_pre(torch.cat([first, tokens], dim=1) + self.positional_embedding)
        for block in self.transformer["resblocks"]:  # type: ignore[union-attr]
            hidden = block(hidden)
        return self.ln_post(hidden[:, 0]) @ self.proj


class OpenClipImageEncoder(FolderModule[OpenClipImageEncoderConfig]):
    """(N, 3, H, W) in [-1, 1] -> (N, 1024) embeddings, not normalised. Published keys `image_encoder.model.visual.*`."""

    config_class = OpenClipImageEncoderConfig

    def __init__(self, config: OpenClipImageEncoderConfig) -> None:
        super().__init__(config)
        self.model = nn.ModuleDict({"visual": _Visual(config)})

    def forward(self, images: Tensor) -> Tensor:
        return self.model["visual"](preprocess(images, self.config.image_size))


def preprocess(images: Tensor, size: int = 224) -> Tensor:
    """(N, 3, H, W) in [-1, 1] -> (N, 3, size, size), CLIP-normalised; aspect ratio not kept, values not clamped.

    Bicubic with align_corners, a Gaussian blur before it when shrinking: what the published code calls in kornia 0.7.
    """
    factors = (images.shape[-2] / size, images.shape[-1] / size)
    if max(factors) > 1:
        images = _gaussian_blur(images, factors)
    images = F.interpolate(images, size=(size, size), mode="bicubic", align_corners=True)
    mean = torch.tensor(CLIP_MEAN, device=images.device, dtype=images.dtype).view(3, 1, 1)
    std = torch.tensor(CLIP_STD, device=images.device, dtype=images.dtype).view(3, 1, 1)
    return ((images + 1) / 2 - mean) / std


def _gaussian_blur(images: Tensor, factors: tuple[float, float]) -> Tensor:
    """Separable blur, sigma = (factor - 1) / 2 (at least 0.001) per axis, mirrored at the border."""
    rows, columns = (_gaussian_kernel(factor).to(images) for factor in factors)
    channels = images.shape[1]
    pad_rows, pad_columns = len(rows) // 2, len(columns) // 2
    images = F.pad(images, (pad_columns, pad_columns, pad_rows, pad_rows), mode="reflect")
    images = F.conv2d(images, repeat(columns, "k -> c 1 1 k", c=channels), groups=channels)
    return F.conv2d(images, repeat(rows, "k -> c 1 k 1", c=channels), groups=channels)


def _gaussian_kernel(factor: float) -> Tensor:
    sigma = max((factor - 1) / 2, 0.001)
    size = int(max(4 * sigma, 3)) | 1  # made odd
    offsets = torch.arange(size, dtype=torch.float32) - size // 2
    weights = torch.exp(-(offsets**2) / (2 * sigma**2))
    return weights / weights.sum()


@dataclass(frozen=True)
class ImageResamplerConfig:
    """Published sizes: 22.3 M parameters."""

    embedding_dim: int = 1024
    inner_dim: int = 1280
    cross_attention_dim: int = 1024
    image_tokens: int = 16


class ImageResampler(FolderModule[ImageResamplerConfig]):
    """Image embeddings -> tokens for APM. Published keys `resampler.context_embedding.{0,2}`."""

    config_class = ImageResamplerConfig

    def __init__(self, config: ImageResamplerConfig) -> None:
        super().__init__(config)
        self.context_embedding = nn.Sequential(
            nn.Linear(config.embedding_dim, config.inner_dim),
            nn.SiLU(),
            nn.Linear(config.inner_dim, config.image_tokens * config.cross_attention_dim),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, anchors, D) -> (B, 16, D'); embeddings of several anchors are averaged first (published: one anchor)."""
        tokens = self.context_embedding(embeddings.mean(dim=1))
        return rearrange(tokens, "b (n d) -> b n d", n=self.config.image_tokens)


@dataclass(frozen=True)
class LatentImageEncoderConfig:
    """Sizes of the small encoder; image_tokens = (h / 2) * (w / 2) of the latent."""

    latent_channels: int = 12
    widths: tuple[int, int] = (64, 96)
    cross_attention_dim: int = 64
    image_tokens: int = 16


class LatentImageEncoder(FolderModule[LatentImageEncoderConfig]):
    """The anchor's VAE latent -> image tokens, for models too small to carry a CLIP (config `image_encoder: latent`)."""

    config_class = LatentImageEncoderConfig

    def __init__(self, config: LatentImageEncoderConfig) -> None:
        super().__init__(config)
        first, second = config.widths
        self.conv_1 = nn.Conv2d(config.latent_channels, first, kernel_size=3, padding=1)
        self.conv_2 = nn.Conv2d(first, second, kernel_size=3, padding=1, stride=2)
        self.conv_3 = nn.Conv2d(second, config.cross_attention_dim, kernel_size=1)
        self.norm = nn.LayerNorm(config.cross_attention_dim)
        self.positions = nn.Parameter(0.2 * torch.randn(config.image_tokens, config.cross_attention_dim))
        self.null = nn.Parameter(torch.zeros(config.image_tokens, config.cross_attention_dim))

    def forward(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) normalised latents of the anchor -> (B, image tokens, D)."""
        hidden = self.conv_3(F.silu(self.conv_2(F.silu(self.conv_1(latents)))))
        return self.norm(rearrange(hidden, "b c h w -> b (h w) c")) + self.positions

    def null_tokens(self, batch: int = 1) -> Tensor:
        """(B, image tokens, D): the unconditional half of guidance, and anchors dropped in training."""
        return repeat(self.null, "n d -> b n d", b=batch)
