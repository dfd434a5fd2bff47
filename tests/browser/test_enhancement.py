"""A film turns sharp while it is made and watched: what is on the screen before and after, and what it costs who watches."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from einops import reduce
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import BrowserContext, Page

from tests.browser.conftest import OpenPage
from tests.browser.served import Served
from tests.browser.test_page import SECONDS_BUFFERED
from tests.browser.watched import READ_LATE, Watched

pytestmark = pytest.mark.browser

FPS = 8
Picture: TypeAlias = NDArray[np.float64]
LAST_FRAME = "Number(document.getElementById('strip').ariaValueMax)"
SHARP_WIDTH = 512
"""Of the numbered films of the model `sharpened`; their previews have 256."""

_FOLLOW = """() => {
  const video = document.getElementById("video");
  window.seen = []; window.stalls = 0; window.seeks = 0; window.exchanged = [];
  video.addEventListener("waiting", () => { if (!video.seeking) window.stalls += 1; });
  video.addEventListener("seeking", () => { window.seeks += 1; });
  const append = SourceBuffer.prototype.appendBuffer;
  SourceBuffer.prototype.appendBuffer = function (bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    const isSegment = view.getUint32(4) === 0x6d6f6f66;  // moof; its sequence number is that of the chunk, from 1
    const done = () => window.exchanged.push([view.getUint32(20) - 1, performance.now()]);
    if (isSegment) this.addEventListener("updateend", done, { once: true });
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

    @property
    def is_sharp(self) -> bool:
        return self.width == SHARP_WIDTH

    @property
    def chunk(self) -> int:
        return max(0, round(self.media_s * FPS) // 8 - 1)


def follow(watched: Watched) -> None:
    watched.ask(_FOLLOW)


def seen_by(watched: Watched) -> list[Seen]:
    return [Seen(*entry) for entry in watched.ask("window.seen")]


def frames_lost(seen: list[Seen]) -> int:
    """Frames between the first and the last that were never on the screen; what is shown twice does not make up for one."""
    lost = 0
    for before, after in pairwise(seen):  # where a loop turns round, the step is negative
        step = round((after.media_s - before.media_s) * FPS)
        lost += max(0, step - max(1, after.presented - before.presented))
    return lost


def cell_states(watched: Watched) -> list[str]:
    """Of the cells in sight, in order."""
    script = """Array.from(document.querySelectorAll("#strip .cell"))
        .map((cell) => [parseFloat(cell.style.transform.slice(11)), cell.dataset.state])
        .sort((a, b) => a[0] - b[0]).map(([, state]) => state)"""
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
    loop(watched, chunks=4)
    assert set(cell_states(watched)) == {"preview"}
    assert watched.text("#frontier") == "not enhanced yet"
    follow(watched)
    watched.page.keyboard.press("Space")
    watched.until("window.seen.some(([number]) => number >= 24)", timeout_s=60)
    watched.page.keyboard.press("e")
    watched.page.click("#enhance-sheet .primary")  # the whole film
    for chunk in range(4):
        until_shown_sharp(watched, chunk)
    watched.page.keyboard.press("Space")
    seen = seen_by(watched)
    exchanged = dict(watched.ask("window.exchanged"))
    sharp = [entry for entry in seen if entry.is_sharp]
    late = [entry for entry in seen if not entry.is_sharp and entry.at_ms > exchanged.get(entry.chunk, np.inf) + 1500]
    print(f"{len(seen)} frames seen, {len(sharp)} of them sharp, {frames_lost(seen)} lost, {watched.ask('window.seeks')} seeks")
    assert late == [], "a chunk turns sharp within 1.5 s"
    assert [entry.media_s for entry in sharp if entry.at_ms < exchanged[entry.chunk]] == []
    assert watched.ask("window.stalls") == 0
    assert [entry for entry in seen if not 0 <= entry.number - round(entry.media_s * FPS) <= READ_LATE] == [], (
        "read late, not early"
    )
    assert frames_lost(seen) <= len(seen) / 4, "as many as a busy machine may lose"


def test_behind_the_frontier_one_waits_or_plays_on(open_page: OpenPage, served: Served) -> None:
    video_id = make_preview(served, "a film of which some is sharp")
    served.call("POST", f"v1/videos/{video_id}/enhance", {"from_index": 0, "to_index": 3})
    script = (Path(__file__).parents[2] / "web" / "player.js").read_text()
    small = script.replace("96 * 2 ** 20", "12_000")
    assert small != script

    def prepare(page: Page) -> None:
        page.route("**/player.js", lambda route: route.fulfill(body=small, content_type="text/javascript"))

    watched = open_page(f"/video/{video_id}", prepare=prepare)
    watched.until_whole()
    until_sharp(watched, 3)
    assert watched.text("#frontier") == "enhanced up to 0:04 of 0:20"
    assert watched.ask(SECONDS_BUFFERED) < 19
    watched.page.keyboard.press("ArrowRight")  # pauses
    watched.page.keyboard.press("End")
    watched.until_picture(159)
    follow(watched)
    watched.page.keyboard.press("v")  # sharp: back to what is
    watched.until("document.getElementById('video').currentTime < 4 && !document.getElementById('video').seeking")
    assert watched.page.get_attribute("#way-sharp", "aria-pressed") == "true"
    watched.page.keyboard.press("Home")
    watched.page.keyboard.press("Space")
    watched.until_text("#waiting", "caught up", timeout_s=60)
    assert watched.ask("document.getElementById('video').currentTime") < 4
    seen = [entry for entry in seen_by(watched) if entry.media_s < 4]
    assert [entry.number for entry in seen if not entry.is_sharp] == [], "what had been evicted came back sharp"
    watched.page.click("#play-on")
    watched.until("window.seen.at(-1)[0] >= 40", timeout_s=60)
    assert watched.ask("document.getElementById('waiting').hidden")
    watched.page.set_viewport_size({"width": 360, "height": 740})
    watched.until("innerWidth === 360")
    assert watched.ask("document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth")
    stop = watched.page.locator("#stop").bounding_box()
    assert stop is not None
    assert stop["y"] + stop["height"] <= 740, "Stop is in sight"
    watched.page.keyboard.press("l")
    watched.until("document.getElementById('way-live').ariaPressed === 'true'")


def loop(watched: Watched, chunks: int) -> None:
    """Over the film's first chunks, from the beginning; the film stands still."""
    watched.page.keyboard.press("Home")
    for start in [16 + 8 * chunk for chunk in range(chunks - 1)]:
        watched.page.keyboard.press("Shift+ArrowRight")
        watched.until_picture(start)
    watched.page.keyboard.press("ArrowLeft")
    watched.until_picture(15 + 8 * (chunks - 2))
    watched.page.keyboard.press("u")
    watched.page.keyboard.press("Home")
    watched.until_picture(0)


def until_shown_sharp(watched: Watched, chunk: int) -> None:
    first, end = (0, 16) if chunk == 0 else (8 + 8 * chunk, 16 + 8 * chunk)
    condition = f"number >= {first} && number < {end} && width === {SHARP_WIDTH}"
    watched.until(f"window.seen.some(([number, , , width]) => {condition})", timeout_s=120)


# ---------------------------------------------------------------- the built-in model


@pytest.mark.timeout(900)
def test_a_film_is_made_and_turns_sharp_at_the_same_time(browser: BrowserContext, storybook: Served) -> None:
    watched = Watched(browser.new_page(), storybook)
    watched.open()
    watched.page.fill("#prompt", "a red boat drifts left over the sea")
    watched.page.check("#lengths input[value='']", force=True)  # endless
    watched.page.click("#make-button")
    watched.until("document.getElementById('policy').offsetParent !== null", timeout_s=120)
    choose_policy(watched, "none")
    watched.until(f"{LAST_FRAME} >= 31", timeout_s=600)
    stand_at(watched, 20)
    before, place = picture(watched), watched.ask("document.getElementById('video').currentTime")
    assert cell_states(watched)[1] == "preview"
    follow(watched)
    enhance_chunk(watched, 1)
    watched.until("document.querySelector('.cell[data-enhancing]') !== null", timeout_s=300)
    assert watched.video["state"] == "running", "made and enhanced at the same time"
    watched.page.keyboard.press("s")  # what is made goes first: on a slow machine the enhancer would wait for long
    watched.until("window.exchanged.some(([chunk]) => chunk === 1) && window.seen.length > 0", timeout_s=600)
    assert (watched.video["enhanced_frames"], watched.video["enhanced_prefix_frames"]) == (8, 0)
    shown_ms = watched.ask("window.seen[0][4] - window.exchanged.find(([chunk]) => chunk === 1)[1]")
    after = picture(watched)
    print(f"shown {shown_ms:.0f} ms after it was there, sharpness {sharpness(before):.2f} -> {sharpness(after):.2f}")
    print(f"of small detail {detail(before):.2f} -> {detail(after):.2f}, correlation {likeness(before, after):.4f}")
    assert watched.ask("document.getElementById('video').currentTime") == place
    assert shown_ms < 1500
    assert detail(after) > 1.02 * detail(before), "sharper"
    assert likeness(before, after) > 0.97, "the same picture"
    choose_policy(watched, "all")
    watched.page.keyboard.press("o")
    watched.page.keyboard.press("o")  # no loop
    watched.page.keyboard.press("Home")
    watched.page.keyboard.press("Space")
    watched.until_text("#frontier", "all of it is enhanced", timeout_s=600)
    watched.until(f"window.seen.some(([, media]) => Math.round(media * {FPS}) === {LAST_FRAME})", timeout_s=120)
    seen, stalls = seen_by(watched), watched.ask("window.stalls")
    print(f"{len(seen)} frames seen, {frames_lost(seen)} lost, {stalls} stalls, {watched.ask('window.seeks')} seeks")
    assert stalls <= 1, "the end may come while the last chunk is exchanged"
    assert frames_lost(seen) <= len(seen) / 4, "as many as a busy machine may lose"
    late = Watched(browser.new_page(), storybook)
    late.open(f"/video/{watched.video_id}")
    until_sharp(late, 3)
    stand_at(late, 20)
    assert likeness(after, picture(late)) > 0.999, "who comes late gets the best there is"
    assert (watched.troubles, late.troubles) == ([], [])
    for page in (watched.page, late.page):
        page.close()


def stand_at(watched: Watched, frame: int) -> None:
    """Pause at a frame of the chunk from 16 to 23, in whose length the loop is set."""
    watched.page.keyboard.press("ArrowLeft")  # pauses
    watched.page.keyboard.press("Home")
    until_at(watched, 0)
    watched.page.keyboard.press("Shift+ArrowRight")
    until_at(watched, 16)
    watched.page.keyboard.press("i")
    for place in range(17, 24):
        watched.page.keyboard.press("ArrowRight")
        until_at(watched, place)
    watched.page.keyboard.press("u")
    for place in range(22, frame - 1, -1):
        watched.page.keyboard.press("ArrowLeft")
        until_at(watched, place)
    watched.page.wait_for_timeout(300)  # the picture follows the seek


def until_at(watched: Watched, frame: int) -> None:
    video = "document.getElementById('video')"
    watched.until(f"Math.floor({video}.currentTime * {FPS} + 0.01) === {frame} && !{video}.seeking", timeout_s=60)


def enhance_chunk(watched: Watched, chunk: int) -> None:
    """The loop's length is what is asked for."""
    watched.page.keyboard.press("e")
    watched.page.select_option("#enhance-part", "loop")
    watched.page.click("#enhance-sheet .primary")
    watched.until("!document.getElementById('enhance-sheet').open", timeout_s=60)


def picture(watched: Watched) -> Picture:
    """What is on the screen, (256, 256, 3) in 0 to 255."""
    png = base64.b64decode(watched.ask(_PICTURE))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.float64)


def sharpness(seen: Picture) -> float:
    """Mean absolute step between neighbouring pixels."""
    return float(np.abs(np.diff(seen, axis=0)).mean() + np.abs(np.diff(seen, axis=1)).mean()) / 2


def detail(seen: Picture) -> float:
    """How steep the steepest hundredth of all steps to the right are: what a viewer sees as sharp edges."""
    return float(np.quantile(np.abs(np.diff(seen, axis=1)), 0.99))


def likeness(a: Picture, b: Picture) -> float:
    """Correlation of the two, at a quarter of their size."""
    first, second = (reduce(seen, "(h p) (w q) c -> h w c", "mean", p=4, q=4).ravel() for seen in (a, b))
    return float(np.corrcoef(first, second)[0, 1])
