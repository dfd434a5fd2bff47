"""A glance along the film: over the strip stands a picture of where the pointer is, read back from its pixels."""

from __future__ import annotations

import base64
import time

import numpy as np
import pytest
from playwright.sync_api import FloatRect, ViewportSize

from st2v_stream.generators.testcard import read_frame_number
from tests.browser.conftest import OpenPage
from tests.browser.served import Served
from tests.browser.watched import Watched

pytestmark = pytest.mark.browser

PHONE: ViewportSize = {"width": 360, "height": 740}
FRAMES, FPS = 160, 8
TALL = 24
"""Rows of the picture in which the number is written, and some more."""

_GLANCED = """() => {
  const picture = document.querySelector("#glance:not([hidden]) .picture:not([hidden], [data-near]) img");
  if (!picture) return "";
  const context = new OffscreenCanvas(256, 192).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, 256, 192);
  return btoa(String.fromCharCode(...context.getImageData(0, 0, 256, 24).data));
}"""


def box_of(watched: Watched, selector: str) -> FloatRect:
    box = watched.page.locator(selector).bounding_box()
    assert box is not None, f"{selector} is not in sight"
    return box


def until_glance(watched: Watched, number: int) -> None:
    """The picture over the strip shows the frame of this number, and stays clear of the strip and within the page."""
    deadline = time.monotonic() + 20
    while (seen := glanced(watched)) != number:
        assert time.monotonic() < deadline, f"expected frame {number} over the strip, received {seen}"
        watched.page.wait_for_timeout(20)
    glance, film, strip = (box_of(watched, selector) for selector in ("#glance", "#film", "#strip"))
    size = watched.page.viewport_size
    assert size is not None
    assert film["x"] - 1 <= glance["x"]
    assert glance["x"] + glance["width"] <= min(film["x"] + film["width"] + 1, size["width"])
    assert glance["y"] >= 0
    assert glance["y"] + glance["height"] <= strip["y"]


def glanced(watched: Watched) -> int | None:
    pixels = base64.b64decode(watched.ask(_GLANCED))
    if not pixels:
        return None
    frame = np.zeros((192, 256, 3), np.uint8)
    frame[:TALL] = np.frombuffer(pixels, np.uint8).reshape(TALL, 256, 4)[:, :, :3]
    return read_frame_number(frame)


def first_frame(frame: int) -> int:
    """Of the chunk that holds a frame."""
    return 0 if frame < 16 else frame - frame % FPS


def made(served: Served, frames: int = FRAMES) -> str:
    request = {"prompt": "a film to leaf through", "model": "quick", "num_frames": frames}
    return str(served.call("POST", "v1/videos", request)["id"])


def test_over_the_strip_and_the_overview_the_film_there_is_shown(open_page: OpenPage, served: Served) -> None:
    watched = open_page(f"/video/{made(served)}")
    watched.until_whole(FRAMES)
    watched.page.keyboard.press("ArrowRight")  # pauses
    asked: list[str] = []
    watched.page.on("request", lambda request: asked.append(request.url) if "/thumbnails/" in request.url else None)
    over_the_strip(watched)
    assert asked == [], "what the strip shows is here already"
    over_the_overview(watched, asked)
    grows_under_a_resting_pointer(watched, served)


def over_the_strip(watched: Watched) -> None:
    strip = box_of(watched, "#strip")
    watched.page.keyboard.press("Home")
    watched.until("document.getElementById('strip').scrollLeft === 0")
    watched.until("document.querySelectorAll('#strip .cell img').length >= 10")
    cell = box_of(watched, "#strip .track")["width"] / 19
    y = strip["y"] + strip["height"] / 2
    for chunk, number in ((5, 48), (0, 0), (8, 72)):
        watched.page.mouse.move(strip["x"] + 4 + (chunk + 0.5) * cell, y)
        until_glance(watched, number)
        told = watched.text("#glance b")
        assert number / FPS <= float(told.split(":")[1]) < (number + (16 if chunk == 0 else 8)) / FPS, told
    watched.page.mouse.move(strip["x"] + strip["width"] / 2, 200)
    watched.until("document.getElementById('glance').hidden")


def over_the_overview(watched: Watched, asked: list[str]) -> None:
    overview = box_of(watched, "#overview")
    y = overview["y"] + overview["height"] / 2

    def x_of(frame: int) -> float:
        return overview["x"] + (frame + 0.5) / FRAMES * overview["width"]

    watched.page.mouse.move(x_of(100), y)
    watched.page.mouse.move(x_of(159), y, steps=50)
    until_glance(watched, first_frame(159))
    assert len(asked) < 9, f"a pointer that runs along the film asks for few pictures: {asked}"
    for frame in (131, 3, 90):
        watched.page.mouse.move(x_of(frame), y)
        until_glance(watched, first_frame(frame))
        assert watched.text("#glance b") == f"0:{frame // FPS:02}.{frame % FPS * 10 // FPS}"
    watched.page.mouse.down()
    watched.page.mouse.move(x_of(120), y, steps=4)
    until_glance(watched, 120)
    watched.until_picture(120)
    watched.page.mouse.up()


def grows_under_a_resting_pointer(watched: Watched, served: Served) -> None:
    """The pointer rests at three quarters of the film, which then grows to one and a half times its length."""
    served.call("POST", f"v1/videos/{watched.video_id}/continue", {"num_frames": FRAMES // 2})
    watched.until_whole(FRAMES + FRAMES // 2)
    until_glance(watched, 180 - 180 % 8)
    watched.page.goto(f"{watched.served.url}#/")
    watched.until("document.getElementById('glance').hidden")


def test_a_finger_sees_it_while_it_drags(open_page: OpenPage, whole_film: str) -> None:
    watched = open_page(f"/video/{whole_film}")
    watched.page.set_viewport_size(PHONE)
    watched.until_whole(FRAMES)
    hand = watched.page.context.new_cdp_session(watched.page)
    hand.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    overview = box_of(watched, "#overview")

    def touch(kind: str, *frames: int) -> None:
        points = [{"x": overview["x"] + (f + 0.5) / FRAMES * overview["width"], "y": overview["y"] + 7} for f in frames]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 2)
    until_glance(watched, 0)
    for frame in (40, 90, 158):
        touch("touchMove", frame)
    until_glance(watched, first_frame(158))
    watched.until_picture(158)
    touch("touchEnd")
    watched.until("document.getElementById('glance').hidden")
