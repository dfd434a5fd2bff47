"""Small plots as SVG, drawn by matplotlib without a display; inline in a page they take the page's colours.

Colours are drawn as placeholders that no drawing would use by itself, and replaced by CSS variables (`inline`) or by fixed
colours (`alone`).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from st2v_stream.evaluation import seams
from st2v_stream.evaluation.glossary import BY_KEY, Measure
from st2v_stream.evaluation.measure import FilmMeasures

_PLACEHOLDERS = {
    "ink": "#010203",
    "quiet": "#020304",
    "line": "#030405",
    "red": "#fd0101",
    "green": "#01fd01",
    "blue": "#0101fd",
    "cut": "#fd01fd",
    "series-0": "#a10101",
    "series-1": "#a10102",
    "series-2": "#a10103",
    "series-3": "#a10104",
    "series-4": "#a10105",
    "series-5": "#a10106",
}
COLOURS = {
    "ink": "#171b21",
    "quiet": "#59636f",
    "line": "#d5dae1",
    "red": "#d63a30",
    "green": "#1f8f4e",
    "blue": "#2f6fd6",
    "cut": "#c2187e",
    "series-0": "#1673d6",
    "series-1": "#ee5432",
    "series-2": "#0d8f68",
    "series-3": "#8a5cd1",
    "series-4": "#c98a00",
    "series-5": "#59636f",
}
"""For a light page; the page's own variables of the same names win where a plot is inline."""

SERIES_COLOURS = sum(name.startswith("series-") for name in COLOURS)

_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.edgecolor": _PLACEHOLDERS["line"],
    "axes.labelcolor": _PLACEHOLDERS["quiet"],
    "axes.titlecolor": _PLACEHOLDERS["ink"],
    "xtick.color": _PLACEHOLDERS["quiet"],
    "ytick.color": _PLACEHOLDERS["quiet"],
    "text.color": _PLACEHOLDERS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
}
_OVERVIEW = (
    "cuts",
    "mawe",
    "clip_score",
    "flow_deviation",
    "boundary_ratio",
    "rgb_drift",
    "saturation_drift",
    "frame_difference",
)
_PANELS_ACROSS = 4


def film_plot(film: FilmMeasures) -> str:
    """Change, motion and colour over the frames of one film, chunk borders as ticks and cuts as lines; raw SVG."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 2.0), layout="constrained")
        change, motion, colour = figure.subplots(1, 3)
        _plot_change(change, film)
        _line(motion, film.series["flow_length"], "series-1", 0.5)
        motion.set_title("mean flow length, px at 720×720")
        for name in ("red", "green", "blue"):
            _line(colour, film.series[name], name, 0.0)
        colour.set_title("mean colour, of 255")
        for axes in (change, motion, colour):
            _finish(axes, film)
        return _svg(figure)


def _plot_change(axes: Any, film: FilmMeasures) -> None:
    differences = np.array(film.series["frame_difference"])
    _line(axes, differences, "series-0", 0.5)
    axes.set_title("change from frame to frame, of 255")
    if film.grid is not None:
        is_seam = seams.seams(len(differences), film.grid.first_chunk_frames, film.grid.chunk_frames)
        at = np.flatnonzero(is_seam)
        axes.plot(at + 0.5, differences[at], "o", color=_PLACEHOLDERS["series-1"], markersize=2.2, linewidth=0)


def _line(axes: Any, values: Any, colour: str, offset: float) -> None:
    axes.plot(np.arange(len(values)) + offset, values, color=_PLACEHOLDERS[colour], linewidth=1.0)


def _finish(axes: Any, film: FilmMeasures) -> None:
    axes.set_xlim(0, max(film.frames - 1, 1))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("frame")
    axes.tick_params(length=2)
    for cut in film.cuts:
        axes.axvline(cut, color=_PLACEHOLDERS["cut"], linewidth=1.0, linestyle=(0, (3, 2)))


def overview_plot(groups: Mapping[str, Sequence[FilmMeasures]]) -> str:
    """One panel per measure, one dot per film, groups side by side with their mean; raw SVG. Empty without any value."""
    shown = [
        BY_KEY[key] for key in _OVERVIEW if any(film.values[key] is not None for films in groups.values() for film in films)
    ]
    if not shown:
        return ""
    across = min(_PANELS_ACROSS, len(shown))
    down = math.ceil(len(shown) / across)
    with rc_context(_STYLE):
        figure = Figure(figsize=(2.4 * across, 1.9 * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes, measure in zip(panels, shown):
            _plot_measure(axes, measure, groups)
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        return _svg(figure)


def _plot_measure(axes: Any, measure: Measure, groups: Mapping[str, Sequence[FilmMeasures]]) -> None:
    for place, films in enumerate(groups.values()):
        values = [value for film in films if (value := film.values[measure.key]) is not None]
        colour = _PLACEHOLDERS[f"series-{place % SERIES_COLOURS}"]
        spread = place + (np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(len(values)))
        axes.plot(spread, values, "o", color=colour, alpha=0.55, markersize=3.2, linewidth=0)
        if len(values) > 1:
            axes.plot([place - 0.3, place + 0.3], [np.mean(values)] * 2, color=colour, linewidth=2.0)
    goal = {"near 1": 1.0, "near 0": 0.0}.get(measure.better)
    if goal is not None:
        axes.axhline(goal, color=_PLACEHOLDERS["line"], linewidth=1.0, zorder=0)
    axes.set_title(measure.title + (f", {measure.unit}" if measure.unit else ""))
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_xticks([])
    axes.margins(y=0.15)
    if measure.better in ("lower", "neither"):
        axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1], 1.0 if measure.key == "cuts" else 0.0))
    axes.tick_params(length=2)


def _svg(figure: Figure) -> str:
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]


def inline(svg: str, prefix: str) -> str:
    """For a page: colours from its variables, its font, ids that begin with `prefix` so that plots do not share them."""
    text = _replace(svg, {name: f"var(--{name})" for name in _PLACEHOLDERS})
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)  # a style would reach the page
    text = text.replace("xlink:href", "href")
    text = re.sub(r'(\bid="|\bhref="#|url\(#)', lambda found: found.group(1) + prefix, text)
    text = re.sub(r" font-family: [^;\"]*;?", "", text)
    text = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" class="plot" role="img">', text, count=1)
    return f'<div class="scroll">{text}</div>'


def alone(svg: str) -> str:
    """For a file of its own: fixed colours on white."""
    text = _replace(svg, COLOURS)
    return text.replace(">", ' style="background: #fff">', 1)


def _replace(svg: str, by_name: Mapping[str, str]) -> str:
    for name, placeholder in _PLACEHOLDERS.items():
        svg = svg.replace(placeholder, by_name[name])
    return svg
