"""Every published name at its published size finds its place, and the networks take it strictly (no memory: meta device)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_folder import GOLDEN, read
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from st2v_stream.checkpoints.convert import Source, plan_conversion
from st2v_stream.checkpoints.key_maps import latent_diffusion_vae, place
from st2v_stream.checkpoints.layouts import PUBLISHED_TEXT, Layout, enhancer, streaming_t2v
from st2v_stream.errors import CheckpointError
from st2v_stream.networks.cam import ControlBranch, ControlBranchConfig
from st2v_stream.networks.enhancer_unet import EnhancerUNet, EnhancerUNetConfig
from st2v_stream.networks.folder import load_weights
from st2v_stream.networks.resampler import (
    ImageResampler,
    ImageResamplerConfig,
    OpenClipImageEncoder,
    OpenClipImageEncoderConfig,
)
from st2v_stream.networks.unet import StreamingUNet, StreamingUNetConfig
from st2v_stream.networks.vae import FrameAutoencoder, FrameAutoencoderConfig

Shapes = dict[str, tuple[int, ...]]
LEFTOVERS = {
    "token_embedding.weight",
    "positional_embedding",
    "ln_final.weight",
    "ln_final.bias",
    "text_projection",
    "logit_scale",
}


def published_keys() -> Shapes:
    with (Path(__file__).parent / "streamingt2v_keys.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["dtype"] for row in rows} == {"float32"}
    return {row["key"]: () if row["shape"] == "scalar" else tuple(map(int, row["shape"].split("x"))) for row in rows}


def on_meta(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: StreamingUNet(StreamingUNetConfig()),
    "cam": lambda: ControlBranch(ControlBranchConfig()),
    "image_encoder": lambda: OpenClipImageEncoder(OpenClipImageEncoderConfig()),
    "resampler": lambda: ImageResampler(ImageResamplerConfig()),
    "vae": lambda: FrameAutoencoder(FrameAutoencoderConfig()),
    "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**PUBLISHED_TEXT)),
}


def fill(build: Callable[[], nn.Module], found: dict[str, Source]) -> None:
    with torch.device("meta"):
        network = build()
    prefix = (
        "text_model." if isinstance(network, CLIPTextModel) and "text_model." not in next(iter(network.state_dict())) else ""
    )
    load_weights(network, {name.removeprefix(prefix): source.read() for name, source in found.items()})


@pytest.fixture(scope="module")
def layout() -> Layout:
    return streaming_t2v()


def test_the_whole_published_checkpoint_loads_strictly(layout: Layout) -> None:
    keys = published_keys()
    assert len(keys) == 3407
    plan, left_out = plan_conversion(layout, {layout.files[0]: on_meta(keys)})
    assert {name.removeprefix("image_encoder.model.") for name in left_out} == LEFTOVERS
    assert sum(len(part) for part in plan.values()) == 3407 - len(LEFTOVERS)
    for folder, build in NETWORKS.items():
        fill(build, plan[folder])


def test_older_names_are_taken_too(layout: Layout) -> None:
    """diffusers before 0.18 called the VAE's projections otherwise; transformers before 4.31 stored the positions."""
    keys = published_keys()
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        for name in [name for name in keys if name.startswith("vae.") and f".attentions.0.{new}." in name]:
            keys[name.replace(new, old)] = keys.pop(name)
    keys["text_encoder.text_model.embeddings.position_ids"] = (1, 77)
    plan, left_out = plan_conversion(layout, {layout.files[0]: on_meta(keys)})
    assert len(plan["vae"]) == 248
    assert "text_encoder.text_model.embeddings.position_ids" in left_out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"base_model.conv_in.bias": None}, r"unet: expected 1 more tensors such as \['conv_in.bias'\]"),
        ({"base_model.extra.bias": (3,)}, r"unet: received 1 unknown tensors such as \['extra.bias'\]"),
        ({"image_encoder.model.surprise": (3,)}, r"received 1 unknown tensors such as \['image_encoder.model.surprise'\]"),
        ({"vae.quant_conv.weight": (8, 9, 1, 1)}, r"expected shape \(8, 8, 1, 1\), received \(8, 9, 1, 1\)"),
        ({"vae.decoder.mid_block.attentions.0.key.bias": (512,)}, r"key\.bias and .*to_k\.bias are both vae/"),
    ],
)
def test_what_does_not_fit_is_named(layout: Layout, change: dict[str, Any], expected: str) -> None:
    keys = {name: shape for name, shape in (published_keys() | change).items() if shape is not None}
    with pytest.raises(CheckpointError, match=expected):
        plan_conversion(layout, {layout.files[0]: on_meta(keys)})


# ---------------------------------------------------------------- the enhancer


def official_enhancer_shapes() -> Shapes:
    official = json.loads((GOLDEN / "official_key_shapes.json").read_text())["video_to_video_unet"]
    assert len(official) == 1480
    return {name: tuple(shape) for name, shape in official.items()}


def open_clip_shapes() -> Shapes:
    """ViT-H-14 as published: the two towers, of which the text tower is not in StreamingT2V's file."""
    keys = {
        name.removeprefix("image_encoder.model."): shape for name, shape in published_keys().items() if "image_encoder" in name
    }
    for layer in range(24):
        block = f"transformer.resblocks.{layer}"
        for norm in ("ln_1", "ln_2"):
            keys |= {f"{block}.{norm}.weight": (1024,), f"{block}.{norm}.bias": (1024,)}
        keys |= {f"{block}.attn.in_proj_weight": (3072, 1024), f"{block}.attn.in_proj_bias": (3072,)}
        for name, shape in (("attn.out_proj", (1024, 1024)), ("mlp.c_fc", (4096, 1024)), ("mlp.c_proj", (1024, 4096))):
            keys |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
    return keys


def latent_diffusion_shapes(channels: int, factors: tuple[int, ...], residuals: int) -> Shapes:
    """The autoencoder of latent diffusion under its own names, latents of 4 channels."""
    widths, shapes = [channels * factor for factor in factors], Shapes()

    def conv(name: str, out: int, into: int, size: int) -> None:
        shapes.update({f"{name}.weight": (out, into, size, size), f"{name}.bias": (out,)})

    def norm(name: str, width: int) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    def residual(name: str, into: int, out: int) -> None:
        norm(f"{name}.norm1", into)
        conv(f"{name}.conv1", out, into, 3)
        norm(f"{name}.norm2", out)
        conv(f"{name}.conv2", out, out, 3)
        if into != out:
            conv(f"{name}.nin_shortcut", out, into, 1)

    def middle(name: str, width: int) -> None:
        residual(f"{name}.block_1", width, width)
        residual(f"{name}.block_2", width, width)
        norm(f"{name}.attn_1.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.attn_1.{part}", width, width, 1)

    conv("encoder.conv_in", widths[0], 3, 3)
    before = widths[0]
    for level, width in enumerate(widths):
        for number in range(residuals):
            residual(f"encoder.down.{level}.block.{number}", before, width)
            before = width
        if level < len(widths) - 1:
            conv(f"encoder.down.{level}.downsample.conv", width, width, 3)
    middle("encoder.mid", before)
    norm("encoder.norm_out", before)
    conv("encoder.conv_out", 8, before, 3)
    conv("quant_conv", 8, 8, 1)
    conv("post_quant_conv", 4, 4, 1)
    conv("decoder.conv_in", before, 4, 3)
    middle("decoder.mid", before)
    for level, width in reversed(list(enumerate(widths))):
        for number in range(residuals + 1):
            residual(f"decoder.up.{level}.block.{number}", before, width)
            before = width
        if level > 0:
            conv(f"decoder.up.{level}.upsample.conv", width, width, 3)
    norm("decoder.norm_out", before)
    conv("decoder.conv_out", 3, before, 3)
    return shapes


@pytest.mark.golden
def test_our_list_of_autoencoder_names_is_the_published_one() -> None:
    recorded = {name: tuple(value.shape) for name, value in read("enhancer.weights").items() if name.startswith("autoencoder.")}
    listed = latent_diffusion_shapes(32, (1, 1, 1, 1), 1)
    assert {f"autoencoder.{name}": shape for name, shape in listed.items()} == recorded


@pytest.mark.golden
def test_the_enhancers_three_files_load_strictly() -> None:
    layout = enhancer()
    unet_file, text_file, vae_file = layout.files
    vae = {f"first_stage_model.{name}": shape for name, shape in latent_diffusion_shapes(128, (1, 2, 4, 4), 2).items()}
    around = {"model.diffusion_model.out.2.bias": (4,), "cond_stage_model.model.ln_final.bias": (1024,), "betas": (1000,)}
    tensors = {
        unet_file: on_meta(official_enhancer_shapes()),
        text_file: on_meta(open_clip_shapes()),
        vae_file: on_meta(vae | around),
    }
    plan, left_out = plan_conversion(layout, tensors)
    assert len(plan["unet"]) == 1480
    fill(lambda: EnhancerUNet(EnhancerUNetConfig()), plan["unet"])
    for folder in ("vae", "text_encoder"):
        fill(NETWORKS[folder], plan[folder])
    unused = [name for name in left_out if not name.startswith(("visual.", "transformer.resblocks.23."))]
    assert sorted(unused) == sorted([*around, "text_projection", "logit_scale"])


def test_the_decoder_counts_its_levels_the_other_way_round() -> None:
    name = "first_stage_model.decoder.up.0.block.2.conv1.weight"
    (placed,) = place([name], latent_diffusion_vae(4)).placed
    assert placed.ours == "decoder.up_blocks.3.resnets.2.conv1.weight"
