"""Two branches side by side: led by one clock, numbered frames read back from both pictures at once."""

from __future__ import annotations

import time

import pytest

from tests.browser.conftest import OpenPage
from tests.browser.served import Served
from tests.browser.watched import Watched

pytestmark = pytest.mark.browser

_NUMBERS = """() => [...document.querySelectorAll(".seat video")].map((video) => {
  const context = new OffscreenCanvas(256, 192).getContext("2d", { willReadFrequently: true });
  context.drawImage(video, 0, 0, 256, 192);
  const row = context.getImageData(0, 14, 256, 1).data;
  return Array.from({ length: 16 }, (_, cell) => +(row[4 * (16 * cell + 8)] > 127)).reduce((number, bit) => 2 * number + bit);
})"""


def numbers(watched: Watched) -> tuple[int, int]:
    """The frame numbers on the left and on the right picture, read in one turn of the page."""
    left, right = watched.ask(_NUMBERS)
    return left, right


def until_both(watched: Watched, left: int, right: int, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while (seen := numbers(watched)) != (left, right):
        assert time.monotonic() < deadline, f"expected frames {left} and {right}, received {seen}"
        watched.page.wait_for_timeout(30)


def require_in_step(watched: Watched, timeout_s: float = 60.0) -> None:
    """Ten different frames on the left as it plays, the right one at most a frame away (a busy machine draws one late)."""
    together: set[int] = set()
    deadline = time.monotonic() + timeout_s
    while len(together) < 10:
        left, right = numbers(watched)
        together |= {left} if abs(left - right) <= 1 else set()
        assert time.monotonic() < deadline, f"in step at {sorted(together)} only; now at {left} and {right}"
        watched.page.wait_for_timeout(40)


def test_a_branch_and_its_parent_play_as_one_while_the_branch_grows(open_page: OpenPage, served: Served) -> None:
    parent = served.call("POST", "v1/videos", {"prompt": "one way", "num_frames": 64})["id"]
    watched = open_page(f"/video/{parent}")
    watched.until_whole(64)
    body = {"from_index": 5, "prompt": "another way", "num_frames": None}
    branch = served.call("POST", f"v1/videos/{parent}/branch", body)["id"]
    watched.until_text("#films", "another way")
    watched.page.locator("#films li", has_text="another way").locator(".beside").click()
    watched.until(f"location.hash === '#/compare/{parent}/{branch}'")
    watched.until_text("#compare", "the same up to 0:06")
    watched.until("Number(document.getElementById('rail').ariaValueNow) > 4.5")  # from a little before they part
    for key in ("m", "m", "Home"):  # slowly from the beginning on: a busy machine draws few frames
        watched.page.keyboard.press(key)
    require_in_step(watched)
    assert served.call("GET", f"v1/videos/{branch}")["state"] == "running", "it grew while it was compared"
    served.call("POST", f"v1/videos/{branch}/stop", {})

    watched.page.keyboard.press("Space")
    watched.page.keyboard.press("Home")
    until_both(watched, 0, 0)
    for key, frame in [("ArrowRight", 1), ("Shift+ArrowRight", 16), ("Shift+ArrowRight", 24), ("ArrowLeft", 23)]:
        watched.page.keyboard.press(key)
        until_both(watched, frame, frame)
    watched.page.click("#compare-fork")
    until_both(watched, 48, 48)
    watched.until("document.querySelectorAll('.seat .badge')[1].textContent.startsWith('stopped')")
    last = served.call("GET", f"v1/videos/{branch}")["frames"] - 1
    watched.until(f"document.getElementById('rail').ariaValueMax === '{(last + 1) / 8:.1f}'")
    watched.page.keyboard.press("End")
    until_both(watched, 63, last)  # the shorter one stays on its last frame
    watched.page.keyboard.press("ArrowLeft")
    until_both(watched, 63, last - 1)

    watched.page.locator(".seat[data-which=right] .open").click()
    watched.until(f"document.body.dataset.view === 'film' && location.hash.startsWith('#/video/{branch}')")
    watched.until(f"document.getElementById('video').currentTime > {(last - 8) / 8}")  # at the same moment
    watched.page.keyboard.press("y")  # and back
    watched.until("document.body.dataset.view === 'compare'")


def test_a_link_to_a_pair_and_a_moment(open_page: OpenPage, served: Served, whole_film: str) -> None:
    other = served.call("POST", f"v1/videos/{whole_film}/branch", {"from_index": 3, "num_frames": 64})["id"]
    watched = open_page(f"/compare/{other}/{whole_film}?t=5", allowed_errors="404")
    assert watched.page.url.endswith(f"/#/compare/{other}/{whole_film}?t=5"), "and no token"
    watched.until("Number(document.getElementById('rail').ariaValueNow) >= 5")
    watched.page.keyboard.press("Space")
    box = watched.page.locator("#rail").bounding_box()
    assert box is not None
    watched.page.mouse.click(box["x"] + box["width"] * 10.3 / 160, box["y"] + 20)
    until_both(watched, 10, 10)
    watched.page.set_viewport_size({"width": 360, "height": 740})  # stacked, and nothing sticks out
    left, right = (watched.page.locator(".seat").nth(place).bounding_box() for place in (0, 1))
    assert left
    assert right
    assert right["y"] >= left["y"] + left["height"]
    assert watched.ask("document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth")
    watched.page.goto(f"{served.url}#/compare/{other}/no-such-film")
    watched.until_text("#compare", "no such video")
