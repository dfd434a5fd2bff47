"""The small enhancer's training: previews whose truth is known in, the truth four times as large out.

One evaluation and no noise, so it is plain regression. Absolute errors count, not only squared ones: where an edge may lie
here or there, their best answer is one of the two, and the picture stays sharp. Pixels near edges count more; the error's
differences along both axes count (edges), and those in time (flicker: truth that stands still must come out still).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from st2v_stream.chunk import Frames
from st2v_stream.media.scaling import enlarge
from st2v_stream.networks.enhancer_onestep import OneStepUNet, OneStepUNetConfig
from st2v_stream.networks.folder import config_from_settings
from st2v_stream.training import randomness
from st2v_stream.training.enhancer_measures import flicker, near_edges, psnr_db, squared_error
from st2v_stream.training.enhancer_pairs import PREVIEW_SIDE, PairPool, shrunk
from st2v_stream.training.muon import MuonWithAdam, parameter_groups
from st2v_stream.training.recipe import EnhancerRecipe
from st2v_stream.training.sheets import contact_sheet
from st2v_stream.training.vae import to_network
from st2v_stream.worlds import storybook

MODEL_INDEX = {
    "_class_name": "OneStepPipeline",
    "unet": ["st2v_stream.networks.enhancer_onestep", "OneStepUNet"],
}
VALIDATED_FRAMES = (6, 7)
"""Of every window of the validation: two neighbours."""


def new_enhancer(seed: int, config: OneStepUNetConfig | None = None) -> OneStepUNet:
    """Untrained: what it makes is the bicubic enlargement."""
    torch.manual_seed(randomness.address(seed, "enhancer weights"))
    return OneStepUNet(config or OneStepUNetConfig())


class EnhancerStage:
    """Trains the enhancer on the previews of a pool. Implements the loop's `Stage`."""

    name = "enhancer"

    def __init__(
        self,
        network: OneStepUNet,
        pool: PairPool,
        validation: PairPool,
        recipe: EnhancerRecipe,
        *,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last).train()
        self.pool, self.validation = pool, validation
        self.recipe, self.seed = recipe, seed
        self.device = torch.device(device)
        self.optimizer = MuonWithAdam(parameter_groups(network), weight_decay=recipe.weight_decay)

    def train_step(self, step: int, rate: float) -> float:
        self.optimizer.set_rate(rate)
        previews, truth = self._draw_batch(randomness.numpy_rng(self.seed, "enhancer batch", step))
        loss = self._loss(previews, truth)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """On previews of unseen films: PSNR near edges and of whole frames (dB), flicker (of 255), each beside bicubic's."""
        made, enlarged, truth = [], [], []
        for window, previews in zip(self.validation.windows, self.validation.previews.numpy(), strict=True):
            made.append(sharpened(self.network, previews, VALIDATED_FRAMES))
            enlarged.append(enlarge(previews[list(VALIDATED_FRAMES)], self.network.config.scale))
            truth.append(window.truth([window.start + t for t in VALIDATED_FRAMES]))
        return _scores("", made, truth) | _scores("bicubic_", enlarged, truth)

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": dataclasses.asdict(self.network.config),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

    # --- one step

    def _draw_batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Previews (B, frames + 1, 3, h, w), of whose last two frames the truth is (B, 2, 3, H, W), in [-1, 1]."""
        is_whole = rng.random() < self.recipe.whole_share
        count = self.recipe.batch if is_whole else self.recipe.piece_batch
        items = [self._draw_item(rng, is_whole=is_whole) for _ in range(count)]
        previews, truth = (np.stack(parts) for parts in zip(*items, strict=True))
        return self._to_tensors(previews), self._to_tensors(truth)

    def _draw_item(self, rng: np.random.Generator, *, is_whole: bool) -> tuple[Frames, Frames]:
        """Before a film's first frame, as when sharpening begins, that frame stands still."""
        r, scale = self.recipe, self.network.config.scale
        kind = rng.random()
        number = self._draw_number(rng, is_decoded=kind < r.clean_items + r.decoded_items)
        window, last = self.pool.windows[number], int(rng.integers(1, self.pool.previews.shape[1]))
        seen = [max(0, t) for t in range(last - self.network.config.frames, last + 1)]
        numbers = [window.start + t for t in seen]
        truth = window.truth(numbers[-2:])
        previews = shrunk(window.truth(numbers)) if kind < r.clean_items else self.pool.previews[number, seen].numpy()
        previews = _degraded(previews, r, rng)
        if not is_whole:
            x, y = _piece_place(storybook.position(window.spec, window.start + last), r, rng)
            previews, truth = _piece(previews, x, y, r.piece_side), _piece(truth, scale * x, scale * y, scale * r.piece_side)
        return self._varied(previews, truth, rng)

    def _draw_number(self, rng: np.random.Generator, *, is_decoded: bool) -> int:
        """A window of that kind; any, where the pool has none."""
        numbers = [number for number, kind in enumerate(self.pool.is_decoded) if kind == is_decoded]
        return int(rng.choice(numbers or len(self.pool)))

    def _varied(self, previews: Frames, truth: Frames, rng: np.random.Generator) -> tuple[Frames, Frames]:
        """Both in other colours, both mirrored: what is learned is drawing, not thirty pictures."""
        if rng.random() < self.recipe.permute_colours:
            order = rng.permutation(3)
            previews, truth = previews[..., order], truth[..., order]
        if rng.random() < self.recipe.mirror:
            previews, truth = previews[:, :, ::-1], truth[:, :, ::-1]
        return previews, truth

    def _loss(self, previews: Tensor, truth: Tensor) -> Tensor:
        r, count = self.recipe, self.network.config.frames
        pairs = torch.stack([previews[:, :-1], previews[:, 1:]], dim=1)[:, :, -count:]  # (B, 2, frames, 3, h, w)
        made = self.network(rearrange(pairs, "b two t c h w -> (b two) t c h w"))
        error = rearrange(made, "(b two) c h w -> b two c h w", two=2) - truth
        weight = 1 + r.near_edges * _near_edges(truth)
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        return (
            r.l1_weight * (weight * error.abs()).mean()
            + r.mse_weight * (weight * error**2).mean()
            + r.edge_weight * edges
            + r.flicker_weight * error.diff(dim=1).abs().mean()
        )

    def _to_tensors(self, frames: Frames) -> Tensor:
        flat = to_network(np.ascontiguousarray(rearrange(frames, "b t h w c -> (b t) h w c")))
        return flat.unflatten(0, frames.shape[:2]).to(self.device)


@torch.no_grad()
def sharpened(network: OneStepUNet, previews: Frames, numbers: tuple[int, ...] | None = None) -> Frames:
    """These frames (None: all) of a preview (T, h, w, 3) uint8, each made of itself and those before it: (N, H, W, 3) uint8."""
    made = []
    for number in range(len(previews)) if numbers is None else numbers:
        seen = [max(0, t) for t in range(number - network.config.frames + 1, number + 1)]
        frames = to_network(np.ascontiguousarray(previews[seen]))[None].to(network.device)
        pixels = (network(frames)[0].clamp(-1, 1) + 1) * 127.5
        made.append(pixels.round().byte().permute(1, 2, 0).cpu().numpy())
    return np.stack(made)


def export_enhancer(network: OneStepUNet, folder: Path) -> None:
    """A folder in the diffusers layout, float16, that `load_enhancer` reads."""
    network.save_pretrained(folder / "unet", dtype=torch.float16)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for its owner alone
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")


def draw_enlargements(network: OneStepUNet, unseen: PairPool, folder: Path, *, films: int = 6) -> None:
    """pictures.png: of unseen films the preview enlarged, what the network makes of it, and the truth."""
    rows, titles = [], []
    for window, previews in zip(unseen.windows[:films], unseen.previews.numpy(), strict=False):
        shown = tuple(range(2, len(previews), 4))
        rows += [enlarge(previews[list(shown)], network.config.scale), sharpened(network, previews, shown)]
        rows += [window.truth([window.start + t for t in shown])]
        titles += [f"{window.spec.caption}: preview", "enhanced", "truth"]
    contact_sheet(rows, titles, folder / "pictures.png", columns=len(rows[0]), enlarge=1)


def load_stage(state: dict[str, Any]) -> OneStepUNet:
    """The network in a checkpoint of the stage."""
    network = OneStepUNet(config_from_settings(OneStepUNetConfig, state["config"]))
    network.load_state_dict(state["network"])
    return network.eval()


def _piece_place(subject: tuple[float, float], recipe: EnhancerRecipe, rng: np.random.Generator) -> tuple[int, int]:
    """Left and upper edge of a piece: about the subject, or anywhere."""
    room = PREVIEW_SIDE - recipe.piece_side
    if rng.random() >= recipe.subject_share:
        return int(rng.integers(room + 1)), int(rng.integers(room + 1))
    x, y = (int(PREVIEW_SIDE * place - recipe.piece_side * rng.uniform(0.2, 0.8)) for place in subject)
    return min(max(x, 0), room), min(max(y, 0), room)


def _piece(frames: Frames, x: int, y: int, side: int) -> Frames:
    return frames[:, y : y + side, x : x + side]


def _degraded(frames: Frames, recipe: EnhancerRecipe, rng: np.random.Generator) -> Frames:
    """Now and then blurred, alike in all frames, and noisy, each for itself."""
    if rng.random() < recipe.blur_share:
        deviation = float(rng.uniform(0.2, recipe.blur_pixels))
        frames = np.stack([cv2.GaussianBlur(frame, (0, 0), deviation) for frame in frames])
    if rng.random() < recipe.noise_share:
        noisy = frames + rng.normal(0, rng.uniform(0, recipe.pixel_noise), frames.shape)
        frames = noisy.round().clip(0, 255).astype(np.uint8)
    return frames


def _near_edges(truth: Tensor) -> Tensor:
    """The measure's mask for (B, 2, 3, H, W): (B, 2, 1, H, W)."""
    pixels = ((truth + 1) * 127.5).round().byte()
    frames = rearrange(pixels, "b t c h w -> (b t) h w c").contiguous().cpu().numpy()
    mask = torch.from_numpy(near_edges(frames)).to(truth.device)
    return rearrange(mask, "(b t) h w -> b t 1 h w", b=len(truth)).float()


def _scores(prefix: str, films: list[Frames], truths: list[Frames]) -> dict[str, float]:
    errors = np.stack([squared_error(film, truth) for film, truth in zip(films, truths, strict=True)])
    masks = np.stack([near_edges(truth) for truth in truths])
    changes, pixels = zip(*(flicker(film, truth) for film, truth in zip(films, truths, strict=True)), strict=True)
    return {
        f"{prefix}edge_psnr_db": psnr_db(float(errors[masks].mean())),
        f"{prefix}psnr_db": psnr_db(float(errors.mean())),
        f"{prefix}flicker": sum(changes) / max(1, sum(pixels)),
    }
