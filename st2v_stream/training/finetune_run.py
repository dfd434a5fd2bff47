"""A training on one's own clips, from the folder of clips to a model folder.

OUT/settings.json   what a resumed run must agree with
OUT/cache/          the clips, encoded (windows.py); may be deleted
OUT/cam/, OUT/apm/  checkpoint.pt, log.jsonl, losses.png of the two stages
OUT/films.png       clips and what the model makes of their first 16 frames
OUT/export/         the model folder: st2v generate --model OUT/export
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from st2v_stream.checkpoints.load import choose_device, load_generator
from st2v_stream.chunk import Frames
from st2v_stream.errors import InvalidRequest
from st2v_stream.generators.streamingt2v import StreamingT2V
from st2v_stream.training import randomness
from st2v_stream.training.clips import find_clips
from st2v_stream.training.finetune_export import export, link_base, model_card
from st2v_stream.training.finetune_stage import (
    STAGE_NAMES,
    FinetuneRecipe,
    FinetuneStage,
    StageName,
    checkpoint_activations,
)
from st2v_stream.training.loop import Loop, StopFlag
from st2v_stream.training.modelscope import Base, ExtenderParts, new_parts, read_base
from st2v_stream.training.sheets import contact_sheet, plot_losses
from st2v_stream.training.windows import ClipCache, EncodedClip, Nothing, Windows, encode_clips
from st2v_stream.types import Reference

BUDGET_SHARES: dict[StageName, float] = {"cam": 0.9, "apm": 0.1}
"""Of --budget. The paper's steps are 400 to 1, which would leave a short training no APM at all."""

_PREVIEWED_CLIPS = 4
_PREVIEWED_CHUNKS = 3


@dataclass
class Finetuning:
    """One call of `st2v train --clips`."""

    base: Path
    clips: Path
    out: Path
    recipe: FinetuneRecipe = field(default_factory=FinetuneRecipe)
    image_encoder: Path | None = None
    fps: float = 8.0
    held_out: int = 0
    strict: bool = False
    budget_s: float = 1500.0
    max_steps: dict[StageName, int | None] = field(default_factory=dict)
    preview_steps: int = 25
    device: str = "cpu"
    seed: int = 0
    resume: bool = False
    stop: StopFlag = field(default_factory=StopFlag)

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Finetuning:
        """From the options of finetune.py and command.py."""
        names = ("rate", "batch", "accumulate", "train_spatial", "checkpoint_activations")
        shared = ("base", "clips", "out", "image_encoder", "held_out", "strict", "preview_steps", "device", "seed", "resume")
        return cls(
            **{name: getattr(args, name) for name in shared},
            recipe=FinetuneRecipe(**{name: getattr(args, name) for name in names}),
            fps=args.clip_fps,
            budget_s=args.budget,
            max_steps={"cam": args.cam_steps or args.steps, "apm": args.apm_steps or args.steps},
        )

    def run(self) -> int:
        """Encode the clips, train both stages, export, draw. Returns 0, or 3 when a signal ended it early."""
        cv2.setNumThreads(1)
        self.stop.listen()
        device = choose_device(self.device)
        self._check_settings()
        base = read_base(self.base, self.image_encoder)
        parts = new_parts(base, self.seed)
        encoded, nothing = self._encode(base, device)
        if self.stop.is_set or not self._train_stages(base, parts.to(device), encoded, nothing):
            return 3
        parts.cpu()
        card = model_card(base, [clip.caption for clip in encoded], name=self.out.resolve().name, fps=self.fps)
        export(base, parts, card, self.out / "export")
        is_linked = link_base(base, self.out / "export")
        say(f"wrote {self.out / 'export'}" + ("" if is_linked else f"; its first chunks need {base.folder} beside it"))
        draw_films(self.out / "export", encoded[:_PREVIEWED_CLIPS], self.out / "films.png", self.preview_steps, self.device)
        return 0

    @property
    def _settings(self) -> dict[str, Any]:
        """What decides the numbers, besides the clips and the length."""
        own = {"base": str(self.base.resolve()), "fps": self.fps, "seed": self.seed, "held_out": self.held_out}
        return own | asdict(self.recipe)

    def _check_settings(self) -> None:
        """A resumed run goes on with what it was started with; a new one needs a folder of its own."""
        path = self.out / "settings.json"
        if not path.exists():
            return
        if not self.resume:
            expected = "--resume, or another folder"
            raise InvalidRequest("--out holds a training already", expected=expected, received=str(self.out), param="out")
        before = json.loads(path.read_text())
        for name, value in self._settings.items():
            if value != before.get(name):
                raise InvalidRequest(f"{name} is not what it was in {self.out}", expected=before.get(name), received=value)

    def _encode(self, base: Base, device: torch.device) -> tuple[list[EncodedClip], Nothing]:
        """The clips that can be used, in the cache. The encoders leave the device when they have done their work."""
        clips, problems = find_clips(self.clips)
        base.encoders_to(device)
        cache = ClipCache(base, self.out / "cache", fps=self.fps)
        encoded, more = encode_clips(clips, cache, self.stop, say)
        nothing = cache.nothing()
        base.encoders_to(torch.device("cpu"))
        if not self.stop.is_set:
            self._report_problems([*problems, *more], len(encoded))
        return encoded, nothing

    def _report_problems(self, problems: list[InvalidRequest], remaining: int) -> None:
        report = f"{remaining} clips in {self.clips} can be used"
        if problems:
            report += f", {len(problems)} files cannot:\n" + "\n".join(f"  {problem}" for problem in problems)
        if remaining <= self.held_out:
            raise InvalidRequest(report, expected=f"at least {self.held_out + 1} that can", received=remaining, param="clips")
        if problems and self.strict:
            raise InvalidRequest(report + "\nwhich --strict does not allow", param="clips")
        print(f"st2v: {report}", file=sys.stderr, flush=True)

    def _train_stages(self, base: Base, parts: ExtenderParts, clips: list[EncodedClip], nothing: Nothing) -> bool:
        """Whether both stages are finished. What comes after a stage that went on is trained anew."""
        if self.recipe.checkpoint_activations:
            checkpoint_activations(parts)
        (self.out / "settings.json").write_text(json.dumps(self._settings, indent=2) + "\n")
        training, validation = self._split(clips)
        resume = self.resume
        for name in STAGE_NAMES:
            stage = FinetuneStage(name, parts, training, validation, nothing, base.scheduler, self.recipe, seed=self.seed)
            loop = self._loop(stage, name, resume=resume)
            before = loop.progress.step
            if not loop.run():
                return False
            resume = resume and loop.progress.step == before
            plot_losses(loop.directory / "log.jsonl", loop.directory / "losses.png")
        return True

    def _split(self, clips: list[EncodedClip]) -> tuple[Windows, Windows]:
        """Training and validation clips; without held-out ones the same."""
        if not self.held_out:
            return Windows(clips), Windows(clips)
        order = torch.randperm(len(clips), generator=randomness.torch_rng(self.seed, "held-out clips")).tolist()
        kept = [clips[number] for number in order]
        return Windows(kept[self.held_out :]), Windows(kept[: self.held_out])

    def _loop(self, stage: FinetuneStage, name: StageName, *, resume: bool) -> Loop:
        budget_s, steps = self.budget_s * BUDGET_SHARES[name], self.max_steps.get(name)
        loop = Loop(stage, self.recipe.learning_rate, budget_s, self.out / name, self.stop, max_steps=steps)
        if resume and loop.resume():
            loop.say(f"resumed {name} at step {loop.progress.step}, {loop.progress.elapsed_s:.0f} s")
        else:
            loop.checkpoint.unlink(missing_ok=True)  # of what this training replaces
            log_start(loop)
        return loop


def log_start(loop: Loop) -> None:
    """Begin the log anew, with the losses before the first step."""
    loop.directory.mkdir(parents=True, exist_ok=True)
    row: dict[str, Any] = {"stage": loop.stage.name, "step": 0, "elapsed_s": 0.0} | loop.stage.validate()
    (loop.directory / "log.jsonl").write_text(json.dumps(row) + "\n")
    loop.say(json.dumps(row))


def draw_films(model: Path, clips: list[EncodedClip], path: Path, steps: int, device: str) -> None:
    """A contact sheet made by the product itself from the exported folder: each clip, and below it its continuation."""
    generator = load_generator(model, device)
    rows: list[Frames] = []
    titles: list[str] = []
    for clip in clips:
        truth = clip.read_frames()
        made = continued(generator, clip.caption, truth, steps)
        rows += [truth[: len(made)], made]
        titles += [f"clip: {clip.caption}", "continued after its first 16 frames"]
    contact_sheet(rows, titles, path, columns=10)
    say(f"drew {path}")


def continued(generator: StreamingT2V, caption: str, clip: Frames, steps: int) -> Frames:
    """The first 16 frames of a clip (T, H, W, 3), and up to three chunks that follow as far as the clip reaches."""
    spec = generator.spec
    direction = generator.card.direction(caption, num_inference_steps=steps)
    frames, memory = generator.begin(direction, Reference(clip[: spec.first_chunk_frames]), _nothing)
    film = [frames]
    for _ in range(min(_PREVIEWED_CHUNKS, (len(clip) - spec.first_chunk_frames) // spec.chunk_frames)):
        frames, memory = generator.generate(direction, memory, _nothing)
        film.append(frames)
    return np.concatenate(film)


def say(line: str) -> None:
    """For the screen, at once."""
    print(line, flush=True)


def _nothing(k: int, n: int) -> None:
    pass
