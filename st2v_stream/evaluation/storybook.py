"""`st2v evaluate storybook`: every figure of the built-in model beside its target and the judge's ceiling.

OUT/films/        the films, kept; an interrupted evaluation goes on with the next one
OUT/metrics.json  all figures, with what they were measured with
OUT/*.png         contact sheets (--sheets)

The first preset gets everything, further presets fewer films and first chunks only: making them is nearly all of the time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st2v_stream.direction import PRESETS
from st2v_stream.errors import CheckpointError, InvalidRequest
from st2v_stream.evaluation.targets import KINDS, Figures, Measured, beats, merit, missed, table

if TYPE_CHECKING:
    from st2v_stream.evaluation.storybook_films import FilmOrder, Studio
    from st2v_stream.evaluation.storybook_scores import Shown

METRICS_FILE = "metrics.json"
VERSION = 1  # of what is measured and how; other versions do not compare
DEFAULT_PRESETS = ("live", "default")
SHEET_FILMS, SHEET_FRAMES = 24, 8
LONG_SHEET_EVERY = 100


@dataclass(frozen=True)
class Plan:
    """How much is made. Measured in further chunks of preset live, the full plan costs about 2,300, the quick one 420."""

    films: int = 64  # per split, first preset
    further_films: int = 20  # per split, further presets
    long_films: int = 5  # one per motion
    long_frames: int = 1200
    identity_films: int = 12  # with APM, and as many without
    decoder_frames: int = 512
    decoder_clips: int = 48

    @classmethod
    def of(cls, args: argparse.Namespace) -> Plan:
        """The full or the quick plan, with the numbers that were given. Raises `InvalidRequest`."""
        plan = QUICK if args.quick else cls()
        films = plan.films if args.films is None else args.films
        frames = plan.long_frames if args.long_frames is None else args.long_frames
        if films < 1:
            raise InvalidRequest("--films is out of range", expected="1 or more", received=films, param="films")
        if frames < 200 or frames % 8:
            expected = "a multiple of 8, at least 200 (two ends of a hundred frames)"
            raise InvalidRequest("--long-frames is out of range", expected=expected, received=frames, param="long_frames")
        further = max(1, films * plan.further_films // plan.films)
        return cls(**{**asdict(plan), "films": films, "further_films": further, "long_frames": frames})


QUICK = Plan(films=8, further_films=4, long_frames=240, identity_films=3, decoder_frames=128, decoder_clips=12)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `st2v evaluate storybook`."""
    parser.add_argument("--model", help="a storybook model by name, or its folder (storybook)")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"), help="films, figures, sheets (runs/evaluation)")
    parser.add_argument(
        "--preset", dest="presets", action="append", choices=PRESETS, help="repeat for more; the first gets all (live, default)"
    )
    parser.add_argument("--films", type=int, help=f"first chunks per split ({Plan.films}, quick {QUICK.films})")
    parser.add_argument("--long-frames", type=int, help=f"length of long films ({Plan.long_frames}, quick {QUICK.long_frames})")
    parser.add_argument("--quick", action="store_true", help="a few films of each kind, in minutes")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ... (auto)")
    parser.add_argument("--sheets", action="store_true", help="draw 24 held-out prompts and a long film as PNG")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a required figure is missed")
    parser.add_argument(
        "--write-metrics", action="store_true", help="keep the figures as the model's metrics.json, if they beat the committed"
    )


def run(args: argparse.Namespace) -> int:
    """Make, read, print. Status 0; with --check 1 if a required figure is missed; 1 if --write-metrics was refused."""
    plan = Plan.of(args)
    if args.quick and args.write_metrics:
        raise InvalidRequest("--write-metrics wants the full evaluation", expected="no --quick", received="--quick")
    evaluation = _open(args, plan)
    report = evaluation.report()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / METRICS_FILE).write_text(json.dumps(report, indent=2) + "\n")
    if args.sheets:
        evaluation.draw_sheets()
    is_written = not args.write_metrics or write_metrics(report, evaluation.model)
    lacking = [key for preset in figures_of(report).values() for key in missed(preset)]
    return 1 if not is_written or (args.check and lacking) else 0


def _open(args: argparse.Namespace, plan: Plan) -> Evaluation:
    from st2v_stream.checkpoints.models import find_folder

    model = Path(args.model) if Path(args.model).is_dir() else find_folder(args.model)
    presets = tuple(dict.fromkeys(args.presets or DEFAULT_PRESETS))
    return Evaluation(model, args.out, plan, presets, args.device, is_quick=args.quick)


@dataclass(frozen=True)
class Evaluation:
    """One model, measured by one plan."""

    model: Path
    out: Path
    plan: Plan
    presets: tuple[str, ...]
    device: str = "auto"
    is_quick: bool = False

    def report(self) -> dict[str, Any]:
        """Measure every preset, print each table, and gather everything that metrics.json holds."""
        figures = {preset: self._measure(preset, is_first=not number) for number, preset in enumerate(self.presets)}
        return self._facts() | {
            "presets": {preset: self._studio(preset).card.presets.get(preset, {}) for preset in self.presets},
            "figures": {name: {key: one.to_json() for key, one in preset.items()} for name, preset in figures.items()},
        }

    def draw_sheets(self) -> None:
        """Films of the first preset: 24 held-out prompts, unpicked, and the first long film every hundred frames."""
        from st2v_stream.evaluation.storybook_films import SPLITS, long_films, openings
        from st2v_stream.training.sheets import contact_sheet

        studio = self._studio(self.presets[0])
        per_split = min(SHEET_FILMS // 2, self.plan.films)
        orders = [order for split in SPLITS[1:] for order in openings(split, per_split)]
        films = self._shown(studio, orders)
        titles = [film.spec.caption for film in films]
        contact_sheet([film.frames for film in films], titles, self.out / "held_out.png", columns=SHEET_FRAMES)
        film = self._shown(studio, long_films(1, self.plan.long_frames))[0]
        columns = 1 + self.plan.long_frames // LONG_SHEET_EVERY
        contact_sheet([film.frames], [film.spec.caption], self.out / "long.png", columns=columns)

    def _measure(self, preset: str, *, is_first: bool) -> Figures:
        from st2v_stream.evaluation import storybook_scores as scores
        from st2v_stream.evaluation.storybook_films import SPLITS, identity_films, long_films, make_all, openings
        from st2v_stream.worlds.judge import Judge

        studio, judge = self._studio(preset), Judge.load()
        count = self.plan.films if is_first else self.plan.further_films
        first_chunks = {split: openings(split, count) for split in SPLITS}
        long = long_films(self.plan.long_films, self.plan.long_frames) if is_first else []
        travellers = identity_films(self.plan.identity_films) if is_first else []
        make_all(studio, [*(order for split in first_chunks.values() for order in split), *long, *travellers], _say)
        _say(f"{preset}: reading the films")
        figures = scores.opening_figures(judge, {split: self._shown(studio, each) for split, each in first_chunks.items()})
        if is_first:
            figures |= scores.decoder_figures(self._vae(), frames=self.plan.decoder_frames, clips=self.plan.decoder_clips)
            figures |= scores.long_figures(judge, shown := self._shown(studio, long))
            figures |= scores.identity_figures(judge, self._shown(studio, travellers)) | scores.speed_figures(shown)
        self._print(preset, figures)
        return figures

    def _print(self, preset: str, figures: Figures) -> None:
        settings = ", ".join(f"{name} {value:g}" for name, value in self._studio(preset).card.presets.get(preset, {}).items())
        held, score = merit((key, figure.value) for key, figure in figures.items())
        required = sum(KINDS[key].required is not None for key in figures)
        print(f"\n{self.model.name}, preset {preset} ({settings})\n{table(figures)}")
        print(f"{held} of {required} required targets held; mean score against the goals {score:.3f}", flush=True)

    def _studio(self, preset: str) -> Studio:
        from st2v_stream.evaluation.storybook_films import Studio

        return Studio(self.model, self.out / "films", preset=preset, device=self.device)

    def _shown(self, studio: Studio, orders: list[FilmOrder]) -> list[Shown]:
        from st2v_stream.evaluation.storybook_scores import Shown

        return [Shown(order, studio.film(order)) for order in orders]

    def _vae(self) -> Any:
        from st2v_stream.networks.vae import FrameAutoencoder

        return FrameAutoencoder.from_pretrained(self.model / "vae")

    def _facts(self) -> dict[str, Any]:
        """With what, when and where."""
        import torch

        from st2v_stream.checkpoints.load import choose_device
        from st2v_stream.checkpoints.models import weights_digest
        from st2v_stream.worlds.judge import judge_digest

        return {
            "version": VERSION,
            "date": datetime.now(UTC).date().isoformat(),
            "weights_sha256": weights_digest(self.model),
            "judge_sha256": judge_digest(),
            "torch": torch.__version__,
            "device": str(choose_device(self.device)),
            "threads": torch.get_num_threads(),
            "is_quick": self.is_quick,
            "plan": asdict(self.plan),
        }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- metrics.json


def write_metrics(report: Mapping[str, Any], model: Path) -> bool:
    """Write the model's metrics.json if the report beats the committed one; says why not. Returns whether it was written.

    Without committed figures anything beats them; figures by another judge or another version of the measures do not compare.
    """
    from st2v_stream.checkpoints.models import find_folder

    committed = find_folder("storybook") / METRICS_FILE
    if committed.is_file() and (reason := why_not_better(report, read_metrics(committed))):
        _say(f"{model / METRICS_FILE} is not written: {reason}")
        return False
    (model / METRICS_FILE).write_text(json.dumps(report, indent=2) + "\n")
    _say(f"{model / METRICS_FILE} is written")
    return True


def why_not_better(new: Mapping[str, Any], old: Mapping[str, Any]) -> str | None:
    """In words, or None if the new report may take the place of the old one."""
    for name in ("version", "judge_sha256", "plan"):
        if new[name] != old[name]:
            return f"the committed figures do not compare: {name} expected {old[name]}, received {new[name]}"
    if lacking := set(old["figures"]) - set(new["figures"]):
        return f"the committed figures have presets that are missing here: {', '.join(sorted(lacking))}"
    if beats(figures_of(new), figures_of(old)):
        return None
    return "it does not beat the committed figures (required targets held, then mean score against the goals)"


def read_metrics(path: Path) -> dict[str, Any]:
    """A report that was written. Raises `CheckpointError` naming the file and what is wrong."""
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        figures_of(report)
        [report[name] for name in ("version", "judge_sha256", "plan")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged", expected="a report of st2v evaluate", received=repr(error)) from error
    return report


def figures_of(report: Mapping[str, Any]) -> dict[str, dict[str, Measured]]:
    """The figures of a report, by preset; what this version does not know is left out."""
    return {
        preset: {key: Measured(**_with_nan(one)) for key, one in figures.items() if key in KINDS}
        for preset, figures in report["figures"].items()
    }


def _with_nan(figure: Mapping[str, Any]) -> dict[str, Any]:
    return {**figure, "value": float("nan") if figure["value"] is None else figure["value"]}
