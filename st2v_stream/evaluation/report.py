"""What came out, for people and for programs: a table, JSON, and the means of every group of films with their intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from st2v_stream import __version__
from st2v_stream.evaluation.film import Film
from st2v_stream.evaluation.glossary import MEASURES, Measure
from st2v_stream.evaluation.intervals import LEAST_FILMS, Interval, mean_interval
from st2v_stream.evaluation.measure import FilmMeasures

_NONE = "-"
_NAME_CHARS = 36


@dataclass(frozen=True)
class Outcome:
    """A film and what was measured on it."""

    film: Film
    measures: FilmMeasures


@dataclass(frozen=True)
class Report:
    """A whole evaluation. settings: what the numbers depend on. protocol: its name. notes: to be read with the numbers."""

    outcomes: tuple[Outcome, ...]
    settings: dict[str, Any]
    protocol: str
    notes: tuple[str, ...] = field(default=())

    @property
    def groups(self) -> dict[str, list[FilmMeasures]]:
        """Films by what made them, in order of appearance."""
        groups: dict[str, list[FilmMeasures]] = {}
        for outcome in self.outcomes:
            groups.setdefault(outcome.measures.group, []).append(outcome.measures)
        return groups

    @property
    def measured(self) -> tuple[Measure, ...]:
        """The measures that at least one film has."""
        return tuple(m for m in MEASURES if any(o.measures.values[m.key] is not None for o in self.outcomes))

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values; measures that were not taken are null, never a number."""
        groups = [
            {"name": name, "films": len(films), "measures": {m.key: _interval_json(films, m) for m in MEASURES}}
            for name, films in self.groups.items()
        ]
        return {
            "st2v_stream": __version__,
            "protocol": self.protocol,
            "settings": self.settings,
            "notes": list(self.notes),
            "groups": groups,
            "films": [outcome.measures.to_json() for outcome in self.outcomes],
        }


def notes_of(settings: dict[str, Any]) -> tuple[str, ...]:
    """What every reader of the numbers must know about how they were taken."""
    notes = []
    if not settings["flow_is_raft"]:
        notes.append(
            f"Optical flow is {settings['flow']}: MAWE, flow and flow deviation do not compare with numbers made with RAFT, "
            "the paper's among them."
        )
    if settings["clip"] is None:
        notes.append("CLIP score: not measured (--clip FOLDER gives a CLIP).")
    return tuple(notes)


def span(found: Interval, measure: Measure, word: str) -> str:
    """The interval in words; empty where there are too few films for one."""
    return f"{number(found.low, measure)}{word}{number(found.high, measure)}" if found.n >= LEAST_FILMS else ""


def interval_of(films: Sequence[FilmMeasures], measure: Measure) -> Interval:
    """Mean of the films that have a value, with its 95 % interval; n tells how many."""
    values = [film.values[measure.key] for film in films]
    return mean_interval([value for value in values if value is not None])


def _interval_json(films: Sequence[FilmMeasures], measure: Measure) -> dict[str, Any] | None:
    found = interval_of(films, measure)
    if not found.n:
        return None
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}


def number(value: float | None, measure: Measure) -> str:
    """A value as people read it."""
    if value is None:
        return _NONE
    return f"{value:,.{measure.digits if abs(value) < 1000 else 0}f}"


def cell(films: Sequence[FilmMeasures], measure: Measure) -> str:
    """Mean and interval of a group (from 6 films on); (n) where some films have no value."""
    found = interval_of(films, measure)
    if found.n == 0:
        return _NONE
    text = number(found.mean, measure)
    beside = span(found, measure, ", ")
    text += f" [{beside}]" if beside else ""
    return text if found.n == len(films) else f"{text} (n={found.n})"


def table(report: Report) -> str:
    """Measures down, groups across; below it every film where a group has several; then the notes."""
    groups = report.groups
    rows = [["", *(f"{name} (n={len(films)})" for name, films in groups.items()), "better"]]
    rows += [[_titled(m), *(cell(films, m) for films in groups.values()), m.better] for m in MEASURES]
    parts = [aligned(rows)]
    if len(report.outcomes) > len(groups):
        parts.append(_films_table(report))
    own = {note for outcome in report.outcomes for note in outcome.measures.notes}
    parts.append("\n".join(f"* {note}" for note in (*report.notes, *sorted(own))))
    return "\n\n".join(part for part in parts if part)


def _films_table(report: Report) -> str:
    measures = report.measured
    rows = [["film", "frames", *(measure.short for measure in measures)]]
    for outcome in report.outcomes:
        found = outcome.measures
        rows.append([_shortened(found.prompt or found.name), str(found.frames), *_numbers(found, measures)])
    return aligned(rows)


def _numbers(film: FilmMeasures, measures: Sequence[Measure]) -> list[str]:
    return [number(film.values[measure.key], measure) for measure in measures]


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_CHARS else name[: _NAME_CHARS - 1] + "…"


def _titled(measure: Measure) -> str:
    return f"{measure.title}, {measure.unit}" if measure.unit else measure.title


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width) for column, (text, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def to_text(report: Report) -> str:
    """The JSON as it is written to a file."""
    return json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
