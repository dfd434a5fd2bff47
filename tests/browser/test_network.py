"""The network fails while a film grows: what the page shows then, read off its pixels. Tests write the film's log by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from delivery.numbered import Do, Numbered, served_by_hand
from playwright.sync_api import BrowserContext
from server.running import TOKEN

from tests.browser.proxy import Proxy, proxied
from tests.browser.test_page import OFFLINE
from tests.browser.watched import Watched

pytestmark = pytest.mark.browser

FPS = 8
HELD = 4
"""Of a film that grows, the player keeps some frames back so that the element never runs dry (web/edge.js)."""


class Cinema:
    """A film that grows on request, a network that can fail, and the page that shows it."""

    def __init__(self, director: Numbered, do: Do, proxy: Proxy, watched: Watched) -> None:
        self.director, self.proxy, self.watched = director, proxy, watched
        self._do = do
        self.video = ""

    def begin(self, chunks: int) -> None:
        self._do(lambda: setattr(self, "video", self.director.add(chunks, num_frames=None)))
        self.watched.page.goto(f"http://127.0.0.1:{self.proxy.port}/#token={TOKEN}&/video/{self.video}")
        self.watched.until("document.body.dataset.view !== 'loading'")
        self.watched.record()

    def grow(self, chunks: int, *, every_ms: int = 1000) -> int:
        """So many chunks, one after the other; the number of the last frame."""
        for _ in range(chunks):
            made = self.director.shelves[self.video].view.chunks
            self._do(lambda made=made: self.director.segment(self.video, made))  # type: ignore[misc]
            self.watched.page.wait_for_timeout(every_ms)
        return self.director.shelves[self.video].view.frames - 1

    def end(self) -> None:
        self._do(lambda: self.director.state(self.video, state="stopped", ended_by="stopped"))

    def wait_for_frame(self, number: int) -> None:
        self.watched.until(f"window.shown.length && window.shown.at(-1)[0] >= {number}", 30)

    def seek_to(self, frame: int) -> None:
        """Paused there; until its picture is on the screen."""
        self.watched.ask("document.getElementById('video').pause()")
        self.watched.ask(f"document.getElementById('video').currentTime = {(frame + 0.5) / FPS}")
        self.watched.until_picture(frame)

    def require_each_at_its_time(self, *, skipped: range = range(0)) -> None:
        """In order, each frame at its own time; none left out but what a busy machine's browser drops, and `skipped`."""
        shown = self.watched.shown
        assert [entry for entry in shown if entry.number != round(entry.media_s * FPS)] == []
        numbers = [entry.number for entry in shown]
        assert numbers == sorted(numbers)
        missing = set(range(numbers[0], numbers[-1] + 1)) - set(numbers) - set(skipped)
        print(f"{len(set(numbers))} frames seen, {sorted(missing)} left out")
        assert len(missing) <= len(numbers) / 4


@pytest.fixture
def cinema(browser: BrowserContext, tmp_path: Path) -> Iterator[Cinema]:
    with proxied() as proxy, served_by_hand(tmp_path, allowed_hosts=(f"127.0.0.1:{proxy.port}",)) as (director, port, do):
        proxy.target = port
        watched = Watched(browser.new_page(), _Named(f"http://127.0.0.1:{proxy.port}/"))  # type: ignore[arg-type]
        yield Cinema(director, do, proxy, watched)
        watched.page.close()


class _Named:
    """As much of a `Served` as a page under test asks for."""

    def __init__(self, url: str) -> None:
        self.url = url


def test_three_seconds_without_a_network_leave_no_gap(cinema: Cinema) -> None:
    cinema.begin(3)
    cinema.wait_for_frame(12)
    failures: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
        (cinema.proxy.pause, cinema.proxy.resume),  # everything stays connected, nothing arrives
        (cinema.proxy.cut, cinema.proxy.restore),
    ]
    for fail, mend in failures:
        cinema.grow(2)
        fail()
        last = cinema.grow(3)
        mend()
        cinema.wait_for_frame(last - HELD)
    cinema.watched.until_text("#note", "resumed at 0:")
    cinema.end()
    cinema.wait_for_frame(last)
    cinema.require_each_at_its_time()
    assert cinema.watched.ask("window.waits") == 0, "the element itself never ran dry"
    for frame in range(last - 30, last + 1, 3):  # every chunk that came while there was no network
        cinema.seek_to(frame)
    cinema.watched.allowed_errors = re.compile(OFFLINE)
    assert cinema.watched.troubles == []


def test_a_live_viewer_on_a_dead_line_is_taken_to_the_edge_and_finds_the_rest_when_rewinding(cinema: Cinema) -> None:
    cinema.begin(3)
    cinema.wait_for_frame(12)
    cinema.proxy.pause()
    last = cinema.grow(24, every_ms=80)  # more than what may be on its way and what may wait
    cinema.watched.page.wait_for_timeout(1500)  # longer than a chunk plays
    cinema.proxy.resume()
    cinema.watched.until_text("#note", "was left out")
    words = cinema.watched.text("#note")
    cinema.wait_for_frame(last - HELD)
    left_out = range(8 * 12, 8 * 24)
    cinema.require_each_at_its_time(skipped=left_out)
    assert not {entry.number for entry in cinema.watched.shown} & set(left_out), words
    cinema.end()
    for frame in (8 * 12 - 1, 8 * 12, 8 * 18 + 3, 8 * 24 - 1, 8 * 24, last):  # fetched over HTTP now
        cinema.seek_to(frame)
    assert "0:12 to 0:26" in words
    assert cinema.watched.troubles == []
