"""What a person does on the page, done by clicking and typing; frames are read back from the pixels on the screen."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import av
import pytest
from playwright.sync_api import Page

from st2v_stream.generators.testcard import read_frame_number
from tests.browser.conftest import OpenPage
from tests.browser.served import Served
from tests.browser.watched import READ_LATE, Watched

pytestmark = pytest.mark.browser

OFFLINE = "ERR_CONNECTION_REFUSED|WebSocket connection|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET|ERR_INCOMPLETE"

_DROP = """() => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([TEXT], "film.json", { type: "application/json" }));
  const drag = (type) => document.body.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
  ["dragover", "drop"].forEach(drag);
}"""

SECONDS_BUFFERED = """() => {
  const { buffered } = document.getElementById("video");
  return Array.from({ length: buffered.length }, (_, i) => buffered.end(i) - buffered.start(i)).reduce((a, b) => a + b);
}"""


def require_right_frames(watched: Watched, fps: int = 8) -> None:
    """Every frame came at its own time, the element never ran dry, and (but for a busy machine's few) none was left out."""
    shown = watched.shown
    assert [entry for entry in shown if not 0 <= entry.number - round(entry.media_s * fps) <= READ_LATE] == []
    assert watched.ask("window.waits") == 0
    numbers = {entry.number for entry in shown}
    lost = max(numbers) - min(numbers) + 1 - len(numbers)
    print(f"{len(numbers)} frames shown, {lost} lost, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    assert lost <= len(numbers) / 4


def wait_for_frame(watched: Watched, number: int, timeout_s: float = 15.0) -> None:
    watched.until(f"window.shown.length && window.shown.at(-1)[0] >= {number}", timeout_s)


def test_a_click_makes_a_film_and_pictures_move_long_before_it_is_done(open_page: OpenPage) -> None:
    watched = open_page()
    assert "token" not in watched.page.url
    watched.record()
    watched.page.click("#big-examples button")
    assert watched.page.input_value("#prompt") == "a numbered film"
    watched.page.select_option("#preset", "default")
    watched.page.fill("#seed", "77")
    watched.make("a numbered film")
    clicked = watched.ask("performance.now()")
    watched.until("window.shown.length > 0")
    first_picture_s = (watched.shown[0].at_ms - clicked) / 1000
    wait_for_frame(watched, 24)
    video = watched.video
    assert (video["state"], video["preset"], video["seed"]) == ("running", "default", 77)
    assert video["frames"] < 120
    assert watched.picture >= 24
    assert "Live" in watched.text("#badge") or "Growing" in watched.text("#badge")
    assert "real time" in watched.text("#figures")
    require_right_frames(watched)
    print(f"first picture {first_picture_s:.2f} s after the click")


def test_a_late_viewer_gets_everything_from_the_start(open_page: OpenPage) -> None:
    maker = open_page()
    maker.make("a film for two", seconds="")
    maker.until("Number(document.getElementById('strip').ariaValueMax) > 40")
    late = open_page(f"/video/{maker.video_id}")
    late.until("Number(document.getElementById('strip').ariaValueMax) > 40")
    late.until("document.getElementById('video').currentTime > 3")  # begins at the edge
    late.page.keyboard.press("Space")
    late.page.keyboard.press("Home")
    late.until_picture(0)
    for chunk_start in (16, 24, 32, 40):
        late.page.keyboard.press("Shift+ArrowRight")
        late.until_picture(chunk_start)
    maker.page.keyboard.press("s")
    maker.until_text("#stop", "Continue")


def test_stop_then_continue_in_the_same_place(open_page: OpenPage) -> None:
    watched = open_page()
    watched.record()
    watched.make("a film that is stopped")
    wait_for_frame(watched, 10)
    place = watched.page.locator("#stop").bounding_box()
    watched.page.keyboard.press("s")
    watched.until_text("#stop", "Continue")
    assert watched.page.locator("#stop").bounding_box() == place
    video = watched.video
    assert (video["ended_by"], video["frames"] < 160) == ("stopped", True)
    wait_for_frame(watched, video["frames"] - 1)  # plays to the very last frame
    watched.page.click("#stop")
    watched.until_text("#stop", "Stop")
    wait_for_frame(watched, video["frames"] + 8)
    require_right_frames(watched)
    watched.page.click("#stop")
    watched.until_text("#stop", "Continue")


def test_download_is_a_whole_film(open_page: OpenPage, whole_film: str) -> None:
    watched = open_page(f"/video/{whole_film}")
    watched.until_whole()
    with watched.page.expect_download() as download:
        watched.page.click("#download")
    assert download.value.suggested_filename.endswith(".mp4")
    with open(download.value.path(), "rb") as file, av.open(io.BytesIO(file.read())) as movie:
        numbers = [read_frame_number(frame.to_ndarray(format="rgb24")) for frame in movie.decode(video=0)]
    assert numbers == list(range(160))


def test_keys(open_page: OpenPage, whole_film: str) -> None:
    watched = open_page(f"/video/{whole_film}")
    watched.until_whole()
    watched.page.keyboard.press("ArrowRight")  # pauses
    watched.page.keyboard.press("Home")
    watched.until_picture(0)
    watched.page.keyboard.press("ArrowRight")
    watched.until_picture(1)
    assert watched.ask("document.getElementById('video').paused")
    for key, frame in [("ArrowRight", 2), ("Shift+ArrowRight", 16), ("Shift+ArrowRight", 24), ("ArrowLeft", 23)]:
        watched.page.keyboard.press(key)
        watched.until_picture(frame)
    for key, frame in [("Shift+ArrowLeft", 16), ("Shift+ArrowLeft", 0), ("End", 159)]:
        watched.page.keyboard.press(key)
        watched.until_picture(frame)
    watched.page.keyboard.press("Home")
    watched.page.keyboard.press("Space")
    watched.until("document.getElementById('video').currentTime > 0.5")
    watched.page.keyboard.press("/")
    watched.page.keyboard.type("s is a letter")
    assert watched.page.input_value("#prompt") == "s is a letter"


def test_drag_to_scrub(open_page: OpenPage, whole_film: str) -> None:
    watched = open_page(f"/video/{whole_film}")
    watched.until_whole()
    box = watched.page.locator("#strip .track").bounding_box()
    assert box is not None
    cell = box["width"] / 19
    watched.page.mouse.move(box["x"] + 2.1 * cell, box["y"] + 20)
    watched.page.mouse.down()
    watched.until_picture(24)
    watched.page.mouse.move(box["x"] + 10.1 * cell, box["y"] + 20, steps=8)
    watched.until_picture(88)
    watched.page.keyboard.press("Space")
    watched.page.mouse.up()


def test_reload_comes_back_to_the_film(open_page: OpenPage) -> None:
    watched = open_page()
    watched.make("a film to come back to")
    watched.until("document.getElementById('video').currentTime > 1")
    watched.page.reload()
    watched.until("document.getElementById('video').currentTime > 1")
    assert watched.text("#caption") == "a film to come back to"
    watched.page.keyboard.press("s")
    watched.until_text("#stop", "Continue")


def test_a_server_that_is_cut_off_for_three_seconds_leaves_no_gap(open_page: OpenPage, served: Served) -> None:
    watched = open_page(allowed_errors=OFFLINE)
    watched.record()
    watched.make("a film that survives", seconds="")
    wait_for_frame(watched, 24)
    watched.until("document.getElementById('badge').innerText.length > 0")
    before = watched.frames
    served.kill()
    watched.until("!document.getElementById('lost').hidden")
    assert "Connection lost" in watched.text("#lost")
    wait_for_frame(watched, before - 4)  # goes on with what it has
    watched.page.wait_for_timeout(3000)
    served.start()
    watched.until("document.getElementById('lost').hidden")
    watched.until_text("#note", "resumed at 0:")
    wait_for_frame(watched, before + 24)
    require_right_frames(watched)
    watched.page.keyboard.press("s")
    watched.until_text("#stop", "Continue")
    watched.ask("document.getElementById('video').pause()")  # else a busy machine reads the picture a frame too late
    for frame in range(before + 6, before - 6, -1):
        watched.ask(f"document.getElementById('video').currentTime = {(frame + 0.5) / 8}")
        watched.until_picture(frame)


def test_a_film_that_fails_says_why_and_goes_on(open_page: OpenPage) -> None:
    watched = open_page()
    watched.page.select_option("#model-choice", "frail")
    watched.page.fill("#prompt", "a dragon drifts")
    watched.until_text("#hint", "does not know “dragon”")
    watched.make("a dragon drifts", model="frail")
    watched.until_text("#message", "could not go on")
    assert "out of memory" in watched.text("#message")
    assert "dragon" in watched.text("#notes")
    watched.page.click("#message button")
    watched.until("Number(document.getElementById('strip').ariaValueMax) > 60")
    assert watched.ask("document.getElementById('message').hidden")


def test_a_slow_maker_is_waited_for_without_losing_a_frame(open_page: OpenPage) -> None:
    watched = open_page()
    watched.record()
    watched.make("a film that takes its time", model="slow")
    wait_for_frame(watched, 26)
    require_right_frames(watched)
    watched.page.keyboard.press("s")
    watched.until_text("#stop", "Continue")


def test_films_are_listed_opened_and_deleted(open_page: OpenPage, served: Served) -> None:
    film = served.call("POST", "v1/videos", {"prompt": "a film to delete", "model": "quick", "num_frames": 16})["id"]
    watched = open_page(allowed_errors="404")
    watched.until_text("#films", "a film to delete")
    item = watched.page.locator("#films > ul > li", has_text="a film to delete")
    watched.page.goto(watched.served.url + "#/")
    watched.until("document.body.dataset.view === 'empty'")
    item.locator("a").first.click()
    watched.until("document.getElementById('video').currentTime > 0.2")
    item.hover()
    item.locator(".delete").click()
    watched.until("document.body.dataset.view === 'empty'")
    assert item.count() == 0
    watched.page.click("#note .link")  # Undo
    watched.until("document.getElementById('video').currentTime > 0.2")
    assert item.count() == 1
    item.locator(".delete").click()
    watched.until("document.body.dataset.view === 'empty'")
    assert item.count() == 0
    watched.page.goto(f"{watched.served.url}#/video/{film}")
    watched.until_text("#message", "This film cannot be shown")
    watched.page.click("#message button")
    watched.until("document.body.dataset.view === 'empty'")
    watched.until("!document.getElementById('deleted').hidden")  # and later still, from the list of what was deleted
    watched.page.click("#deleted-toggle")
    gone = watched.page.locator("#deleted .row", has_text="a film to delete")
    assert "gone for good in 24 h" in gone.inner_text()
    gone.locator("button").click()
    watched.until_text("#films > ul", "a film to delete")
    gone.wait_for(state="hidden")


def test_a_moment_of_a_film_has_an_address(open_page: OpenPage, whole_film: str) -> None:
    watched = open_page(f"/video/{whole_film}?t=12.5")
    watched.until("document.getElementById('video').currentTime >= 12.5")
    assert watched.ask("document.getElementById('video').currentTime") < 16
    watched.page.keyboard.press("ArrowRight")  # pauses
    watched.page.goto(
        f"{watched.served.url}#/video/{whole_film}?t=3.0"
    )  # another moment of the same film: nothing is loaded again
    watched.until_picture(24)
    watched.page.click("#share")
    watched.page.check("#share-moment input")
    watched.page.click("#make-link")
    watched.until("document.querySelectorAll('#sharing .links li').length === 1")
    assert watched.page.input_value("#sharing .links input >> nth=0").endswith(f"/video/{whole_film}?t=3")


def test_a_film_is_written_down_and_made_again(open_page: OpenPage, served: Served, tmp_path: Path) -> None:
    cues = [{"from_s": 4, "prompt": "then another one", "transition_chunks": 2}]
    request = {"prompt": "a film that is written down", "model": "quick", "num_frames": 64, "cues": cues}
    first = served.call("POST", "v1/videos", request)["id"]
    watched = open_page(f"/video/{first}", allowed_errors="400")
    watched.until_whole(64)
    watched.page.click("#share")
    with watched.page.expect_download() as download:
        watched.page.click("#save-screenplay")
    assert download.value.suggested_filename == "a-film-that-is-written-down.screenplay.json"
    file = tmp_path / "film.json"
    download.value.save_as(file)
    watched.page.keyboard.press("Escape")
    watched.ask(_DROP.replace("TEXT", json.dumps(file.read_text())))
    watched.until_text("#screenplay", "0:04 then another one, over 2 chunks")
    watched.page.click("#screenplay-make")
    watched.until(f"!location.hash.includes('{first}')")
    watched.until_whole(64)
    assert served.call("GET", f"v1/videos/{watched.video_id}/cues")["data"][0]["prompt"] == "then another one"
    for text, words in [
        ("{", "is not JSON"),
        ("{}", "is no screenplay"),
        (file.read_text().replace('"from_s": 4', '"from_s": -4'), "cues[0].from_s"),
    ]:
        watched.ask(_DROP.replace("TEXT", json.dumps(text)))
        if "cues" in words:
            watched.page.click("#screenplay-make")
        watched.until_text("#screenplay", words)
        watched.page.keyboard.press("Escape")
        watched.until("!document.getElementById('screenplay').open")


def test_without_a_token_a_form_asks_for_it(open_page: OpenPage, served: Served) -> None:
    watched = open_page(allowed_errors="401")
    watched.ask("sessionStorage.clear()")
    watched.page.goto("about:blank")
    watched.page.goto(served.url)
    for token in ("not-the-right-token", served.link.partition("=")[2]):
        watched.until("document.getElementById('ask-token').open")
        watched.page.fill("#token", token)
        watched.page.keyboard.press("Enter")
        watched.page.wait_for_timeout(300)
    watched.until("!document.getElementById('ask-token').open && document.body.dataset.view === 'empty'")


def test_nothing_sticks_out_sideways(open_page: OpenPage, whole_film: str) -> None:
    watched = open_page(f"/video/{whole_film}")
    watched.until_whole()
    for width in (360, 768, 1440):
        watched.page.set_viewport_size({"width": width, "height": 740})
        watched.until(f"innerWidth === {width}")
        assert watched.ask("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)") <= width
        assert watched.ask("document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth")
        stop = watched.page.locator("#stop").bounding_box()
        assert stop is not None
        assert stop["y"] + stop["height"] <= 740, "Stop is in sight"


def test_what_left_the_buffer_is_fetched_again_when_one_seeks_back(open_page: OpenPage, whole_film: str) -> None:
    script = (Path(__file__).parents[2] / "web" / "player.js").read_text()
    small = script.replace("96 * 2 ** 20", "12_000")
    assert small != script

    def prepare(page: Page) -> None:
        page.route("**/player.js", lambda route: route.fulfill(body=small, content_type="text/javascript"))

    watched = open_page(f"/video/{whole_film}", prepare=prepare)
    watched.until_whole()
    assert watched.ask(SECONDS_BUFFERED) < 19
    watched.page.keyboard.press("Space")
    watched.page.keyboard.press("End")
    watched.until_picture(159)
    watched.page.keyboard.press("Home")
    watched.until_picture(0)
    for frame in (16, 24, 32, 40, 48, 56, 64):
        watched.page.keyboard.press("Shift+ArrowRight")
        watched.until_picture(frame)
