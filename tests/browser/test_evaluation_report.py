"""The report of `st2v evaluate` in a real browser: films play from inside it, nothing is asked for, it fits a phone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation.drawn_films import translation, write_film
from playwright.sync_api import BrowserContext, Page

from st2v_stream.evaluation import page as report_page
from st2v_stream.evaluation import report
from st2v_stream.evaluation.film import ChunkGrid, open_film
from st2v_stream.evaluation.flow import dis_flow
from st2v_stream.evaluation.measure import Settings, measure_film

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on two models with a film each, one of which browsers could not play as it is."""
    folder, settings = tmp_path_factory.mktemp("report"), Settings(dis_flow(), side=64)
    outcomes = []
    for name, options in (("exact.mkv", {}), ("lossy.mp4", {"codec": "libx264", "pix_fmt": "yuv420p"})):
        film = open_film(write_film(folder / name, translation(32, side=64), **options))
        film = replace(film, group=f"model {name}", prompt=f"a texture that moves, {name}", grid=ChunkGrid(16, 8))
        outcomes.append(report.Outcome(film, measure_film(film, settings)))
    told = settings.to_json()
    whole = report.Report(tuple(outcomes), told, "plain", report.notes_of(told))
    (folder / "report.html").write_text(report_page.render(whole, folder))
    return folder / "report.html"


@pytest.fixture
def opened(browser: BrowserContext, path: Path) -> Iterator[tuple[Page, list[str]]]:
    page, seen = browser.new_page(), []
    page.on("request", lambda request: seen.append(request.url))
    page.on("console", lambda message: seen.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: seen.append(f"error: {error}"))
    page.goto(path.as_uri())
    yield page, seen
    page.close()


def until(page: Page, condition: str) -> None:
    """Wait for a condition; not by wait_for_function, whose eval the page's own policy forbids."""
    deadline = time.monotonic() + 15
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


def test_films_play_and_nothing_is_asked_for(opened: tuple[Page, list[str]], path: Path) -> None:
    page, seen = opened
    until(page, "[...document.querySelectorAll('video')].every(video => video.readyState >= 2)")
    durations = page.evaluate("[...document.querySelectorAll('video')].map(video => video.duration)")
    assert durations == pytest.approx([4.0, 4.0], abs=0.2)
    page.evaluate("document.querySelector('video').play()")
    until(page, "document.querySelector('video').currentTime > 0.3")
    assert [url for url in seen if not url.startswith("data:")] == [path.as_uri()]


def test_pictures_are_there(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 300)")
    plots = page.evaluate("[...document.querySelectorAll('svg.plot')].map(plot => plot.getBBox().width)")
    assert len(plots) == 3
    assert min(plots) > 500


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_its_window(opened: tuple[Page, list[str]], width: int) -> None:
    page, _ = opened
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_is_readable_by_day_and_by_night(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    for scheme, is_dark in (("light", False), ("dark", True)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        colours = page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
                      getComputedStyle(document.querySelector('svg.plot text')).fill]"""
        )
        ground, ink, plot = (sum(map(int, colour[colour.index("(") + 1 : -1].split(",")[:3])) for colour in colours)
        assert (ground < ink) is is_dark
        assert abs(ground - ink) > 400
        assert abs(ground - plot) > 200
