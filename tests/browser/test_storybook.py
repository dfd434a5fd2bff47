"""The page on the built-in model: one film, by clicking, on the CPU."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import BrowserContext

from tests.browser.served import Served
from tests.browser.watched import Watched

pytestmark = pytest.mark.browser

LAST_FRAME = "Number(document.getElementById('strip').ariaValueMax)"

PICTURE = """() => {
  const context = new OffscreenCanvas(32, 32).getContext("2d", { willReadFrequently: true });
  context.drawImage(document.getElementById("video"), 0, 0, 32, 32);
  return Array.from(context.getImageData(0, 0, 32, 32).data);
}"""


def test_an_example_prompt_becomes_moving_pictures(browser: BrowserContext, storybook: Served) -> None:
    watched = Watched(browser.new_page(), storybook)
    watched.open()
    watched.page.click("#big-examples button >> nth=0")
    watched.page.check("#lengths input[value='']", force=True)  # endless: it is still being made when it is stopped
    watched.page.click("#make-button")
    watched.until("document.getElementById('video').currentTime > 0.2", timeout_s=60)
    early = watched.ask(PICTURE)
    assert watched.video["state"] == "running"
    storybook.call("PATCH", f"v1/videos/{watched.video_id}", {"enhance": "none"})  # sharp: see test_enhancement
    assert max(early) - min(early[i] for i in range(0, len(early), 4)) > 30, "not one flat colour"
    deadline = time.monotonic() + 20
    while sum(abs(a - b) for a, b in zip(early, watched.ask(PICTURE), strict=True)) / len(early) <= 1:
        assert time.monotonic() < deadline, "it moves"
        watched.page.wait_for_timeout(100)
    joiner = Watched(browser.new_page(), storybook)
    joiner.open(f"/video/{watched.video_id}")
    joiner.until(f"{LAST_FRAME} >= 15", timeout_s=60)
    joiner.until("document.getElementById('video').currentTime > 0.2", timeout_s=60)
    joiner.page.keyboard.press("ArrowLeft")  # steps back one frame, and so pauses
    joiner.page.keyboard.press("Home")  # a late viewer sees the beginning, too
    joiner.until("document.getElementById('video').currentTime < 0.125 && !document.getElementById('video').seeking")
    first = joiner.ask(PICTURE)
    assert max(first) - min(first[i] for i in range(0, len(first), 4)) > 30, "not one flat colour"
    watched.page.keyboard.press("s")
    watched.until_text("#stop", "Continue", timeout_s=60)
    frames = watched.video["frames"]
    watched.page.click("#stop")
    watched.until_text("#stop", "Stop", timeout_s=60)
    watched.until(f"{LAST_FRAME} >= {frames + 7}", timeout_s=60)
    watched.page.reload()
    watched.until(f"{LAST_FRAME} >= {frames + 7}", timeout_s=60)
    joiner.until(f"{LAST_FRAME} >= {frames + 7}", timeout_s=60)
    watched.page.keyboard.press("s")
    watched.until_text("#stop", "Continue", timeout_s=60)
    assert (watched.troubles, joiner.troubles) == ([], [])
    for page in (watched.page, joiner.page):
        page.close()
