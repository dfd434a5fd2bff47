"""A film turns sharp while it is made and watched: what is on the screen before and after, and what it costs who watches."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from einops import reduce
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import BrowserContext, Page

from tests.browser.conftest import OpenPage
from tests.browser.served import Served
from tests.browser.test_page import SECONDS_BUFFERED
from tests.browser.watched import Watched

pytestmark = pytest.mark.browser

FPS = 8
SHARP_WIDTH = 512
"""Of the numbered films of the model `sharpened`; their previews have 256."""

_FOLLOW = """() => {
  const video = document.getElementById("video");
  window.seen = []; window.stalls = 0; window.seeks = 0; window.exchanged = [];
  video.addEventListener("waiting", () => { if (!video.seeking) window.stalls += 1; });
  video.addEventListener("seeking", () => { window.seeks += 1; });
  const append = SourceBuffer.prototype.appendBuffer;
  SourceBuffer.prototype.appendBuffer = function (bytes) {
    this.addEventListener("updateend", () => window.exchanged.push([bytes.length, performance.now()]), { once: true });
    return append.call(this, bytes);
  };
  const context = new OffscreenCanvas(256, 192).getContext("2d", { willReadFrequently: true });
  const read = (now, { mediaTime, presentedFrames, width }) => {
    context.drawImage(video, 0, 0, 256, 192);
    const row = context.getImageData(0, 14, 256, 1).data;
    let number = 0;
    for (let cell = 0; cell < 16; cell += 1) number = number * 2 + (row[4 * (16 * cell + 8)] > 127 ? 1 : 0);
    window.seen.push([number, mediaTime, presentedFrames, width, performance.now()]);
    video.requestVideoFrameCallback(read);
  };
  video.requestVideoFrameCallback(read);
}"""
"""What `Watched.record` notes, and besides the browser's own count of the frames it has put on the screen: a callback can be
missed where a frame is not."""

_PICTURE = """() => {
  const canvas = new OffscreenCanvas(256, 256);
  canvas.getContext("2d", { willReadFrequently: true }).drawImage(document.getElementById("video"), 0, 0, 256, 256);
  return canvas.convertToBlob().then(async (blob) => btoa(String.fromCharCode(...new Uint8Array(await blob.arrayBuffer()))));
}"""


@dataclass(frozen=True)
class Seen:
    """A frame on the screen: the number it shows, its time in the film, the browser's count, its width, when (ms)."""

    number: int
    media_s: float
    presented: int
    width: int
    at_ms: float


def follow(watched: Watched) -> None:
    watched.ask(_FOLLOW)


def seen_by(watched: Watched) -> list[Seen]:
    return [Seen(*entry) for entry in watched.ask("window.seen")]


def frames_lost(seen: list[Seen]) -> int:
    """Frames between the first and the last that were never on the screen; what is shown twice does not make up for one."""
    lost = 0
    for before, after in pairwise(seen):
        step = round((after.media_s - before.media_s) * FPS)
        lost += max(0, step - max(1, after.presented - before.presented))
    return lost


def cell_states(watched: Watched) -> list[str]:
    """Of the cells in sight, in order."""
    script = """Array.from(document.querySelectorAll("#strip .cell")).map((cell) =>
        [parseFloat(cell.style.transform.slice(11)), cell.dataset.state]).sort((a, b) => a[0] - b[0]).map(([, state]) => state)"""
    return list(watched.ask(script))


def until_sharp(watched: Watched, chunks: int, timeout_s: float = 60) -> None:
    """At least so many chunks of the page's film are enhanced, counted from its beginning."""
    deadline = time.monotonic() + timeout_s
    while cell_states(watched)[:chunks] != ["enhanced"] * chunks:
        assert time.monotonic() < deadline, f"{cell_states(watched)}, {watched.video}"
        watched.page.wait_for_timeout(50)


def choose_policy(watched: Watched, policy: str) -> None:
    watched.page.select_option("#policy", policy)
    deadline = time.monotonic() + 20
    while watched.video["enhance"] != policy:
        assert time.monotonic() < deadline, f"the server still says {watched.video['enhance']}"
        watched.page.wait_for_timeout(20)


def make_preview(served: Served, title: str) -> str:
    """The id of a film of 160 numbered frames that is done, and of which nothing is sharp."""
    asked = {"prompt": title, "model": "sharpened", "num_frames": 160, "enhance": "none"}
    video_id = str(served.call("POST", "v1/videos", asked)["id"])
    deadline = time.monotonic() + 60
    while served.call("GET", f"v1/videos/{video_id}")["state"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return video_id


# ---------------------------------------------------------------- numbered frames


def test_a_film_turns_sharp_under_the_eyes_of_who_plays_it(open_page: OpenPage, served: Served) -> None:
    watched = open_page(f"/video/{make_preview(served, 'a film that turns sharp')}")
    watched.until_whole()
    watched.page.keyboard.press("ArrowRight")  # pauses
    watched.page.keyboard.press("Home")
    watched.until_picture(0)
    assert set(cell_states(watched)) == {"preview"}
    assert watched.text("#frontier") == "not enhanced yet"
    follow(watched)
    watched.page.keyboard.press("Space")
    watched.page.keyboard.press("e")
    watched.page.click("#enhance-sheet .primary")  # the whole film
    watched.until_text("#frontier", "enhanced up to", timeout_s=60)
    watched.until("window.seen.at(-1)[0] >= 80", timeout_s=60)
    watched.page.keyboard.press("Space")
    seen = seen_by(watched)
    assert [entry for entry in seen if entry.number != round(entry.media_s * FPS)] == []
    sharp = [entry for entry in seen if entry.width == SHARP_WIDTH]
    exchanges = [at_ms for size, at_ms in watched.ask("window.exchanged") if size > 1000]
    late_ms = sharp[0].at_ms - exchanges[0]
    longest_ms = max(after.at_ms - before.at_ms for before, after in pairwise(seen))
    print(f"{len(seen)} frames, {len(sharp)} sharp, the first {late_ms:.0f} ms after the first exchange; longest {longest_ms:.0f} ms")
    print(f"lost {frames_lost(seen)}, stalls {watched.ask('window.stalls')}, seeks {watched.ask('window.seeks')}")
    assert watched.ask("window.stalls") == 0
    assert frames_lost(seen) == 0
    assert late_ms < 1500
    until_sharp(watched, 12)
    for frame in (79, 78, 77):  # rewinding shows it sharp
        watched.page.keyboard.press("ArrowLeft")
    watched.until("window.seen.at(-1)[3] === 512")
