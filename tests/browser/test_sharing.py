"""A shared link on the page: a guest watches one film, downloads it, changes nothing, and is shown out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.browser.served import Served
from tests.browser.watched import Watched

pytestmark = pytest.mark.browser


@pytest.fixture
def guest(browser: BrowserContext, served: Served) -> Iterator[tuple[Watched, dict[str, str]]]:
    """A page of somebody who has a link and no token, of a film whose prompt changes at 4 s."""
    cues = [{"from_s": 4, "prompt": "it changes"}]
    film = {"prompt": "a film for guests", "model": "quick", "num_frames": 160, "cues": cues}
    link = served.call("POST", f"v1/videos/{served.call('POST', 'v1/videos', film)['id']}/links", {})
    watched = Watched(browser.new_page(), served)
    watched.page.goto(served.url.rstrip("/") + link["page_url"])
    yield watched, link
    watched.page.close()


def test_a_guest_watches_and_changes_nothing(guest: tuple[Watched, dict[str, str]]) -> None:
    watched, link = guest
    watched.until_whole()
    watched.page.keyboard.press("Space")
    watched.page.keyboard.press("End")
    watched.until_picture(159)
    watched.page.keyboard.press("Home")
    watched.until_picture(0)
    assert watched.text("#caption") == "a film for guests"
    watched.page.keyboard.press("End")
    watched.until_text("#caption", "it changes")
    watched.until("document.querySelector('.cell[data-cue]') !== null")
    for verb in ("#prompt", "#stop", "#films", "#continue-field", "#model"):
        assert not watched.page.is_visible(verb), verb
    assert not watched.ask("document.getElementById('ask-token').open")
    with watched.page.expect_download() as download:
        watched.page.click("#download")
    assert download.value.url.endswith(f"{link['url']}/content")
    watched.page.reload()
    watched.until_whole()
    assert watched.troubles == []


def test_a_guest_is_shown_out_when_the_link_is_taken_back(guest: tuple[Watched, dict[str, str]], served: Served) -> None:
    watched, link = guest
    watched.until_whole()
    served.call("DELETE", f"v1/videos/{link['video_id']}/links/{link['id']}")
    watched.until_text("main", "this link was taken back")
    assert not watched.ask("document.getElementById('ask-token').open")


def test_a_guest_of_a_link_that_has_ended_is_told(guest: tuple[Watched, dict[str, str]], served: Served) -> None:
    watched, link = guest
    served.call("DELETE", f"v1/videos/{link['video_id']}/links")
    watched.page.reload()
    watched.until_text("main", "this link was taken back")


def test_a_guest_on_a_phone(guest: tuple[Watched, dict[str, str]]) -> None:
    watched, _ = guest
    page: Page = watched.page
    page.set_viewport_size({"width": 390, "height": 844})
    watched.until_whole()
    assert watched.ask("document.documentElement.scrollWidth") <= 390
