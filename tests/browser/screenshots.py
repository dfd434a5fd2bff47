"""Makes docs/screenshots/*.png: `python -m tests.browser.screenshots [MODEL]`.

MODEL: storybook (some minutes on a quiet CPU), or drawn (renders of the story-book world, half a minute); by default
storybook if it is here.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from st2v_stream.checkpoints.models import known_models
from tests.browser.conftest import FLAGS, find_chromium
from tests.browser.served import Served
from tests.browser.watched import Watched

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
DESK = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}


def save(page: Page, name: str) -> None:
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.save(FOLDER / f"{name}.png", optimize=True)
    print(name, (FOLDER / f"{name}.png").stat().st_size // 1024, "kB")


def main(*names: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = names[0] if names else "storybook" if "storybook" in known_models() else "drawn"
    served = Served(Path(tempfile.mkdtemp()), [f"{model}+enhancer"])
    served.start()
    try:
        with sync_playwright() as playwright:
            _take(playwright, served)
    finally:
        served.stop()


def _open(playwright: Any, served: Served, **settings: Any) -> Watched:
    chromium = find_chromium()
    context = playwright.chromium.launch_persistent_context(
        tempfile.mkdtemp(), executable_path=chromium, headless=True, args=FLAGS, **settings
    )
    context.set_default_timeout(180_000)  # a machine that makes films may draw slowly
    watched = Watched(context.new_page(), served)
    watched.open()
    return watched


def _make(watched: Watched, prompt: str, chunks: int, length: str = "20") -> None:
    watched.page.fill("#prompt", prompt)
    watched.page.check(f"#lengths input[value='{length}']", force=True)
    watched.page.click("#make-button")
    watched.until_text("#caption", prompt, timeout_s=90)
    watched.until("document.getElementById('video').currentTime > 0.1", timeout_s=90)
    watched.until(f"Number(document.getElementById('strip').ariaValueMax) > {8 * chunks}", timeout_s=600)


def _continue(watched: Watched, chunks: int) -> None:
    watched.page.click("#stop")
    watched.until(f"Number(document.getElementById('strip').ariaValueMax) > {8 * chunks}", timeout_s=600)


def _direct(watched: Watched) -> None:
    """The verbs on a film that grows: a cue, then a branch of what it was."""
    page = watched.page
    page.keyboard.press("p")
    page.fill("#verb-prompt", "a red boat drifts left in the night sky")
    page.wait_for_timeout(600)
    save(page, "new-prompt")
    page.click("#verb-do")
    watched.until("document.querySelector('.cell[data-cue]') !== null", timeout_s=60)
    watched.until("Number(document.getElementById('strip').ariaValueMax) > 112", timeout_s=600)
    _stop(watched)
    page.keyboard.press("Home")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowRight")
        page.wait_for_timeout(300)
    page.keyboard.press("b")
    page.fill("#verb-prompt", "a red boat hovers over the sea")
    page.wait_for_timeout(1500)
    save(page, "branch")
    page.select_option("#verb-length", "20")
    parent = page.url
    page.click("#verb-do")
    watched.until(f"location.href !== '{parent}'")
    watched.until("Number(document.getElementById('strip').ariaValueMax) > 72", timeout_s=600)
    page.wait_for_timeout(1500)
    save(page, "branched")
    _stop(watched)
    page.goto(parent)
    watched.until("document.querySelector('.cell[data-branches]') !== null", timeout_s=60)
    page.keyboard.press("Space")
    page.click("#share")
    page.click("#sharing .primary")
    page.wait_for_timeout(800)
    save(page, "share")
    page.click("#sharing-close")


def _side_by_side(watched: Watched) -> None:
    """The branch and what it comes from, a little after they part; dark and light, and on a phone."""
    page = watched.page
    page.click("#films .beside:visible >> nth=0")
    watched.until("document.getElementById('compare-common').textContent !== ''", timeout_s=60)
    page.click("#compare-fork")
    page.wait_for_timeout(1500)
    page.click("#compare-play")
    page.wait_for_timeout(800)
    save(page, "compare")
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(400)
    save(page, "phone-compare")
    page.set_viewport_size(DESK)
    page.locator(".seat[data-which=left] .open").click()
    watched.until("document.body.dataset.view === 'film'")


def _library(watched: Watched) -> None:
    """The list with its branches, the tree of the film on the stage, and a deleted film that can be had back."""
    page = watched.page
    item = page.locator("#films > ul > li", has_text="yellow ball")
    item.hover()
    item.locator(".delete").click()
    watched.until("!document.getElementById('deleted').hidden")
    page.click("#note .icon")
    page.click("#deleted-toggle")
    page.locator("#deleted").scroll_into_view_if_needed()
    page.mouse.move(300, 400)
    page.wait_for_timeout(800)
    save(page, "library")
    page.locator("#deleted .row button").click()
    watched.until("document.getElementById('deleted').hidden")
    page.click("#note .icon")


def _written_down(watched: Watched) -> None:
    """The film's screenplay, dropped on the page again."""
    page = watched.page
    with tempfile.TemporaryDirectory() as folder, page.expect_download() as download:
        page.click("#share")
        page.click("#save-screenplay")
        file = Path(folder) / "film.json"
        download.value.save_as(file)
        page.click("#sharing-close")
        page.set_input_files("#screenplay-file", file)
        page.wait_for_timeout(500)
        save(page, "screenplay")
    page.click("#screenplay-cancel")


def _turn_sharp(watched: Watched) -> None:
    """The film grows and turns sharp: watched behind the frontier, and the sheet that asks for more."""
    page = watched.page
    _until_enhanced(watched, 3)
    page.click("#way-sharp")
    watched.until("document.getElementById('video').currentTime > 1", timeout_s=60)
    page.wait_for_timeout(1500)
    save(page, "sharp")
    page.keyboard.press("e")
    page.wait_for_timeout(400)
    save(page, "enhance")
    page.click("#enhance-cancel")
    page.click("#way-live")


def _until_enhanced(watched: Watched, chunks: int) -> None:
    """So many of the first cells have a green bar."""
    watched.until(f"document.querySelectorAll('.cell[data-state=enhanced]').length >= {chunks}", timeout_s=300)


def _stop(watched: Watched) -> None:
    watched.page.click("#stop")
    watched.until_text("#stop", "Continue", timeout_s=60)


def _take(playwright: Any, served: Served) -> None:
    desk = _open(playwright, served, viewport=DESK, color_scheme="dark")
    desk.page.wait_for_timeout(500)
    save(desk.page, "empty")
    _make(desk, "a yellow ball bounces above the meadow", 4)
    _stop(desk)
    _make(desk, "a purple rocket flies up in the night sky", 3)
    _stop(desk)
    _make(desk, "a red boat drifts left over the sea", 8, "60")
    save(desk.page, "growing")
    _turn_sharp(desk)
    light = _open(playwright, served, viewport=DESK, color_scheme="light")
    light.page.click("#films li a >> nth=0")
    light.until("document.getElementById('video').currentTime > 1", timeout_s=60)
    light.page.fill("#prompt", "a red dragon drifts left over the castle")
    light.page.wait_for_timeout(1500)
    save(light.page, "light")
    light.page.context.close()
    _stop(desk)
    desk.page.wait_for_timeout(600)
    save(desk.page, "stopped")
    _continue(desk, 10)
    _direct(desk)
    _side_by_side(desk)
    _library(desk)
    _written_down(desk)
    phone = _open(playwright, served, viewport=PHONE, color_scheme="dark", device_scale_factor=1.5, has_touch=True)
    save(phone.page, "phone-empty")
    _make(phone, "an orange cat bounces over the snow field", 5, "60")
    save(phone.page, "phone")
    phone.page.click("#way-sharp")
    phone.page.wait_for_timeout(1500)
    save(phone.page, "phone-sharp")
    phone.page.click("#way-live")
    _stop(phone)
    phone.page.click("#branch")
    phone.page.wait_for_timeout(1500)
    save(phone.page, "phone-branch")
    phone.page.click("#verb-cancel")
    phone.page.context.close()
    _make(desk, "a green car drifts right across the desert", 6, "")
    served.kill()
    desk.until("!document.getElementById('lost').hidden")
    desk.page.wait_for_timeout(1500)
    save(desk.page, "connection-lost")
    desk.page.context.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
