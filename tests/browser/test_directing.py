"""The director's verbs on the page, by clicking and typing: what is said beforehand is what happens, and pixels show it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.browser.conftest import OpenPage
from tests.browser.served import Served
from tests.browser.watched import Watched

pytestmark = pytest.mark.browser

FPS = 8


def film_of(served: Served, frames: int, prompt: str = "a film to direct") -> dict[str, Any]:
    """A film that is done."""
    video = served.call("POST", "v1/videos", {"prompt": prompt, "model": "quick", "num_frames": frames})
    return until_done(served, video["id"])


def until_done(served: Served, video_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while (video := served.call("GET", f"v1/videos/{video_id}"))["ended_by"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert isinstance(video, dict)
    return video


def go_to(watched: Watched, frame: int) -> None:
    """Pause there."""
    watched.page.keyboard.press("ArrowRight")
    watched.page.keyboard.press("Home")
    watched.until_picture(0)
    for start in range(16, frame + 1, 8):
        watched.page.keyboard.press(">")
        watched.until_picture(start)
    for number in range(max(16, frame - frame % 8) + 1, frame + 1):
        watched.page.keyboard.press(".")
        watched.until_picture(number)


def test_a_new_prompt_says_from_when_and_is_marked_there(open_page: OpenPage, served: Served) -> None:
    watched = open_page()
    watched.make("a film that turns", seconds="60")
    watched.until("Number(document.getElementById('strip').ariaValueMax) > 20")
    watched.page.keyboard.press("p")
    watched.page.fill("#verb-prompt", "")
    assert watched.page.is_disabled("#verb-do"), "an empty prompt would change nothing"
    watched.page.fill("#verb-prompt", "another film")
    watched.page.select_option("#verb-when", "5")
    said = watched.text("#verb-what")
    watched.page.click("#verb-do")
    watched.until_text("#note", "another film")
    (cue,) = served.call("GET", f"v1/videos/{watched.video_id}/cues")["data"]
    assert cue["prompt"] == "another film"
    told = int(said.split("chunk ")[1].split(",")[0]) - 1
    assert told <= cue["from_index"] <= told + 2, (said, cue)  # a chunk or so may have been begun between reading and clicking
    assert f"(chunk {cue['from_index'] + 1})" in watched.text("#note")
    watched.page.hover(".cell[data-cue] >> nth=0")
    watched.until_text("#glance", "another film")
    watched.page.keyboard.press("s")
    watched.until_text("#stop", "Continue")


def test_a_branch_shows_the_last_frame_it_keeps_and_opens_there(open_page: OpenPage, served: Served) -> None:
    parent = film_of(served, 80)
    watched = open_page(f"/video/{parent['id']}")
    watched.until_whole(80)
    go_to(watched, 42)
    watched.page.keyboard.press("b")
    watched.until_picture(39)  # of chunks 3 and 4 the nearer border
    assert "up to 0:05 it is this one, from chunk 5 on" in watched.text("#verb-what")
    watched.page.click("#fork-earlier")
    watched.until_picture(31)
    drawn = watched.ask(
        "document.getElementById('fork-frame').getContext('2d').getImageData(0, 0, 256, 24).data.some((v) => v > 0)"
    )
    assert drawn
    watched.page.keyboard.press("Escape")
    watched.until_picture(42)  # back where one was
    watched.page.keyboard.press("b")
    watched.page.fill("#verb-prompt", "a film of its own")
    watched.page.select_option("#verb-length", "20")
    watched.page.keyboard.press("Enter")
    watched.until(f"!location.hash.includes('{parent['id']}')")
    branch = until_done(served, watched.video_id)
    assert (branch["parent_id"], branch["fork_index"], branch["frames"]) == (parent["id"], 4, 40 + 20 * FPS)
    watched.until("document.getElementById('video').currentTime >= 4")  # a chunk before it goes its own way
    watched.until("document.querySelectorAll('.cell[data-fork]').length === 1")
    watched.ask("{ HTMLMediaElement.prototype.play = async () => {}; }")  # so that the first frame stays to be seen
    watched.page.click("#note .link")
    watched.until_picture(39)
    watched.until("document.querySelectorAll('.cell[data-branches]').length === 1")
    item = watched.page.locator("#films li", has_text="a film of its own")
    assert "branch from 0:05" in item.inner_text()
    still = item.locator("img").get_attribute("src")
    item.hover()
    watched.until(f"document.querySelector('#films li[data-leafing] img').src !== '{still}'")


def test_redo_keeps_what_was_as_a_film_of_its_own(open_page: OpenPage, served: Served) -> None:
    film = film_of(served, 48)
    watched = open_page(f"/video/{film['id']}")
    watched.until_whole(48)
    go_to(watched, 24)
    watched.page.keyboard.press("r")
    said = watched.text("#verb-what")
    assert "Chunks 3 to 5 are made anew" in said
    assert "kept as a film of its own" in said
    watched.page.fill("#verb-seed", "x")
    watched.page.click("#verb-do")
    watched.until_text("#verb .error", "A seed is a whole number")
    watched.page.fill("#verb-seed", "77")
    watched.page.click("#verb-do")
    watched.until_text("#note", "Being made anew from 0:03 on")
    until_done(served, film["id"])
    assert [cue["seed"] for cue in served.call("GET", f"v1/videos/{film['id']}/cues")["data"]] == [77]
    watched.until_whole(48)
    watched.page.click("#note .link")
    watched.until(f"!location.hash.includes('{film['id']}')")
    kept = watched.video
    assert kept["frames"] == 48
    watched.until_whole(48)


def test_a_refusal_stays_in_the_sheet_in_words(open_page: OpenPage, served: Served) -> None:
    film = film_of(served, 32)
    watched = open_page(f"/video/{film['id']}", allowed_errors="404")
    watched.until_whole(32)
    watched.page.keyboard.press("b")
    watched.page.route("**/branch", lambda route: route.continue_(url=route.request.url.replace(film["id"], "video_none")))
    watched.page.click("#verb-do")
    watched.until("!document.querySelector('#verb .error').hidden")
    assert "video" in watched.text("#verb .error")
    assert watched.ask("document.getElementById('verb').open")
    watched.page.unroute("**/branch")
    watched.page.click("#verb-do")
    watched.until_text("#note", "This is the branch")


def test_a_branch_by_another_model_or_a_new_film_where_that_cannot_be(open_page: OpenPage, served: Served) -> None:
    film = film_of(served, 32)
    watched = open_page(f"/video/{film['id']}", allowed_errors="409")
    watched.until_whole(32)
    go_to(watched, 24)
    watched.page.keyboard.press("b")
    assert watched.page.input_value("#verb-model") == "quick"
    watched.page.select_option("#verb-model", "wide")
    watched.page.click("#verb-do")
    watched.until_text("#verb .error", "cannot go on from here")
    watched.page.select_option("#verb-model", "testcard")
    assert watched.page.is_hidden("#verb-new-film")
    watched.page.select_option("#verb-model", "wide")
    watched.page.click("#verb-do")
    watched.page.click("#verb-new-film button")
    watched.until_text("#note", "This is a new film")
    assert (watched.video["model"], watched.video["parent_id"]) == ("wide", None)
    watched.page.click("#note .link")
    watched.until(f"location.hash.includes('{film['id']}')")
    watched.until_whole(32)
    go_to(watched, 31)  # what a chunk in the middle follows is thinned away
    watched.page.keyboard.press("b")
    watched.page.select_option("#verb-model", "testcard")
    watched.page.click("#verb-do")
    watched.until_text("#note", "This is the branch")
    assert (watched.video["model"], watched.video["parent_id"]) == ("testcard", film["id"])


def test_rename_and_search(open_page: OpenPage, served: Served) -> None:
    film = film_of(served, 16, "a film without a name")
    watched = open_page(f"/video/{film['id']}")
    item = watched.page.locator("#films li", has_text="a film without a name")
    item.hover()
    item.locator(".rename").click()
    watched.page.fill("#title", "At sea")
    watched.page.keyboard.press("Enter")
    watched.until_text("#caption", "At sea")
    watched.page.fill("#search", "sea name")
    watched.until("document.querySelectorAll('#films li').length === 1")
    assert "At sea" in watched.text("#films ul")
    watched.page.fill("#search", "no such words")
    watched.until_text("#films", "No film has these words")
    watched.page.fill("#search", "")
    watched.until("document.querySelectorAll('#films li').length >= 1")


def test_a_link_is_made_copied_and_taken_back(open_page: OpenPage, served: Served) -> None:
    film = film_of(served, 16)
    watched = open_page(f"/video/{film['id']}")
    watched.until_whole(16)
    watched.page.click("#share")
    watched.page.select_option("#expires", "3600")
    watched.page.click("#sharing .primary")
    watched.until("document.querySelectorAll('#sharing .links li').length === 1")
    page, playlist = (field.input_value() for field in watched.page.locator("#sharing .links input").all())
    guest = watched.page.context.new_page()
    guest.goto(page)
    deadline = time.monotonic() + 20
    while guest.evaluate("document.getElementById('strip').ariaValueMax") != "15":
        assert time.monotonic() < deadline
        guest.wait_for_timeout(50)
    assert playlist.endswith("/index.m3u8")
    assert guest.request.get(playlist).status == 200
    watched.page.click("#sharing .copy >> nth=0")
    watched.until("/Copied|Ctrl/.test(document.querySelector('#sharing .copy').innerText)")
    watched.page.click("#sharing .revoke")
    watched.until("document.querySelectorAll('#sharing .links li').length === 0")
    assert guest.request.get(playlist).status in (401, 403)
    guest.close()


def test_every_control_has_a_name_and_is_reached_by_tab(open_page: OpenPage, served: Served) -> None:
    film = film_of(served, 24)
    watched = open_page(f"/video/{film['id']}")
    watched.until_whole(24)
    nameless = """[...document.querySelectorAll("button, input, select, a, [role=slider]")].filter((control) => {
      const [label] = control.labels ?? [];
      const name = control.getAttribute("aria-label") || control.innerText || label?.textContent;
      return control.checkVisibility() && !name?.trim();
    }).map((control) => control.outerHTML.slice(0, 120))"""
    watched.page.click("#share")
    watched.page.click("#make-link")
    watched.until("document.querySelectorAll('#sharing .links li').length === 1")
    watched.page.keyboard.press("Enter")  # in the address that is selected
    assert watched.ask(nameless) == []
    watched.page.keyboard.press("Escape")
    watched.page.focus("#strip")
    reached: list[str] = []
    while "redo" not in reached and len(reached) < 20:
        watched.page.keyboard.press("Tab")
        reached.append(watched.ask("document.activeElement.id"))
    wanted = [
        "play",
        "step-back",
        "step-on",
        "speed",
        "loop",
        "share",
        "download",
        "stop",
        "continue-by",
        "cue",
        "branch",
        "redo",
    ]
    assert reached == wanted
    assert watched.ask("document.querySelectorAll('#sharing .links li').length") == 1


def test_slow_motion_and_a_loop(open_page: OpenPage, served: Served) -> None:
    film = film_of(served, 48)
    watched = open_page(f"/video/{film['id']}")
    watched.until_whole(48)
    go_to(watched, 18)
    watched.page.keyboard.press("i")
    for number in (19, 20, 21):
        watched.page.keyboard.press(".")
        watched.until_picture(number)
    watched.page.keyboard.press("u")
    assert watched.page.get_attribute("#loop", "aria-pressed") == "true"
    watched.page.keyboard.press("m")
    assert watched.text("#speed") == "½×"
    watched.record()
    watched.page.keyboard.press("Space")
    watched.until("window.shown.filter(([, s], i, all) => i > 0 && s < all[i - 1][1]).length >= 3")  # three times round
    frames = {round(entry.media_s * FPS) for entry in watched.shown}
    assert frames <= {18, 19, 20, 21, 22}, frames
    assert watched.ask("document.getElementById('video').playbackRate") == 0.5
    watched.page.keyboard.press("o")
    watched.until("window.shown.some(([, s]) => s > 3)")


def test_a_film_from_a_dropped_image(open_page: OpenPage) -> None:
    watched = open_page()
    watched.page.set_input_files("#reference-file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"words"})
    watched.until_text("#reference-refused", "“a.txt” cannot begin a film")
    drop = """async () => {
      const canvas = new OffscreenCanvas(64, 48);
      canvas.getContext("2d").fillRect(0, 0, 64, 48);
      const file = new File([await canvas.convertToBlob()], "black.png", { type: "image/png" });
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(file);
      const how = { dataTransfer, cancelable: true, bubbles: true };
      for (const type of ["dragover", "drop"]) dispatchEvent(new DragEvent(type, how));
    }"""
    watched.ask(drop)
    watched.until(
        "!document.getElementById('reference').hidden && document.querySelector('#reference img').naturalWidth === 64"
    )
    assert watched.ask("document.getElementById('reference-refused').hidden")
    requests: list[str] = []
    watched.page.on(
        "request",
        lambda request: requests.append(request.header_value("content-type") or "") if request.method == "POST" else None,
    )
    watched.make("a film from an image", seconds="", model="quick")
    watched.until("document.getElementById('video').currentTime > 0.2")
    assert any(kind.startswith("multipart/form-data") for kind in requests)
    assert watched.video["num_frames"] is None
    assert watched.ask("document.getElementById('reference').hidden"), "the next film begins without it"
    watched.page.keyboard.press("s")
    watched.until_text("#stop", "Continue")


def test_low_latency_shows_the_live_picture_and_leads_back(open_page: OpenPage) -> None:
    watched = open_page()
    watched.make("a film by another way", seconds="60")
    watched.until("!document.getElementById('low-latency').hidden")
    watched.page.click("#low-latency")
    watched.until("document.body.dataset.live === 'webrtc'")
    watched.until("document.getElementById('live-video').videoWidth > 0 && document.getElementById('video').paused")
    assert "as it is made" in watched.text("#badge")
    watched.page.keyboard.press(",")  # looking closely is not for live pictures
    watched.until("!document.body.dataset.live && document.getElementById('live-video').hidden")
    watched.page.keyboard.press("s")
    watched.until_text("#stop", "Continue")
