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
from tests.browser.watched import READ_LATE, Watched

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
        self.watched.until("document.getElementById('video').currentTime > 2")  # it begins at the live edge
        self.watched.until("!document.getElementById('video').seeking")
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

    @property
    def numbers(self) -> list[int]:
        return [entry.number for entry in self.watched.shown]

    def require_each_at_its_time(self) -> None:
        """A busy machine reads the picture a frame or two from what it was told of, and drops some; seeks are exact."""
        assert [entry for entry in self.watched.shown if not 0 <= entry.number - round(entry.media_s * FPS) <= READ_LATE] == []


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
    assert cinema.numbers == sorted(cinema.numbers)
    assert cinema.watched.ask("document.getElementById('video').buffered.length") == 1, "no hole"
    print(f"the element ran dry {cinema.watched.ask('window.waits')} times")
    for frame in range(last - 29, last + 1, 7):  # every chunk that came while there was no network
        cinema.seek_to(frame)
    cinema.watched.allowed_errors = re.compile(OFFLINE)
    assert cinema.watched.troubles == []


def test_a_live_viewer_on_a_dead_line_is_taken_to_the_edge_and_finds_the_rest_when_rewinding(cinema: Cinema) -> None:
    cinema.begin(3)
    cinema.proxy.pause()
    last = cinema.grow(24, every_ms=80)  # more than what may be on its way and what may wait
    cinema.watched.page.wait_for_timeout(1500)  # longer than a chunk plays
    cinema.proxy.resume()
    cinema.watched.until_text("#note", "was left out")
    words = re.search(r"(\d+):(\d\d) to (\d+):(\d\d) was left out", cinema.watched.text("#note"))
    assert words is not None
    begin, end = (FPS * (60 * int(words[place]) + int(words[place + 1])) for place in (1, 3))
    assert end - begin >= 80
    cinema.wait_for_frame(last - HELD)
    assert cinema.numbers == sorted(cinema.numbers)
    assert not set(cinema.numbers) & set(range(begin, end))
    cinema.end()
    cinema.seek_to(begin - 1)
    for chunk_start in range(begin, begin + 32, 8):  # fetched over HTTP now
        cinema.watched.page.keyboard.press("Shift+ArrowRight")
        cinema.watched.until_picture(chunk_start)
    assert cinema.watched.troubles == []
