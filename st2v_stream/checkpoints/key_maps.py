"""Which published tensor becomes which of ours: one table per published file.

A table is read from top to bottom and the first row whose expression fits the whole published name decides. What fits no
row is unknown, and unknown is an error; what is left out on purpose has a row that says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    published: expression for whole published names. part: the sub-folder the tensor goes to, None = left out (see `why`).
    ours: its name there (`\\1` ... from the expression); several names: the tensor is cut into as many equal pieces along
    its first dimension. as_matrix: the weight of a 1x1 convolution becomes that of the same linear layer.
    """

    published: str
    part: str | None
    ours: tuple[str, ...] = (r"\1",)
    as_matrix: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Placed:
    """Tensor `ours` of `part` is piece `piece` of `pieces` of the tensor `published`."""

    part: str
    ours: str
    published: str
    piece: int = 0
    pieces: int = 1
    as_matrix: bool = False

    def shape(self, published: tuple[int, ...]) -> tuple[int, ...]:
        """Our shape, from the shape of the published tensor."""
        if self.as_matrix and len(published) > 2 and set(published[2:]) == {1}:
            published = published[:2]
        if self.pieces > 1 and published and published[0] % self.pieces == 0:
            return (published[0] // self.pieces, *published[1:])
        return published


@dataclass(frozen=True, slots=True)
class Placement:
    """A whole file sorted by a table: what goes where, what is left out on purpose, what no row knows."""

    placed: tuple[Placed, ...]
    left_out: tuple[str, ...]
    unknown: tuple[str, ...]


def place(names: Iterable[str], table: Sequence[Row]) -> Placement:
    """Sort published names by a table."""
    rows = [(re.compile(row.published), row) for row in table]
    placed: list[Placed] = []
    left_out: list[str] = []
    unknown: list[str] = []
    for name in names:
        found = next(((match, row) for expression, row in rows if (match := expression.fullmatch(name))), None)
        if found is None:
            unknown.append(name)
        elif found[1].part is None:
            left_out.append(name)
        else:
            placed += _pieces(name, *found)
    return Placement(tuple(placed), tuple(left_out), tuple(unknown))


def _pieces(name: str, match: re.Match[str], row: Row) -> list[Placed]:
    assert row.part is not None
    count = len(row.ours)
    return [Placed(row.part, match.expand(ours), name, i, count, row.as_matrix) for i, ours in enumerate(row.ours)]


def _left_out(published: str, why: str) -> Row:
    return Row(published, None, why=why)


# ---------------------------------------------------------------- streaming_t2v.ckpt

_CONVOLUTION_NAMES = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))

STREAMING_T2V: tuple[Row, ...] = (
    Row(r"base_model\.(.+)", "unet"),
    Row(r"unet\.(.+)", "cam"),  # the published name of the control branch
    Row(r"resampler\.(.+)", "resampler"),
    Row(r"image_encoder\.(model\.visual\..+)", "image_encoder"),
    _left_out(
        r"image_encoder\.model\.(token_embedding\.weight|positional_embedding|ln_final\.(weight|bias)|text_projection|logit_scale)",
        "leftovers of OpenCLIP's text half, used nowhere",
    ),
    _left_out(r"text_encoder\.text_model\.embeddings\.position_ids", "0, 1, 2 ...: stored by older transformers only"),
    Row(r"text_encoder\.(text_model\..+)", "text_encoder"),
    *(
        Row(rf"vae\.((?:en|de)coder\.mid_block\.attentions\.0)\.{old}\.(weight|bias)", "vae", (rf"\1.{new}.\2",))
        for old, new in _CONVOLUTION_NAMES  # names of diffusers before 0.18
    ),
    Row(r"vae\.(.+)", "vae"),
)
"""The Lightning file of the paper's model: 3,407 tensors, six of them left out."""


# ---------------------------------------------------------------- the enhancer's three files

ENHANCER_UNET: tuple[Row, ...] = (Row(r"((?:time_embed|input_blocks|middle_block|output_blocks|out)\..+)", "unet"),)
"""`non_ema_0035000.pth`: 1,480 tensors, our names are the published ones."""


def open_clip_text(layers: int) -> tuple[Row, ...]:
    """`open_clip_pytorch_model.bin`: the text tower up to its penultimate layer, under transformers' names.

    layers: how many layers are kept (23 when published: the enhancer reads the output of the last but one, then ln_final).
    """
    layer, block = r"text_model.encoder.layers.\1", r"transformer\.resblocks\.(\d+)"
    thirds = tuple(rf"{layer}.self_attn.{name}_proj.\2" for name in "qkv")
    return (
        Row(r"token_embedding\.weight", "text_encoder", ("text_model.embeddings.token_embedding.weight",)),
        Row(r"positional_embedding", "text_encoder", ("text_model.embeddings.position_embedding.weight",)),
        _left_out(rf"transformer\.resblocks\.{layers}\..+", "the last layer; the penultimate one is read"),
        Row(rf"{block}\.ln_([12])\.(weight|bias)", "text_encoder", (rf"{layer}.layer_norm\2.\3",)),
        Row(rf"{block}\.attn\.in_proj_(weight|bias)", "text_encoder", thirds),
        Row(rf"{block}\.attn\.out_proj\.(weight|bias)", "text_encoder", (rf"{layer}.self_attn.out_proj.\2",)),
        Row(rf"{block}\.mlp\.c_fc\.(weight|bias)", "text_encoder", (rf"{layer}.mlp.fc1.\2",)),
        Row(rf"{block}\.mlp\.c_proj\.(weight|bias)", "text_encoder", (rf"{layer}.mlp.fc2.\2",)),
        Row(r"ln_final\.(weight|bias)", "text_encoder", (r"text_model.final_layer_norm.\1",)),
        _left_out(r"visual\..+|text_projection|logit_scale|attn_mask", "the image tower, and what compares text with images"),
    )


_HALF = r"first_stage_model\.(encoder|decoder)"


def latent_diffusion_vae(levels: int) -> tuple[Row, ...]:
    """`v2-1_512-ema-pruned.ckpt`: only its autoencoder, from latent-diffusion's names to diffusers'.

    levels: resolutions of the VAE (4 when published); the decoder counts them the other way round.
    """
    downs = [(rf"{_HALF}\.down\.{i}", rf"\1.down_blocks.{i}") for i in range(levels)]
    ups = [(rf"{_HALF}\.up\.{i}", rf"\1.up_blocks.{levels - 1 - i}") for i in range(levels)]
    return (
        *(row for theirs, ours in (*downs, *ups) for row in _resolution(theirs, ours)),
        *(
            row
            for number in (1, 2)
            for row in _residual(rf"{_HALF}\.mid\.block_{number}", rf"\1.mid_block.resnets.{number - 1}")
        ),
        *_attention(rf"{_HALF}\.mid\.attn_1", r"\1.mid_block.attentions.0"),
        Row(rf"{_HALF}\.norm_out\.(weight|bias)", "vae", (r"\1.conv_norm_out.\2",)),
        Row(rf"{_HALF}\.(conv_in|conv_out)\.(weight|bias)", "vae", (r"\1.\2.\3",)),
        Row(r"first_stage_model\.((?:post_)?quant_conv\.(?:weight|bias))", "vae"),
        _left_out(r"(model|cond_stage_model|model_ema)\..+", "Stable Diffusion's own UNet and text encoder"),
        _left_out(r"[a-z0-9_]+", "the noise schedule's tables"),
    )


def _resolution(theirs: str, ours: str) -> tuple[Row, ...]:
    residuals = [row for number in range(4) for row in _residual(rf"{theirs}\.block\.{number}", f"{ours}.resnets.{number}")]
    return (
        *residuals,
        Row(rf"{theirs}\.downsample\.conv\.(weight|bias)", "vae", (rf"{ours}.downsamplers.0.conv.\2",)),
        Row(rf"{theirs}\.upsample\.conv\.(weight|bias)", "vae", (rf"{ours}.upsamplers.0.conv.\2",)),
    )


def _residual(theirs: str, ours: str) -> tuple[Row, ...]:
    return (
        Row(rf"{theirs}\.(norm1|conv1|norm2|conv2)\.(weight|bias)", "vae", (rf"{ours}.\2.\3",)),
        Row(rf"{theirs}\.nin_shortcut\.(weight|bias)", "vae", (rf"{ours}.conv_shortcut.\2",)),
    )


def _attention(theirs: str, ours: str) -> tuple[Row, ...]:
    projections = (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))
    return (
        Row(rf"{theirs}\.norm\.(weight|bias)", "vae", (rf"{ours}.group_norm.\2",)),
        *(Row(rf"{theirs}\.{old}\.(weight|bias)", "vae", (rf"{ours}.{new}.\2",), as_matrix=True) for old, new in projections),
    )
