"""What a stage starts from: the results of earlier stages of this call, else the model given with --from, else what earlier
calls left in the output folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from st2v_stream.errors import InvalidRequest
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training.decoder import load_vae
from st2v_stream.training.export import PRESETS_OF_STAGE, load_base, load_export, model_card, scheduler_of_stage
from st2v_stream.training.loop import load_checkpoint
from st2v_stream.training.parts import Parts
from st2v_stream.training.recipe import MODEL_STAGES
from st2v_stream.training.vae import finished

VAE_STAGES = ("vae", "decoder")
PARTS_STAGES = ("base", "cam-apm", "distil")
CHECKPOINT = "checkpoint.pt"
FINISHED = "finished"  # the decayed branch of the cam-apm stage


@dataclass(frozen=True)
class Lineage:
    """The weights that exist before a stage of this call begins."""

    out: Path
    stages: tuple[str, ...]  # of this call
    origin: Path | None
    seed: int
    size: int

    def vae_before(self, stage: str) -> FrameAutoencoder:
        """The newest autoencoder, frozen. Raises InvalidRequest when there is none."""
        newest = self._newest(VAE_STAGES, stage)
        if newest is not None:
            state = load_checkpoint(newest / CHECKPOINT)["stage"]
            return load_vae(state) if newest.name == "decoder" else finished(state["vae"], seed=self.seed, size=self.size)
        if self.origin is None:
            raise InvalidRequest("no autoencoder", expected=f"--from FOLDER, or {self.out}/vae", received="neither")
        return load_export(self.origin)[1].requires_grad_(False)

    def parts_before(self, stage: str) -> Parts | None:
        """The newest averaged networks; None where no stage has trained any."""
        newest = self._newest(PARTS_STAGES, stage)
        if newest is not None:
            parts = self._untrained()
            parts.load_state_dict(load_checkpoint(newest / CHECKPOINT)["stage"]["average"])
            return parts
        if self.origin is None:
            return None
        return load_base(self.origin) if stage == "base" else load_export(self.origin)[0]

    def base_after(self, stage: str) -> Parts | None:
        """The image model that begins films; None where there is none besides the newest networks themselves."""
        folder = self.out / "base"
        is_here = (folder / CHECKPOINT).exists() and (self.origin is None or "base" in self.stages)
        if stage != "base" and is_here:
            parts = self._untrained()
            parts.load_state_dict(load_checkpoint(folder / CHECKPOINT)["stage"]["average"])
            return parts
        return load_base(self.origin) if self.origin is not None and (self.origin / "base_unet").is_dir() else None

    def begins_from_images(self, stage: str) -> bool:
        """Whether the networks before this stage have learned nothing but single images."""
        newest = self._newest(PARTS_STAGES, stage)
        return newest is not None and newest.name == "base"

    def card_after(self, stage: str) -> dict[str, Any]:
        """The card of what is exported after a stage; a new decoder changes nothing in it."""
        maker = self._maker(stage)
        return self._of_origin("card.json") if maker is None else model_card(self.size, presets=PRESETS_OF_STAGE[maker])

    def scheduler_after(self, stage: str) -> dict[str, Any]:
        """Likewise the scheduler's settings."""
        maker = self._maker(stage)
        return self._of_origin("scheduler/scheduler_config.json") if maker is None else scheduler_of_stage(maker)

    def _maker(self, stage: str) -> str | None:
        """The stage that made the newest networks after `stage`; None: the origin's."""
        if stage in PARTS_STAGES:
            return stage
        newest = self._newest(PARTS_STAGES, stage)
        if newest is None:
            return None
        return "cam-apm" if newest.name == FINISHED else newest.name

    def _of_origin(self, file: str) -> dict[str, Any]:
        assert self.origin is not None, "only called with networks at hand"
        settings: dict[str, Any] = json.loads((self.origin / file).read_text())
        return settings

    def _untrained(self) -> Parts:
        """Networks of the origin's sizes, or the usual ones."""
        return Parts(seed=self.seed) if self.origin is None else load_export(self.origin)[0]

    def _newest(self, kind: tuple[str, ...], stage: str) -> Path | None:
        """The folder with the last earlier result of this kind."""
        order = list(MODEL_STAGES)
        before = order[: order.index(stage)] if stage in order else order
        earlier = [name for name in kind if name in before]
        in_this_call = [name for name in earlier if name in self.stages]
        if in_this_call:
            return self.out / in_this_call[-1]
        if self.origin is not None:
            return None
        folders = [self.out / name for name in earlier]
        if "cam-apm" in earlier:
            folders.insert(earlier.index("cam-apm") + 1, self.out / FINISHED)
        existing = [folder for folder in folders if (folder / CHECKPOINT).exists()]
        return existing[-1] if existing else None
