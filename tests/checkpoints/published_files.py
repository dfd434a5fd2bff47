"""The published files in miniature: the same layouts and names, tiny networks, random numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from small_networks import SIZES, randomize, small_branch, small_unet
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from st2v_stream.checkpoints.layouts import EnhancerSizes, StreamingSizes
from st2v_stream.networks.cam import ControlBranch
from st2v_stream.networks.enhancer_unet import EnhancerUNetConfig
from st2v_stream.networks.resampler import (
    ImageResampler,
    ImageResamplerConfig,
    OpenClipImageEncoder,
    OpenClipImageEncoderConfig,
)
from st2v_stream.networks.unet import StreamingUNet
from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig

TOKENS = 12
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["!", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
TEXT = {
    "architectures": ["CLIPTextModel"],
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "intermediate_size": 32,
    "projection_dim": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": TOKENS,
    "hidden_act": "gelu",
    "bos_token_id": len(VOCABULARY) - 2,
    "eos_token_id": len(VOCABULARY) - 1,
    "pad_token_id": 0,
}
VAE = FrameAutoencoderConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)


@dataclass
class Networks:
    """What is inside a small `streaming_t2v.ckpt`."""

    base_model: StreamingUNet
    unet: ControlBranch
    image_encoder: OpenClipImageEncoder
    resampler: ImageResampler
    vae: FrameAutoencoder
    text_encoder: nn.Module

    @property
    def sizes(self) -> StreamingSizes:
        return StreamingSizes(
            self.base_model.config,
            self.unet.config,
            self.image_encoder.config,
            self.resampler.config,
            self.vae.config,
            TEXT,
            size=64,
        )


def small_networks() -> Networks:
    """Published features (noisy CAM, pixels, OpenCLIP anchor), sizes of milliseconds."""
    plain = {"in_channels": 4, "frame_positions": False, "images_skip_temporal": False}
    unet = small_unet(**plain, out_channels=4, prediction_type="epsilon", cam_frame_positions=False, cam_key_norm=False)
    branch = small_branch(**plain, cam_features="noisy", condition_channels=(4, 4, 4, 4))
    clip = OpenClipImageEncoder(OpenClipImageEncoderConfig(28, 14, width=16, layers=1, heads=2, output_dim=8)).eval()
    resampler = ImageResampler(ImageResamplerConfig(8, 16, cross_attention_dim=SIZES["cross_attention_dim"])).eval()  # type: ignore[arg-type]
    text = CLIPTextModel(CLIPTextConfig(**TEXT)).eval()
    parts = (unet, branch, clip, resampler, FrameAutoencoder(VAE).eval(), text)
    return Networks(*(randomize(part, seed) for seed, part in enumerate(parts)))  # type: ignore[arg-type]


def lightning_weights(networks: Networks) -> dict[str, Tensor]:
    """The `state_dict` of the Lightning file, with the leftovers of OpenCLIP's text half."""
    named: dict[str, Tensor] = {}
    for prefix in ("base_model", "unet", "image_encoder", "resampler", "vae"):
        named |= {f"{prefix}.{name}": value for name, value in getattr(networks, prefix).state_dict().items()}
    text = networks.text_encoder.state_dict()
    named |= {f"text_encoder.text_model.{name.removeprefix('text_model.')}": value for name, value in text.items()}
    leftovers = {"token_embedding.weight": (99, 8), "positional_embedding": (77, 8), "ln_final.weight": (8,)}
    leftovers |= {"ln_final.bias": (8,), "text_projection": (8, 8), "logit_scale": ()}
    return named | {f"image_encoder.model.{name}": torch.randn(shape) for name, shape in leftovers.items()}


def write_lightning(path: Path, networks: Networks, **changes: Any) -> Path:
    """What Lightning saves: the weights, and the optimizer's moments that nobody needs."""
    weights = lightning_weights(networks) | changes
    moments = {
        number: {"exp_avg": torch.zeros_like(value)}
        for number, value in enumerate(weights.values())
        if isinstance(value, Tensor)
    }
    content = {
        "epoch": 1,
        "global_step": 1000,
        "pytorch-lightning_version": "2.0.9",
        "state_dict": {name: value for name, value in weights.items() if value is not None},
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 5e-5}]}],
        "lr_schedulers": [],
    }
    torch.save(content, path)
    return path


def write_base(folder: Path) -> Path:
    """A base folder with a CLIP vocabulary; like the published one its two settings files disagree about the padding."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(VOCABULARY)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    (tokenizer / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    settings = {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", "model_max_length": 77}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


# ---------------------------------------------------------------- the enhancer

ENHANCER_SIZES = EnhancerSizes(
    unet=EnhancerUNetConfig(
        dim=32, dim_mult=(1, 1, 2), num_res_blocks=1, attn_scales=(1.0, 0.5), num_heads=4, head_dim=8, context_dim=40
    ),
    vae=FrameAutoencoderConfig(block_out_channels=(32,) * 4, layers_per_block=1),
    text=TEXT,
)
"""The sizes of the recorded enhancer (tests/golden, section 4), and a small text tower."""


class OpenClipText(nn.Module):
    """OpenCLIP's text tower under its own names: an independent reading of what the text file holds."""

    def __init__(self) -> None:
        super().__init__()
        width, layers = TEXT["hidden_size"], TEXT["num_hidden_layers"] + 1
        self.token_embedding = nn.Embedding(TEXT["vocab_size"], width)
        self.positional_embedding = nn.Parameter(torch.zeros(TOKENS, width))
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(_TextLayer(width) for _ in range(layers))})
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, width))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.visual = nn.ModuleDict({"conv1": nn.Conv2d(3, width, 14, bias=False)})

    def forward(self, ids: Tensor) -> Tensor:
        """(N, tokens) -> (N, tokens, D): after the last layer but one, then the final norm, as the enhancer reads it."""
        hidden = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)
        for layer in list(self.transformer["resblocks"])[:-1]:  # type: ignore[arg-type]
            hidden = layer(hidden, mask)
        return self.ln_final(hidden)


class _TextLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, TEXT["num_attention_heads"], batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 2 * width), "c_proj": nn.Linear(2 * width, width)})

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        normed = self.ln_1(hidden)
        hidden = hidden + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return hidden + self.mlp["c_proj"](nn.functional.gelu(self.mlp["c_fc"](self.ln_2(hidden))))


def write_enhancer(folder: Path, unet: dict[str, Tensor], text: OpenClipText, vae: dict[str, Tensor]) -> Path:
    """The three files as they are published: .pth with a state_dict, .bin without, .ckpt of Stable Diffusion."""
    folder.mkdir()
    torch.save({"state_dict": unet, "step": 35000}, folder / "non_ema_0035000.pth")
    torch.save(text.state_dict(), folder / "open_clip_pytorch_model.bin")
    stable_diffusion = {f"first_stage_model.{name}": value for name, value in vae.items()}
    stable_diffusion |= {"model.diffusion_model.out.2.bias": torch.zeros(4), "betas": torch.zeros(1000)}
    stable_diffusion |= {"cond_stage_model.model.ln_final.bias": torch.zeros(4), "model_ema.decay": torch.zeros(())}
    torch.save({"state_dict": stable_diffusion, "global_step": 875000}, folder / "v2-1_512-ema-pruned.ckpt")
    return folder


# ---------------------------------------------------------------- a file of some hundred megabytes

WIDE_TEXT = TEXT | {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 8}


def wide_sizes() -> StreamingSizes:
    """The small networks with a text encoder of 202 MB in float32, in tensors of at most 4 MB."""
    return replace(small_networks().sizes, text=WIDE_TEXT)


def write_wide(path: Path) -> Path:
    """A Lightning file of these sizes: as much optimizer state as weights."""
    text = CLIPTextModel(CLIPTextConfig(**WIDE_TEXT))
    return write_lightning(path, replace(small_networks(), text_encoder=text))
