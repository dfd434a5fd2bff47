"""An evaluation from its arguments to its files: films found or made, each measured once, one report."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from st2v_stream.checkpoints.load import choose_device
from st2v_stream.config import read_config
from st2v_stream.errors import InvalidRequest, StoreError
from st2v_stream.evaluation import page, plots, protocol, report
from st2v_stream.evaluation.film import ChunkGrid, Film, open_film
from st2v_stream.evaluation.filming import Model, Shoot, find_model, first_chunks, make_films, slug, write_whole
from st2v_stream.evaluation.flow import dis_flow, raft_flow
from st2v_stream.evaluation.measure import FilmMeasures, Settings, measure_film
from st2v_stream.evaluation.protocol import PROTOCOLS, Protocol

if TYPE_CHECKING:
    from st2v_stream.evaluation.clip_score import ClipScorer

_FRAMES_MADE = 120
_DEFAULT_OUT = Path("evaluation")


@dataclass(frozen=True)
class Places:
    """Where results go; None: nowhere."""

    out: Path | None
    json: Path | None


def run(args: argparse.Namespace) -> int:
    """Evaluate; returns the exit status. Everything that can be refused is refused before anything is computed."""
    kind = PROTOCOLS[args.protocol]
    places = _places(args)
    videos, models, prompts = _videos(args), _models(args), _prompts(args, kind)
    settings = _settings(args, kind)
    films = [*videos, *_make(args, kind, models, prompts, places)]
    outcomes = _measure(films, settings, places.out)
    as_json = settings.to_json()
    notes = (*report.notes_of(as_json), *_protocol_notes(args, kind, models))
    result = report.Report(tuple(outcomes), as_json, kind.name, notes)
    print(report.table(result))
    _write(result, places)
    return 0


# ---------------------------------------------------------------- what was asked for


def _places(args: argparse.Namespace) -> Places:
    if not args.videos and not args.models:
        raise InvalidRequest("nothing to evaluate", expected="video files, --model NAME, or storybook", received="none of them")
    out = args.out or (_DEFAULT_OUT if args.models else None)
    if out is not None and out.exists() and not out.is_dir():
        raise InvalidRequest("--out cannot be used", expected="a folder, or a new name", received=str(out), param="out")
    if args.json is not None:
        _check_json(args.json)
    return Places(out, args.json)


def _check_json(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise InvalidRequest("--json cannot be used", expected="a file in an existing folder", received=str(path), param="json")
    if path.exists() and not _is_report(path):  # a slip that would destroy a film
        raise InvalidRequest(f"{path} exists and is no report", expected="a new file, or an older report", param="json")


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"{"


def _videos(args: argparse.Namespace) -> list[Film]:
    """The files that were named, looked into; grouped by their folder."""
    twice = [path for path, count in Counter(path.resolve() for path in args.videos).items() if count > 1]
    if twice:
        raise InvalidRequest("a video is named twice", expected="every video once", received=str(twice[0]))
    grid, films = _grid(args), [open_film(path) for path in args.videos]
    if grid is not None:
        films = [replace(film, grid=grid) for film in films]
    if films and args.prompts is not None and not args.models:
        prompts = protocol.pair_with_videos(protocol.read_prompts(args.prompts), len(films), args.prompts)
        films = [replace(film, prompt=prompt) for film, prompt in zip(films, prompts, strict=True)]
    return [replace(film, group=group) for film, group in zip(films, _groups(films), strict=True)]


def _groups(films: Sequence[Film]) -> list[str]:
    """A film alone by its own name; several by their folders, as short as tells them apart."""
    if len(films) == 1:
        return [films[0].name]
    folders = [film.path.resolve().parent for film in films]
    is_clear = len({folder.name for folder in folders}) == len(set(folders))
    return [folder.name if is_clear and folder.name else str(folder) for folder in folders]


def _grid(args: argparse.Namespace) -> ChunkGrid | None:
    given = args.first_chunk_frames, args.chunk_frames
    if given == (None, None):
        return None
    if None in given:
        received = "only one of them"
        raise InvalidRequest(
            "the chunk grid is half given", expected="--first-chunk-frames and --chunk-frames", received=received
        )
    return ChunkGrid(*given)


def _models(args: argparse.Namespace) -> list[Model]:
    device = read_config({"device": args.device}).device
    models = [find_model(name, device) for name in args.models]
    labels = Counter(model.label for model in models)
    if labels and max(labels.values()) > 1:
        raise InvalidRequest("two models have one name", expected="different names", received=labels.most_common(1)[0][0])
    return models


def _prompts(args: argparse.Namespace, kind: Protocol) -> tuple[str, ...]:
    if not args.models:
        return ()
    if args.prompts is not None:
        return protocol.read_prompts(args.prompts)
    if kind is protocol.PAPER:
        return protocol.paper_prompts()
    raise InvalidRequest("a model needs prompts", expected="--prompts FILE, or --protocol paper", received="neither")


def _settings(args: argparse.Namespace, kind: Protocol) -> Settings:
    wanted = args.num_frames if args.num_frames is not None else kind.num_frames
    if wanted is not None and wanted < 2:
        raise InvalidRequest("--num-frames is out of range", expected="2 or more", received=wanted, param="num_frames")
    device = str(choose_device(read_config({"device": args.device}).device)) if args.raft or args.clip else "cpu"
    flow = dis_flow() if args.raft is None else raft_flow(args.raft, device)
    frames = wanted if wanted is not None or not args.models else _FRAMES_MADE
    return Settings(flow, _clip(args.clip, device), resizes_all=kind.resizes_all, max_frames=frames)


def _protocol_notes(args: argparse.Namespace, kind: Protocol, models: Sequence[Model]) -> list[str]:
    """What was shared, and where the protocol was left."""
    notes = []
    if kind.shares_first_chunk and len(models) > 1:
        notes.append(
            f"Every film starts from the first chunk that {models[0].label} made for its prompt, unless it says otherwise."
        )
    if kind.num_frames is not None and args.num_frames not in (None, kind.num_frames):
        notes.append(f"Protocol {kind.name} in part: {args.num_frames} frames per film instead of {kind.num_frames}.")
    if kind is protocol.PAPER and args.prompts is not None:
        notes.append(f"Protocol {kind.name} with other prompts: those of {args.prompts.name}.")
    return notes


def _clip(folder: Path | None, device: str) -> ClipScorer | None:
    if folder is None:
        return None
    from st2v_stream.evaluation.clip_score import ClipScorer

    return ClipScorer.from_folder(folder, device)


# ---------------------------------------------------------------- films


def _make(
    args: argparse.Namespace, kind: Protocol, models: Sequence[Model], prompts: Sequence[str], places: Places
) -> list[Film]:
    """Every model films every prompt; where the protocol shares the first chunk, the first model makes it for all."""
    if not models or places.out is None:
        return []
    frames = args.num_frames or kind.num_frames or _FRAMES_MADE
    shoot = Shoot(frames, args.seed, read_config({"preset": args.preset}).preset)
    for model in models:
        _warn(model, prompts)
    films, starts = [], None
    for model in models:
        made = make_films(model, prompts, places.out / "films" / slug(model.label), shoot, starts=starts, report=_say)
        if kind.shares_first_chunk and starts is None and len(models) > 1:
            starts = first_chunks(made)
        films += made
    return films


def _warn(model: Model, prompts: Sequence[str]) -> None:
    """The first warning of the card in full, the others counted; each film's report names its own."""
    warned = [warning for prompt in prompts for warning in model.card.warnings(prompt)]
    if warned:
        _say(f"st2v: {warned[0]}")
    if len(warned) > 1:
        _say(f"st2v: {len(warned)} of {len(prompts)} prompts hold words that {model.card.title} does not know")


def _measure(films: Sequence[Film], settings: Settings, out: Path | None) -> list[report.Outcome]:
    outcomes = []
    for number, film in enumerate(films, 1):
        _say(f"measuring {number} of {len(films)}: {film.name}")
        outcomes.append(report.Outcome(film, _measured(film, settings, out)))
    return outcomes


def _measured(film: Film, settings: Settings, out: Path | None) -> FilmMeasures:
    """From OUT/measures if the same film was measured in the same way before, else now."""
    if out is None:
        return measure_film(film, settings)
    known = out / "measures" / f"{_address(film, settings)}.json"
    try:
        return replace(
            FilmMeasures.from_json(json.loads(known.read_text())), name=film.name, group=film.group, path=str(film.path)
        )
    except (OSError, ValueError, KeyError, TypeError):
        measures = measure_film(film, settings)
    _keep(known, json.dumps(measures.to_json()))
    return measures


def _address(film: Film, settings: Settings) -> str:
    """Of all that a film's measures depend on."""
    sha = hashlib.sha256()
    with film.path.open("rb") as file:
        while piece := file.read(2**20):
            sha.update(piece)
    sizes = None if film.grid is None else [film.grid.first_chunk_frames, film.grid.chunk_frames]
    told = [settings.to_json(), film.prompt, film.fps, sizes, film.is_exact, list(film.notes), sha.hexdigest()]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


# ---------------------------------------------------------------- results


def _write(result: report.Report, places: Places) -> None:
    if places.json is not None:
        _keep(places.json, report.to_text(result))
    if places.out is None:
        return
    _keep(places.out / "report.json", report.to_text(result))
    for number, outcome in enumerate(result.outcomes, 1):
        drawn = plots.alone(plots.film_plot(outcome.measures))
        _keep(places.out / "plots" / f"{number:03d}-{slug(outcome.measures.name)}.svg", drawn)
    if len(result.outcomes) > 1:
        _keep(places.out / "plots" / "overview.svg", plots.alone(plots.overview_plot(result.groups)))
    _keep(places.out / "report.html", page.render(result, places.out))
    _say(f"report: {places.out / 'report.html'}")


def _keep(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise StoreError(f"cannot write {path}", expected="space and permission", received=error.strerror) from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
