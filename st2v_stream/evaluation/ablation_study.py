"""The work behind the ablation table: variants trained alike, films made and measured, everything kept and continued.

OUT/plan.json            what the kept work belongs to; another plan or other weights are refused
OUT/pool.pt              the training films' latents
OUT/variants/<name>/     checkpoint.pt while it is trained, then weights.safetensors
OUT/films/<row>/<n>.json the measures of film n
OUT/table.md table.json  the result
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from st2v_stream.checkpoints.models import weights_digest
from st2v_stream.errors import InvalidRequest
from st2v_stream.evaluation.ablation_rows import (
    BLENDING_CONTROL,
    BLENDING_MEASURES,
    ROLL_OUT_CONTROL,
    ROLL_OUT_MEASURES,
    WINDOW,
    BlendingRow,
    Reader,
    RollOutRow,
    Row,
    measure_blending,
    measure_roll_out,
)
from st2v_stream.evaluation.ablation_table import FilmMeasures, Table, make_table
from st2v_stream.evaluation.blended_films import denoise_again
from st2v_stream.evaluation.rollouts import Films, Sampling, Scene, real_films, roll_out, scene, through_autoencoder
from st2v_stream.evaluation.variants import WEIGHTS_FILE, Budget, Variant, trained_variant
from st2v_stream.networks.unet import Conditioning
from st2v_stream.networks.vae import FrameAutoencoder
from st2v_stream.training.export import load_export
from st2v_stream.training.parts import Parts
from st2v_stream.training.pool import LatentPool, build_pool
from st2v_stream.training.preview import to_latents, to_pixels
from st2v_stream.training.recipe import PoolRecipe

REFERENCE = "real"
REFERENCE_TITLE = "the renderer's film through the autoencoder"


@dataclass(frozen=True)
class Plan:
    """How much work a table is. Everything here decides numbers, so kept work belongs to one plan."""

    name: str
    budget: Budget
    films: int  # per roll-out row
    chunks: int  # of 8 frames, after the 16 that are given
    sampling: Sampling
    blended_films: int
    blended_frames: int  # a multiple of 16
    noise_levels: tuple[float, ...]
    at_once: int = 4  # films denoised together
    seed: int = 0
    size: int = 64


FULL = Plan(
    name="full",
    budget=Budget(steps=350),
    films=12,
    chunks=16,
    sampling=Sampling(steps=4, guidance=1.0),
    blended_films=12,
    blended_frames=64,
    noise_levels=(0.5, 0.75),
)
QUICK = Plan(
    name="quick",
    budget=Budget(steps=16, batch=2, films=48, warmup_steps=2),
    films=6,
    chunks=4,
    sampling=Sampling(steps=3, guidance=1.0),
    blended_films=6,
    blended_frames=32,
    noise_levels=(0.5,),
    at_once=6,
)

READING = (
    "Means over films with 95 % bootstrap intervals. `*`: the interval of the paired difference to the control (same prompts, "
    "same noise) excludes zero; of many such comparisons one in twenty does so by chance. The last column names the measure "
    "that the paper's claim is about first, then others that differ.\n"
)
QUICK_WARNING = (
    "**This is the quick table.** It shows that every row runs; its variants are hardly trained, its films short and few. "
    "Its differences say nothing about the mechanisms.\n"
)


def say(line: str) -> None:
    """Progress goes to stderr; stdout is the table."""
    print(line, file=sys.stderr, flush=True)


@dataclass
class Study:
    """One plan on one model folder; `out` keeps what is done."""

    plan: Plan
    origin: Path
    out: Path
    judge: Reader
    judge_digest: str
    say: Callable[[str], None] = say
    seconds_per_film: dict[str, float] = field(default_factory=dict)  # of those made now
    _variants: dict[Conditioning, Variant] = field(default_factory=dict)

    def run(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Print the table and its JSON; returns what the JSON line holds. Raises `InvalidRequest`."""
        started = time.monotonic()
        self._claim_folder()
        self._say_what_is_kept(rows)
        self._train_what_is_missing(rows)
        tables = self._tables(rows)
        report = self._report(tables, time.monotonic() - started)
        markdown = "\n".join([self._heading(), *(table.markdown() for table in tables), READING])
        _write(self.out / "table.md", markdown)
        _write(self.out / "table.json", json.dumps(report, indent=2) + "\n")
        print(markdown)
        print(json.dumps(report))
        return report

    # ------------------------------------------------------------ tables

    def _tables(self, rows: Sequence[Row]) -> list[Table]:
        roll_outs = [row for row in rows if isinstance(row, RollOutRow)]
        blendings = [row for row in rows if isinstance(row, BlendingRow)]
        tables = [self._roll_out_table(roll_outs)] if roll_outs else []
        return tables + [self._blending_table(blendings, t0) for t0 in self.plan.noise_levels if blendings]

    def _roll_out_table(self, rows: Sequence[RollOutRow]) -> Table:
        films = self.plan.films
        reference = self._films(REFERENCE, films, self._make_references)
        made = [(row, self._films(row.name, films, partial(self._make_roll_outs, row))) for row in rows]
        title = f"Roll-outs of {self._frames} frames from a real first chunk"
        return make_table(title, ROLL_OUT_MEASURES, made, ROLL_OUT_CONTROL.name, (REFERENCE_TITLE, reference))

    def _blending_table(self, rows: Sequence[BlendingRow], t0: float) -> Table:
        films = self.plan.blended_films
        reference = self._films("source", films, self._make_sources)
        made = [(row, self._films(f"{row.name}-{t0}", films, partial(self._make_blended, row, t0))) for row in rows]
        title = f"{self.plan.blended_frames} real frames denoised again from t = {t0}, in windows of 16"
        return make_table(title, BLENDING_MEASURES, made, BLENDING_CONTROL.name, ("the same frames before", reference))

    def _heading(self) -> str:
        plan, budget = self.plan, self.plan.budget
        heading = (
            f"Every variant: {budget.steps} steps of {budget.batch} windows from the same weights, its conditioning made anew; "
            f"roll-outs with {plan.sampling.steps} steps and guidance {plan.sampling.guidance}.\n"
        )
        return f"{QUICK_WARNING}\n{heading}" if plan.name == "quick" else heading

    def _report(self, tables: Sequence[Table], seconds: float) -> dict[str, Any]:
        return {
            "ablation": self.plan.name,
            **self._identity,
            "seconds": round(seconds, 1),
            "seconds_per_film": {name: round(value, 2) for name, value in self.seconds_per_film.items()},
            "tables": [table.as_json() for table in tables],
        }

    # ------------------------------------------------------------ what is kept

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What the kept numbers depend on, as JSON gives it back."""
        plan: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self.plan)))
        return {"plan": plan, "weights": weights_digest(self.origin), "judge": self.judge_digest}

    def _claim_folder(self) -> None:
        path = self.out / "plan.json"
        if path.exists() and (kept := json.loads(path.read_text())) != self._identity:
            differs = [name for name in self._identity if kept.get(name) != self._identity[name]]
            message = f"{self.out} holds the work of another table (other {', '.join(differs)})"
            raise InvalidRequest(message, expected="its plan, weights and judge, or another --out", param="out")
        _write(path, json.dumps(self._identity, indent=2) + "\n")

    def _say_what_is_kept(self, rows: Sequence[Row]) -> None:
        wanted = self._wanted_variants(rows)
        variants = [name for name in wanted if self._is_trained(name)]
        films = len(list((self.out / "films").glob("*/*.json")))
        self.say(f"reused from {self.out}: {len(variants)} of {len(wanted)} trained variants, {films} measured films")

    def _train_what_is_missing(self, rows: Sequence[Row]) -> None:
        for conditioning in self._wanted_variants(rows):
            if not self._is_trained(conditioning):
                self._variant(conditioning)

    def _wanted_variants(self, rows: Sequence[Row]) -> list[Conditioning]:
        return list(dict.fromkeys(row.conditioning if isinstance(row, RollOutRow) else "none" for row in rows))

    def _is_trained(self, conditioning: Conditioning) -> bool:
        return (self._variant_folder(conditioning) / WEIGHTS_FILE).exists()

    def _variant_folder(self, conditioning: Conditioning) -> Path:
        return self.out / "variants" / conditioning

    def _films(self, name: str, count: int, make: Callable[[Sequence[Scene]], list[dict[str, float]]]) -> FilmMeasures:
        """The measures of films 0..count-1. Films are made in groups that never change: a film's bits depend on its group."""
        measures: list[dict[str, float]] = []
        for start in range(0, count, self.plan.at_once):
            numbers = range(start, min(count, start + self.plan.at_once))
            paths = [self.out / "films" / name / f"{number}.json" for number in numbers]
            if not all(path.exists() for path in paths):
                self._make_group(name, [scene(number, self.plan.seed) for number in numbers], paths, make)
            measures += [json.loads(path.read_text()) for path in paths]
        return measures

    def _make_group(
        self,
        name: str,
        scenes: Sequence[Scene],
        paths: Sequence[Path],
        make: Callable[[Sequence[Scene]], list[dict[str, float]]],
    ) -> None:
        started = time.monotonic()
        with torch.no_grad():
            made = make(scenes)
        self.seconds_per_film[name] = (time.monotonic() - started) / len(scenes)
        for path, measures in zip(paths, made, strict=True):
            _write(path, json.dumps(measures) + "\n")
        self.say(f"{name}: films {scenes[0].number} to {scenes[-1].number}, {self.seconds_per_film[name]:.1f} s per film")

    # ------------------------------------------------------------ films of one group

    @property
    def _frames(self) -> int:
        return WINDOW + 8 * self.plan.chunks

    def _make_references(self, scenes: Sequence[Scene]) -> list[dict[str, float]]:
        truths = real_films(scenes, self._frames)
        return self._measured(through_autoencoder(self._vae, truths), truths, scenes)

    def _make_roll_outs(self, row: RollOutRow, scenes: Sequence[Scene]) -> list[dict[str, float]]:
        truths = real_films(scenes, self._frames)
        first = through_autoencoder(self._vae, truths[:, :WINDOW])
        plan, variant = self.plan, self._variant(row.conditioning)
        films = roll_out(variant, self._vae, scenes, first, chunks=plan.chunks, anchor=row.anchor, sampling=plan.sampling)
        return self._measured(films, truths, scenes)

    def _measured(self, films: Films, truths: Films, scenes: Sequence[Scene]) -> list[dict[str, float]]:
        rows = zip(films, truths, scenes, strict=True)
        return [measure_roll_out(film, truth, each.spec, self.judge) for film, truth, each in rows]

    def _make_sources(self, scenes: Sequence[Scene]) -> list[dict[str, float]]:
        return [measure_blending(film, film) for film in self._sources(scenes)]

    def _make_blended(self, row: BlendingRow, t0: float, scenes: Sequence[Scene]) -> list[dict[str, float]]:
        sources = self._sources(scenes)
        clean = to_latents(self._vae, sources)
        films: Films = to_pixels(self._vae, denoise_again(self._variant("none"), scenes, clean, t0, row.blending))
        return [measure_blending(film, source) for film, source in zip(films, sources, strict=True)]

    def _sources(self, scenes: Sequence[Scene]) -> Films:
        return through_autoencoder(self._vae, real_films(scenes, self.plan.blended_frames))

    # ------------------------------------------------------------ networks

    @cached_property
    def _loaded(self) -> tuple[Parts, FrameAutoencoder]:
        parts, vae = load_export(self.origin)
        return parts, vae.eval().requires_grad_(False)

    @property
    def _vae(self) -> FrameAutoencoder:
        return self._loaded[1]

    def _variant(self, conditioning: Conditioning) -> Variant:
        if conditioning not in self._variants:
            folder, plan = self._variant_folder(conditioning), self.plan
            self._variants[conditioning] = trained_variant(
                conditioning, self._loaded[0], lambda: self._pool, plan.budget, folder, seed=plan.seed, say=self.say
            )
        return self._variants[conditioning]

    @cached_property
    def _pool(self) -> LatentPool:
        path, plan = self.out / "pool.pt", self.plan
        if not path.exists():
            self.say(f"rendering and encoding {plan.budget.films} training films")
            build_pool(self._vae, plan.budget.films, PoolRecipe(), seed=plan.seed, purpose="ablation", size=plan.size).save(
                path
            )
        return LatentPool.load(path)


def _write(path: Path, text: str) -> None:
    """Beside its place, then renamed: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".half")
    half.write_text(text)
    os.replace(half, path)
