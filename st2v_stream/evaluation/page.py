"""The report as one HTML file that asks for nothing outside itself: films, plots and styles are inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from html import escape
from pathlib import Path

from st2v_stream import __version__
from st2v_stream.evaluation import plots
from st2v_stream.evaluation.embed import Budget, Embedded
from st2v_stream.evaluation.glossary import MEASURES, Measure
from st2v_stream.evaluation.intervals import LEAST_FILMS
from st2v_stream.evaluation.measure import FilmMeasures
from st2v_stream.evaluation.report import Outcome, Report, interval_of, number, span

_STYLE = Path(__file__).with_name("page.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
_PROTOCOLS = {
    "plain": "every measure at the film's own size, flow and MAWE at 720×720",
    "paper": "every measure at 720×720",
}


def render(report: Report, folder: Path, budget: Budget | None = None) -> str:
    """The page for a file in `folder` (links to films that are too large to embed are relative to it)."""
    budget = budget or Budget()
    films = [_film(number, outcome, budget, folder, report) for number, outcome in enumerate(report.outcomes)]
    body = [
        _head(report),
        _notes(report.notes),
        _summary(report),
        _overview(report),
        "<h2>Films</h2>",
        *films,
        _glossary(report),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(_title(report))}</title>\n<link rel="icon" href="data:,">\n<style>\n{_STYLE.read_text()}</style>\n'
        "</head>\n<body>\n<main>\n" + "\n".join(part for part in body if part) + "\n</main>\n</body>\n</html>\n"
    )


def _title(report: Report) -> str:
    return "Evaluation of " + ", ".join(report.groups)


def _head(report: Report) -> str:
    films = len(report.outcomes)
    count = f"{films} film{'s' if films != 1 else ''}"
    how = _PROTOCOLS.get(report.protocol, report.protocol)
    today = date.today().isoformat()
    return (
        f"<h1>{escape(_title(report))}</h1>"
        f'<p class="lead">{count} · protocol {escape(report.protocol)}: {escape(how)} · st2v_stream {__version__} · {today}</p>'
    )


def _notes(notes: Sequence[str], style: str = "notes") -> str:
    if not notes:
        return ""
    return f'<ul class="{style}">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _summary(report: Report) -> str:
    """Measures down, groups across."""
    groups = report.groups
    heads = "".join(
        f"<th colspan=2>{_dot(place)}{escape(name)} <span class=interval>n={len(films)}</span></th>"
        for place, (name, films) in enumerate(groups.items())
    )
    rows = "".join(
        f"<tr><th scope=row>{escape(measure.title)} {_unit(measure)}</th>"
        + "".join(_cells(films, measure) for films in groups.values())
        + f'<td class="better">{measure.better}</td></tr>'
        for measure in MEASURES
    )
    most = max(map(len, groups.values()))
    sure = "Mean over the films, and the interval that holds it with 95 % (bootstrap over films)."
    unsure = f"Mean over the films; intervals from {LEAST_FILMS} films on."
    several = "" if most == 1 else f'<p class="quiet">{sure if most >= LEAST_FILMS else unsure}</p>'
    return (
        f"<h2>Summary</h2>{several}<div class=scroll><table><thead><tr><th></th>{heads}<th>better</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cells(films: Sequence[FilmMeasures], measure: Measure) -> str:
    """A mean and its interval, each in a column of its own."""
    found = interval_of(films, measure)
    if found.n == 0:
        missing = "not measured" if measure.key == "clip_score" else "no value"
        return f'<td class="interval" colspan=2>{missing}</td>'
    of = "" if found.n == len(films) else f" n={found.n}"
    beside = span(found, measure, " to ") + of
    return f'<td class="mean">{number(found.mean, measure)}</td><td class="interval">{beside}</td>'


def _overview(report: Report) -> str:
    if len(report.outcomes) < 2:
        return ""
    legend = " ".join(f"<span>{_dot(place)}{escape(name)}</span>" for place, name in enumerate(report.groups))
    drawn = plots.overview_plot(report.groups)
    return f"<h2>Every film a dot</h2><p class=quiet>{legend}</p>{plots.inline(drawn, 'all-')}" if drawn else ""


def _film(place: int, outcome: Outcome, budget: Budget, folder: Path, report: Report) -> str:
    film, measures = outcome.film, outcome.measures
    embedded = budget.embed(film, measures.frames, folder)
    colour = list(report.groups).index(measures.group)
    return (
        f'<article class="film"><h3>{escape(measures.prompt or measures.name)}</h3>'
        f'<p class="quiet">{_dot(colour)}{escape(_facts(measures))} · {_link(embedded)}</p>'
        f'<div class="watch">{_video(embedded, measures)}<dl class="values">{_values(measures)}</dl></div>'
        f'<img class="strip" src="{embedded.strip}" alt="Frames from the first to the last, evenly spread">'
        f"{plots.inline(plots.film_plot(measures), f'film-{place}-')}"
        f"{_notes(measures.notes, 'remarks')}</article>"
    )


def _facts(measures: FilmMeasures) -> str:
    facts = [measures.group, f"{measures.frames} frames", f"{measures.width}×{measures.height}", f"{measures.fps:g} frames/s"]
    if measures.grid is not None:
        facts.append(
            f"chunks of {measures.grid.first_chunk_frames}, then {measures.grid.chunk_frames} (dots in the first plot)"
        )
    if measures.cuts:
        facts.append("cuts at " + ", ".join(map(str, measures.cuts)))
    return " · ".join(facts)


def _link(embedded: Embedded) -> str:
    word = "file (the film here is a small copy)" if embedded.is_small_copy else "file"
    return f'<a href="{escape(embedded.link)}">{word}</a>'


def _video(embedded: Embedded, measures: FilmMeasures) -> str:
    label = escape(measures.prompt or measures.name)
    if embedded.url is None:
        return '<p class="quiet">Too large to be inside this page; the link above leads to it.</p>'
    return (
        f'<video src="{embedded.url}" poster="{embedded.poster}" aria-label="{label}" '
        'controls loop muted playsinline preload="metadata"></video>'
    )


def _values(measures: FilmMeasures) -> str:
    return "".join(
        f"<div><dt>{escape(measure.title)}</dt><dd>{_value(measures.values, measure)}</dd></div>" for measure in MEASURES
    )


def _value(values: Mapping[str, float | None], measure: Measure) -> str:
    value = values[measure.key]
    if value is None:
        return '<span class="quiet">-</span>'
    digits = 0 if measure.key == "cuts" else measure.digits
    shown = f"{value:.0f}" if digits == 0 else number(value, measure)
    return shown if measure.key == "cuts" else f"{shown} {_unit(measure)}"


def _unit(measure: Measure) -> str:
    return f'<span class="unit quiet">{escape(measure.unit)}</span>' if measure.unit else ""


def _dot(place: int) -> str:
    return f'<i class="dot" style="background: var(--series-{place % plots.SERIES_COLOURS})"></i>'


def _glossary(report: Report) -> str:
    entries = "".join(
        f'<dt>{escape(m.title)} <span class="better">{_direction(m)}</span></dt><dd>{escape(m.meaning)}</dd>' for m in MEASURES
    )
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in report.settings.items()
    )
    return (
        f'<h2>What the measures mean</h2><dl class="glossary">{entries}</dl>'
        f'<h2>Settings</h2><div class="scroll"><table class="settings"><tbody>{rows}</tbody></table></div>'
    )


def _direction(measure: Measure) -> str:
    return {"lower": "lower is better", "higher": "higher is better", "neither": "neither way is better"}.get(
        measure.better, f"best {measure.better}"
    )
