"""One browser and one server per session, one page per test; every page must leave a clean console behind."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright

from tests.browser.served import Served
from tests.browser.watched import Watched

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]

MODELS = ("testcard", "quick", "slow", "frail", "sharpened", "wide")

OpenPage = Callable[..., Watched]


def find_chromium() -> str | None:
    """ST2V_BROWSER, or the first Chromium there is."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("ST2V_BROWSER") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip(
            "no program named chromium on this machine (Debian: apt-get install chromium), and ST2V_BROWSER names no other"
        )
    with sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, headless=True, args=FLAGS, viewport={"width": 1000, "height": 700}
        )
        yield context
        context.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("data"), MODELS)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def storybook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The built-in model and its enhancer; a test leaves no film running."""
    server = Served(tmp_path_factory.mktemp("storybook"), ["storybook+enhancer"])
    server.start()
    yield server
    server.stop()


@pytest.fixture
def open_page(browser: BrowserContext, served: Served) -> Iterator[OpenPage]:
    """Open pages; at the end of the test none may have had an error, a foreign request or a CSP violation."""
    opened: list[Watched] = []

    def open_one(
        fragment: str = "", *, allowed_errors: str | None = None, prepare: Callable[[Page], None] = lambda page: None
    ) -> Watched:
        watched = Watched(browser.new_page(), served)
        prepare(watched.page)
        watched.allowed_errors = re.compile(allowed_errors) if allowed_errors else None
        opened.append(watched)
        watched.open(fragment)
        return watched

    yield open_one
    troubles = [trouble for watched in opened for trouble in watched.troubles]
    for watched in opened:
        watched.page.close()
    assert troubles == []


@pytest.fixture(scope="session")
def whole_film(served: Served) -> str:
    """The id of a film of 160 frames that is done."""
    video = served.call("POST", "v1/videos", {"prompt": "a whole film", "model": "quick", "num_frames": 160})
    deadline = time.monotonic() + 30
    while served.call("GET", f"v1/videos/{video['id']}")["state"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return str(video["id"])
