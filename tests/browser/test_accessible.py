"""The page by axe-core's rules: nothing, however minor, in every state it has, dark and light, on a desk and on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ViewportSize

from tests.browser.conftest import OpenPage
from tests.browser.served import Served
from tests.browser.watched import Watched

pytestmark = pytest.mark.browser

AXE = Path(__file__).parents[1] / "web" / "node_modules" / "axe-core" / "axe.min.js"

_RUN = """(options) => axe.run(document, options).then(({ violations }) => violations.flatMap(
  ({ id, impact, nodes }) => nodes.map(({ target, failureSummary }) => `${impact} ${id}: ${target}: ${failureSummary}`)
))"""

PHONE: ViewportSize = {"width": 360, "height": 740}
DESK: ViewportSize = {"width": 1280, "height": 800}


def violations(watched: Watched) -> list[str]:
    """What axe-core has against the page as it is now, in both colour schemes: also what it calls minor."""
    watched.page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    found = [f"dark: {violation}" for violation in watched.page.evaluate(_RUN, {})]
    watched.page.emulate_media(color_scheme="light", reduced_motion="reduce")  # other colours, else the same page
    return found + [f"light: {violation}" for violation in watched.page.evaluate(_RUN, {"runOnly": ["color-contrast"]})]


@pytest.fixture
def checked(open_page: OpenPage) -> Any:
    """Opens a page that axe-core can look at (through the debugger: it is never part of the page)."""
    if not AXE.is_file():
        pytest.skip("axe-core is not here: npm install in tests/web")

    def open_one(fragment: str = "", *, width: int = 1280) -> Watched:
        watched = open_page(fragment, allowed_errors="404")
        watched.page.set_viewport_size(PHONE if width < 900 else DESK)
        watched.ask(AXE.read_text())
        return watched

    return open_one


@pytest.mark.timeout(900)  # twelve seconds on a quiet machine; axe-core takes what a busy one leaves
@pytest.mark.parametrize("width", [1280, 360])
def test_no_violation(checked: Any, served: Served, whole_film: str, width: int) -> None:
    watched = checked(width=width)
    page, found = watched.page, dict[str, list[str]]()
    found["empty page"] = violations(watched)
    page.fill("#prompt", "a dragon")
    watched.make("a film that is looked at by a program", seconds="")
    watched.until("document.getElementById('video').currentTime > 1")
    found["a film that grows"] = violations(watched)
    page.keyboard.press("s")
    watched.until_text("#stop", "Continue")
    found["a film that was stopped"] = violations(watched)
    for button, dialog in [("cue", "verb"), ("branch", "verb"), ("share", "sharing")]:
        page.click(f"#{button}")
        if dialog == "sharing":
            page.click("#make-link")
            watched.until("document.querySelectorAll('#sharing .links li').length > 0")
        found[f"the sheet of {button}"] = violations(watched)
        page.keyboard.press("Escape")
        watched.until(f"!document.getElementById('{dialog}').open")
    branch = served.call("POST", f"v1/videos/{whole_film}/branch", {"from_index": 3, "num_frames": 64})["id"]
    gone = served.call("POST", f"v1/videos/{whole_film}/branch", {"from_index": 4, "num_frames": 64})["id"]
    served.call("DELETE", f"v1/videos/{gone}")
    page.goto(f"{served.url}#/video/{branch}")
    watched.until("!document.getElementById('tree').hidden")
    page.reload()
    watched.ask(AXE.read_text())
    watched.until("!document.getElementById('deleted').hidden && !document.getElementById('tree').hidden")
    if width < 900:
        page.click("#films-toggle")
        watched.until("getComputedStyle(document.getElementById('films')).visibility === 'visible'")
    page.click("#deleted-toggle")
    found["the library, the tree of branches, deleted films"] = violations(watched)
    page.keyboard.press("Escape")
    file = {"name": "film.json", "mimeType": "application/json", "buffer": b'{"screenplay": 1, "prompt": "a boat"}'}
    page.set_input_files("#screenplay-file", file)
    watched.until("document.getElementById('screenplay').open")
    found["a screenplay"] = violations(watched)
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    found["the keys"] = violations(watched)
    page.keyboard.press("Escape")
    watched.page.click("#model")
    found["about the model"] = violations(watched)
    page.keyboard.press("Escape")
    page.goto(f"{served.url}#/compare/{whole_film}/{branch}")
    watched.until("Number(document.getElementById('rail').ariaValueNow) > 0")
    found["two films side by side"] = violations(watched)
    told = sorted({f"{state}, {violation}" for state, seen in found.items() for violation in seen})
    assert not told, "\n".join(told)
