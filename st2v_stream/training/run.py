"""The whole training, stage after stage, each resumable.

OUT/<stage>/ holds checkpoint.pt, log.jsonl, losses.png and pictures.png; OUT/export the model folder.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training import randomness
from st2v_stream.training.denoising import BaseStage, CamApmStage, DenoisingStage
from st2v_stream.training.export import EXAMPLE_PROMPTS, export, load_export
from st2v_stream.training.loop import Loop, Progress, StopFlag, load_checkpoint
from st2v_stream.training.parts import Parts
from st2v_stream.training.pool import LatentPool, build_pool
from st2v_stream.training.preview import Previewer, PreviewSettings, to_latents, to_pixels
from st2v_stream.training.recipe import STAGES, LearningRate, Recipe
from st2v_stream.training.sheets import contact_sheet, plot_losses
from st2v_stream.training.vae import VaeStage, finished, new_autoencoder
from st2v_stream.worlds import storybook

# The branch starts its decay below the trunk's rate, whose end it usually follows.
FINISH_PEAK = 1.5e-3


@dataclass
class Training:
    """One call of `st2v train`."""

    recipe: Recipe
    stages: tuple[str, ...]
    budget_s: float  # of all `stages` together
    out: Path
    device: str = "cpu"
    workers: int = 0  # processes that render; 0 renders in this one
    resume: bool = False
    origin: Path | None = None  # an exported model folder whose weights the denoising stages start from
    finish_s: float | None = None  # decay the cam-apm stage from its checkpoint in this time, keeping the trunk
    stop: StopFlag = field(default_factory=StopFlag)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Training:
        recipe = dataclasses.replace(Recipe().for_device(args.device), seed=args.seed)
        stages = STAGES if args.stage == "all" else (args.stage,)
        if args.finish is not None:
            stages = ("cam-apm",)
        return cls(
            recipe=recipe,
            stages=stages,
            budget_s=args.budget,
            out=args.out,
            device=args.device,
            workers=args.workers,
            resume=args.resume,
            origin=args.origin,
            finish_s=args.finish,
        )

    def run(self) -> int:
        """Train, draw pictures, export. Returns the exit code: 0, or 3 when a signal ended it early (everything is saved)."""
        cv2.setNumThreads(1)
        self.stop.listen()
        for stage in self.stages:
            if not getattr(self, f"_train_{stage.replace('-', '_')}")():
                return 3
        if "cam-apm" in self.stages:
            self.export(self.out / "export")
        return 0

    # --- stages

    def _train_vae(self) -> bool:
        r = self.recipe
        stage = VaeStage(new_autoencoder(r.seed), r.vae, seed=r.seed, size=r.size, device=self.device, workers=self.workers)
        is_done = self._loop(stage, r.vae.learning_rate, r.vae.budget_share, "vae").run()
        if is_done:
            self._draw_vae()
        return is_done

    def _train_base(self) -> bool:
        r = self.recipe
        stage = BaseStage(self._first_parts(), *self.pools(), r.diffusion, recipe=r.base, seed=r.seed, device=self.device)
        is_done = self._loop(stage, r.base.learning_rate, r.base.budget_share, "base").run()
        if is_done:
            plot_losses(self.out / "base" / "log.jsonl", self.out / "base" / "losses.png")
            self._draw_images(stage)
        return is_done

    def _train_cam_apm(self) -> bool:
        r = self.recipe
        parts = self._first_parts()
        if self.origin is None:
            parts.load_state_dict(load_checkpoint(self.out / "base" / "checkpoint.pt")["stage"]["average"])
            parts.cam.copy_from(parts.unet)
        stage = CamApmStage(parts, *self.pools(), r.diffusion, recipe=r.cam_apm, seed=r.seed, device=self.device)
        if self.finish_s is None:
            is_done = self._loop(stage, r.cam_apm.learning_rate, r.cam_apm.budget_share, "cam-apm").run()
        else:
            is_done = self._finishing_loop(stage).run()
        if is_done:
            plot_losses(self.films_folder / "log.jsonl", self.films_folder / "losses.png")
            self._draw_films(stage)
        return is_done

    def _loop(self, stage: VaeStage | DenoisingStage, rate: LearningRate, share: float, folder: str) -> Loop:
        budget_s = self.budget_s * (share if len(self.stages) > 1 else 1.0)
        loop = Loop(stage, rate, budget_s, self.out / folder, self.stop)
        if self.resume and loop.resume():
            loop.say(f"resumed {stage.name} at step {loop.progress.step}, {loop.progress.elapsed_s:.0f} s")
        return loop

    def _finishing_loop(self, stage: CamApmStage) -> Loop:
        """Linear decay from the trunk's checkpoint through the whole time; the trunk is left as it is."""
        trunk = load_checkpoint(self.out / "cam-apm" / "checkpoint.pt")
        stage.load_state_dict(trunk["stage"])
        rate = dataclasses.replace(self.recipe.cam_apm.learning_rate, peak=FINISH_PEAK, decay_share=1.0, warmup_steps=1)
        loop = Loop(stage, rate, float(self.finish_s or 0), self.films_folder, self.stop, progress=Progress(trunk["step"]))
        if self.resume:
            loop.resume()
        return loop

    @property
    def films_folder(self) -> Path:
        """Where the cam-apm stage's results lie: the trunk, or the finished branch."""
        return self.out / ("cam-apm" if self.finish_s is None else "finished")

    # --- what the stages hand on

    def vae(self) -> FrameAutoencoder:
        """The trained autoencoder: this run's own, else the origin's."""
        if self.origin is not None and not (self.out / "vae" / "checkpoint.pt").exists():
            return load_export(self.origin)[1].requires_grad_(False)
        trained = load_checkpoint(self.out / "vae" / "checkpoint.pt")["stage"]["vae"]
        return finished(trained, seed=self.recipe.seed, size=self.recipe.size)

    def _first_parts(self) -> Parts:
        """New networks, or the origin's."""
        return Parts(seed=self.recipe.seed) if self.origin is None else load_export(self.origin)[0]

    def pools(self) -> tuple[LatentPool, LatentPool]:
        """Training and validation films; rendered once per output folder."""
        sizes = {"films": self.recipe.pool.films, "validation films": self.recipe.pool.validation_films}
        return tuple(self._pool(purpose, films) for purpose, films in sizes.items())

    def _pool(self, purpose: str, films: int) -> LatentPool:
        path = self.out / f"{purpose.replace(' ', '_')}.pt"
        if path.exists():
            return LatentPool.load(path)
        r = self.recipe
        pool = build_pool(
            self.vae(),
            films,
            r.pool,
            seed=r.seed,
            purpose=purpose,
            size=r.size,
            device=self.device,
            workers=self.workers,
        )
        pool.save(path)
        return pool

    def export(self, folder: Path) -> None:
        """Write the model folder from the averaged weights of the cam-apm stage."""
        parts = Parts(seed=self.recipe.seed)
        parts.load_state_dict(load_checkpoint(self.films_folder / "checkpoint.pt")["stage"]["average"])
        export(parts, self.vae(), folder)

    # --- pictures

    def _draw_vae(self) -> None:
        plot_losses(self.out / "vae" / "log.jsonl", self.out / "vae" / "losses.png")
        rng = randomness.numpy_rng(self.recipe.seed, "vae pictures")
        truth = np.stack([storybook.clip(storybook.sample_spec(rng, "any"), range(12), self.recipe.size) for _ in range(6)])
        vae = self.vae()
        decoded = to_pixels(vae, to_latents(vae, truth))
        pairs = [film for both in zip(truth, decoded, strict=True) for film in both]
        contact_sheet(pairs, ["truth", "decoded"] * 6, self.out / "vae" / "pictures.png")

    def _draw_images(self, stage: DenoisingStage) -> None:
        rng = randomness.numpy_rng(self.recipe.seed, "pictures")
        captions = [storybook.sample_spec(rng, "any").caption for _ in range(48)]
        images = Previewer(stage.average, self.vae().to(self.device), captions, PreviewSettings(), seed=1).images()
        rows = [np.concatenate(images[start : start + 12]) for start in range(0, 48, 12)]
        titles = [
            " | ".join(" ".join(text.split()[1:3]) for text in captions[start : start + 12]) for start in range(0, 48, 12)
        ]
        contact_sheet(rows, titles, self.out / stage.name / "pictures.png")

    def _draw_films(self, stage: DenoisingStage) -> None:
        previewer = Previewer(stage.average, self.vae().to(self.device), list(EXAMPLE_PROMPTS), PreviewSettings(), seed=1)
        contact_sheet(list(previewer.films(chunks=6)), list(EXAMPLE_PROMPTS), self.films_folder / "pictures.png", columns=14)
