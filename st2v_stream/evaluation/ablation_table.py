"""From numbers per film to the ablation table: intervals, paired differences, verdicts, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from st2v_stream.evaluation.ablation_rows import HEADLINES, Measure, Row
from st2v_stream.evaluation.intervals import LEAST_FILMS, Interval, mean_interval, paired_difference

NOT_SHOWN = "no difference shown"
FilmMeasures = Sequence[Mapping[str, float]]
"""The measures of one row, film by film."""


@dataclass(frozen=True)
class Cell:
    """A measure of one row, and how far it lies from the control's (None in the control and in the reference)."""

    value: Interval
    difference: Interval | None = None

    @property
    def differs(self) -> bool:
        """Whether the paired difference to the control excludes zero."""
        return self.difference is not None and self.difference.excludes_zero


@dataclass(frozen=True)
class TableRow:
    """One line of a table. `cells` by the measures' names."""

    name: str
    title: str
    films: int
    cells: Mapping[str, Cell]
    verdict: str


@dataclass(frozen=True)
class Table:
    """Rows held against one control."""

    title: str
    measures: tuple[Measure, ...]
    rows: tuple[TableRow, ...]

    def markdown(self) -> str:
        """A Markdown table that is also aligned for the eye."""
        heads = ["row", "films", *(measure.title for measure in self.measures), "against the control"]
        lines = [self._line(row) for row in self.rows]
        widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
        drawn = [" | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in [heads, *lines]]
        rule = " | ".join("-" * width for width in widths)
        body = "\n".join(f"| {line} |" for line in (drawn[0], rule, *drawn[1:]))
        return f"**{self.title}**\n\n{body}\n"

    def _line(self, row: TableRow) -> list[str]:
        cells = [_shown(row.cells[measure.name], measure.digits) for measure in self.measures]
        return [row.title, str(row.films), *cells, row.verdict]

    def as_json(self) -> dict[str, Any]:
        """Everything in the table, unrounded; numbers that are none (NaN) as null."""
        return {"title": self.title, "rows": [_row_as_json(row) for row in self.rows]}


def _row_as_json(row: TableRow) -> dict[str, Any]:
    cells = {
        name: _as_json(cell.value) | {"difference": cell.difference and _as_json(cell.difference), "differs": cell.differs}
        for name, cell in row.cells.items()
    }
    return {"name": row.name, "title": row.title, "films": row.films, "verdict": row.verdict, "cells": cells}


def _as_json(interval: Interval) -> dict[str, Any]:
    return {name: value if math.isfinite(value) else None for name, value in dataclasses.asdict(interval).items()}


def make_table(
    title: str,
    measures: tuple[Measure, ...],
    rows: Sequence[tuple[Row, FilmMeasures]],
    control: str,
    reference: tuple[str, FilmMeasures],
) -> Table:
    """`control`: the name of one of the rows. `reference`: title and films of a line that is not compared."""
    theirs = next(films for row, films in rows if row.name == control)
    lines = [_line_of(row, films, measures, None if row.name == control else theirs) for row, films in rows]
    title_of_reference, films = reference
    cells = {measure.name: Cell(_interval(films, measure)) for measure in measures}
    return Table(title, measures, (TableRow("reference", title_of_reference, len(films), cells, ""), *lines))


def _line_of(row: Row, films: FilmMeasures, measures: Sequence[Measure], control: FilmMeasures | None) -> TableRow:
    cells = {measure.name: Cell(_interval(films, measure), _difference(films, control, measure)) for measure in measures}
    text = "the control" if control is None else verdict(row.group, cells, measures)
    return TableRow(row.name, row.title, len(films), cells, text)


def _interval(films: FilmMeasures, measure: Measure) -> Interval:
    return mean_interval([film[measure.name] for film in films])


def _difference(films: FilmMeasures, control: FilmMeasures | None, measure: Measure) -> Interval | None:
    if control is None:
        return None
    return paired_difference([film[measure.name] for film in films], [film[measure.name] for film in control])


def verdict(group: str, cells: Mapping[str, Cell], measures: Sequence[Measure]) -> str:
    """What differs from the control: the measure that the paper's claim is about first, then others that differ."""
    headline = next(measure for measure in measures if measure.name == HEADLINES[group])
    others = [measure for measure in measures if measure is not headline and cells[measure.name].differs]
    if not others and not cells[headline.name].differs:
        return NOT_SHOWN + _too_few(cells[headline.name])
    return "; ".join(_described(measure, cells[measure.name]) for measure in (headline, *others))


def _described(measure: Measure, cell: Cell) -> str:
    if cell.difference is None or not cell.differs:
        return f"{measure.title}: {NOT_SHOWN}"
    mean, low, high = (f"{value:+.{measure.digits}f}" for value in _numbers(cell.difference))
    return f"{measure.title} {mean} [{low}, {high}]"


def _too_few(cell: Cell) -> str:
    films = cell.difference.n if cell.difference else 0
    return "" if films >= LEAST_FILMS else f" ({films} films are too few to show one)"


def _shown(cell: Cell, digits: int) -> str:
    mean, low, high = (f"{value:.{digits}f}" for value in _numbers(cell.value))
    return f"{mean} [{low}, {high}]" + ("*" if cell.differs else "")


def _numbers(interval: Interval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high
