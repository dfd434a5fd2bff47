"""The whole training, stage after stage, each resumable.

OUT/<stage>/ holds checkpoint.pt, log.jsonl, losses.png and pictures.png; OUT/export the model folder, written anew after each
of the stages cam-apm, decoder and distil. Judge and enhancer have an export/ of their own in their folder.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from st2v_stream.checkpoints.models import find_folder
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training.decoder import DecoderStage, begin_memory, grown
from st2v_stream.training.denoising import BaseStage, CamApmStage
from st2v_stream.training.distil import DistilStage
from st2v_stream.training.enhancer import EnhancerStage, draw_enlargements, export_enhancer, new_enhancer
from st2v_stream.training.enhancer_pairs import PairPool, PreviewModel
from st2v_stream.training.export import export, load_export
from st2v_stream.training.judge import JudgeRecipe, JudgeStage, train_motion
from st2v_stream.training.lineage import CHECKPOINT, FINISHED, Lineage
from st2v_stream.training.loop import Loop, Progress, Stage, StopFlag, load_checkpoint
from st2v_stream.training.parts import Parts
from st2v_stream.training.pictures import distilled_settings, draw_autoencoders, draw_films, draw_images, draw_verdicts
from st2v_stream.training.pool import LatentPool, build_pool
from st2v_stream.training.preview import PreviewSettings
from st2v_stream.training.recipe import MODEL_STAGES, LearningRate, Recipe
from st2v_stream.training.sheets import plot_losses
from st2v_stream.training.vae import VaeStage, new_autoencoder
from st2v_stream.worlds.judge import Judge, JudgeConfig

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
    origin: Path | None = None  # an exported model folder whose weights the first stage starts from
    finish_s: float | None = None  # decay the cam-apm stage from its checkpoint in this time, keeping the trunk
    steps: int | None = None  # of each stage; the learning rate then follows them, not the clock
    judge: JudgeRecipe = field(default_factory=JudgeRecipe)
    stop: StopFlag = field(default_factory=StopFlag)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Training:
        plain = Recipe() if args.origin is None else Recipe().continued()
        recipe = dataclasses.replace(plain.for_device(args.device), seed=args.seed)
        stages = MODEL_STAGES if args.stage == "all" else (args.stage,)
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
            steps=args.steps,
        )

    def run(self) -> int:
        """Train, draw pictures, export. Returns the exit code: 0, or 3 when a signal ended it early (everything is saved)."""
        cv2.setNumThreads(1)
        self.stop.listen()
        return 0 if all(self._trains(stage) for stage in self.stages) else 3

    def _trains(self, stage: str) -> bool:
        """Whether the stage came to its end."""
        trainers: dict[str, Callable[[], bool]] = {
            "vae": self._train_vae,
            "base": self._train_base,
            "cam-apm": self._train_cam_apm,
            "decoder": self._train_decoder,
            "distil": self._train_distil,
            "judge": self._train_judge,
            "enhancer": self._train_enhancer,
        }
        return trainers[stage]()

    @property
    def lineage(self) -> Lineage:
        """What the stages start from."""
        return Lineage(self.out, self.stages, self.origin, self.recipe.seed, self.recipe.size)

    # --- stages

    def _train_vae(self) -> bool:
        r = self.recipe
        stage = VaeStage(new_autoencoder(r.seed), r.vae, seed=r.seed, size=r.size, device=self.device, workers=self.workers)
        if not self._loop(stage, r.vae.learning_rate, r.vae.budget_share).run():
            return False
        trained = Lineage(self.out, ("vae",), None, r.seed, r.size).vae_before("decoder")
        self._draw_losses("vae")
        draw_autoencoders({"decoded": trained}, self.out / "vae", seed=r.seed, size=r.size)
        return True

    def _train_base(self) -> bool:
        r = self.recipe
        parts = self.lineage.parts_before("base") or Parts(seed=r.seed)
        vae = self.lineage.vae_before("base")
        stage = BaseStage(parts, *self.pools(vae), r.diffusion, recipe=r.base, seed=r.seed, device=self.device)
        if not self._loop(stage, r.base.learning_rate, r.base.budget_share).run():
            return False
        self._draw_losses("base")
        draw_images(stage.average, vae.to(self.device), self.out / "base", seed=r.seed)
        return True

    def _train_cam_apm(self) -> bool:
        r = self.recipe
        parts = self.lineage.parts_before("cam-apm") or Parts(seed=r.seed)
        vae = self.lineage.vae_before("cam-apm")
        if self.lineage.begins_from_images("cam-apm"):
            parts.cam.copy_from(parts.unet)
        stage = CamApmStage(parts, *self.pools(vae), r.diffusion, recipe=r.cam_apm, seed=r.seed, device=self.device)
        branched = self.finish_s is not None
        loop = self._finishing_loop(stage) if branched else self._loop(stage, r.cam_apm.learning_rate, r.cam_apm.budget_share)
        if not loop.run():
            return False
        folder = FINISHED if branched else "cam-apm"
        self._draw_losses(folder)
        draw_films(stage.average, vae.to(self.device), self.out / folder, PreviewSettings(), r.preview_chunks)
        self._export(stage.average, vae, "cam-apm")
        return True

    def _train_decoder(self) -> bool:
        r = self.recipe
        before = self.lineage.vae_before("decoder")
        larger = grown(before, r.decoder, seed=r.seed, side=r.size // before.config.downscale)
        if larger.config.decoder_memory_slots > before.config.decoder_memory_slots:
            begin_memory(larger, r.decoder, seed=r.seed, size=r.size)
        stage = DecoderStage(larger, r.decoder, seed=r.seed, size=r.size, device=self.device, workers=self.workers)
        if not self._loop(stage, r.decoder.learning_rate, r.decoder.budget_share).run():
            return False
        self._draw_losses("decoder")
        vae = stage.vae.cpu().eval()
        draw_autoencoders({"before": before, "decoded": vae}, self.out / "decoder", seed=r.seed, size=r.size)
        parts = self.lineage.parts_before("decoder")
        if parts is not None and not self.lineage.begins_from_images("decoder"):
            self._export(parts, vae, "decoder")
        return True

    def _train_distil(self) -> bool:
        r = self.recipe
        parts = self.lineage.parts_before("distil") or Parts(seed=r.seed)
        vae = self.lineage.vae_before("distil")
        pools = self.pools(vae)
        stage = DistilStage(parts, *pools, r.diffusion, recipe=r.distil, vae=vae, seed=r.seed, device=self.device)
        if not self._loop(stage, r.distil.learning_rate, r.distil.budget_share).run():
            return False
        self._draw_losses("distil")
        draw_films(stage.average, stage.vae, self.out / "distil", distilled_settings(r.distil), r.preview_chunks)
        self._export(stage.average, vae, "distil")
        return True

    def _train_judge(self) -> bool:
        """Ends in OUT/judge/export; the judge that scores are made with is a frozen copy in the package."""
        recipe, seed = self.judge, self.recipe.seed
        vae = load_export(self.origin or find_folder("storybook"))[1].requires_grad_(False)
        stage = JudgeStage(recipe, seed=seed, vae=vae, workers=self.workers)
        if not self._loop(stage, recipe.learning_rate, 1.0).run():
            return False
        self._draw_losses("judge")
        judge = Judge(stage.reader, train_motion(stage.reader, recipe, seed=seed), JudgeConfig())
        judge.save(self.out / "judge" / "export")
        draw_verdicts(judge, self.out / "judge", seed=seed)
        return True

    def _train_enhancer(self) -> bool:
        """On previews of a finished model. Ends in OUT/enhancer/export; the package's is a copy, beside the model's parts."""
        r, seed = self.recipe.enhancer, self.recipe.seed
        parts, vae = load_export(self.origin or find_folder("storybook"))
        model = PreviewModel(parts.requires_grad_(False), vae.requires_grad_(False))
        pool, unseen = self._pairs(model, "train", r.windows), self._pairs(model, "any", r.validation_windows)
        stage = EnhancerStage(new_enhancer(seed), pool, unseen, r, seed=seed, device=self.device)
        if not self._loop(stage, r.learning_rate, 1.0).run():
            return False
        self._draw_losses("enhancer")
        network = stage.network.cpu().eval()
        export_enhancer(network, self.out / "enhancer" / "export")
        draw_enlargements(network, unseen, self.out / "enhancer")
        return True

    def _pairs(self, model: PreviewModel, split: str, count: int) -> PairPool:
        purpose = "enhancer windows" if split == "train" else "enhancer validation"
        path = self.out / "enhancer" / f"{purpose.replace(' ', '_')}.pt"
        drawn = {"seed": self.recipe.seed, "purpose": purpose, "split": split, "count": count}
        return PairPool.kept(path, model, self.recipe.enhancer, **drawn)

    # --- loops

    def _loop(self, stage: Stage, rate: LearningRate, share: float) -> Loop:
        budget_s = self.budget_s * (share if len(self.stages) > 1 else 1.0)
        loop = Loop(stage, rate, budget_s, self.out / stage.name, self.stop, total_steps=self.steps)
        if self.resume and loop.resume():
            loop.say(f"resumed {stage.name} at step {loop.progress.step}, {loop.progress.elapsed_s:.0f} s")
        return loop

    def _finishing_loop(self, stage: CamApmStage) -> Loop:
        """Linear decay from the trunk's checkpoint through the whole time; the trunk is left as it is."""
        trunk = load_checkpoint(self.out / "cam-apm" / CHECKPOINT)
        stage.load_state_dict(trunk["stage"])
        rate = dataclasses.replace(self.recipe.cam_apm.learning_rate, peak=FINISH_PEAK, decay_share=1.0, warmup_steps=1)
        loop = Loop(stage, rate, float(self.finish_s or 0), self.out / FINISHED, self.stop, progress=Progress(trunk["step"]))
        if self.resume:
            loop.resume()
        return loop

    # --- what the stages need and leave

    def pools(self, vae: FrameAutoencoder) -> tuple[LatentPool, LatentPool]:
        """Training and validation films; rendered once per output folder (an encoder never changes after its stage)."""
        r = self.recipe.pool
        return self._pool(vae, "films", r.films), self._pool(vae, "validation films", r.validation_films)

    def _pool(self, vae: FrameAutoencoder, purpose: str, films: int) -> LatentPool:
        path = self.out / f"{purpose.replace(' ', '_')}.pt"
        if path.exists():
            return LatentPool.load(path)
        r, drawn = self.recipe, {"device": self.device, "workers": self.workers}
        pool = build_pool(vae, films, r.pool, seed=r.seed, purpose=purpose, size=r.size, **drawn)
        pool.save(path)
        return pool

    def _draw_losses(self, folder: str) -> None:
        plot_losses(self.out / folder / "log.jsonl", self.out / folder / "losses.png")

    def _export(self, parts: Parts, vae: FrameAutoencoder, stage: str) -> None:
        """Write the model folder: these averaged weights, this autoencoder, the stage's presets."""
        card, scheduler = self.lineage.card_after(stage), self.lineage.scheduler_after(stage)
        base = self.lineage.base_after(stage)
        export(parts.cpu(), vae.cpu(), self.out / "export", card=card, scheduler=scheduler, base=base)
