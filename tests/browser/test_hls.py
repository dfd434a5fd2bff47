"""hls.js in a real browser: which frames it shows of a film that is whole, that grows, that is cut back, and offline."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from delivery.numbered import link, served_by_hand
from playwright.sync_api import BrowserContext, Page

from tests.browser.served import Served
from tests.browser.watched import READ_LATE, Watched

pytestmark = pytest.mark.browser

HLS_JS = Path(__file__).parents[1] / "web" / "node_modules" / "hls.js" / "dist" / "hls.min.js"
FPS = 8

PAGE = """<!doctype html><title>hls.js</title><main><video id="video" muted></video></main><script src="/hls.js"></script>
<script>
  window.problems = [];
  window.play = (url, options) => {
    window.hls = new Hls(options);
    hls.on(Hls.Events.LEVEL_LOADED, (_, { details }) => window.parts?.push(details.skippedSegments));
    hls.on(Hls.Events.ERROR, (_, { type, details, fatal }) => {
      problems.push(`${type} ${details} ${fatal}`);
      if (fatal && type === Hls.ErrorTypes.NETWORK_ERROR) setTimeout(() => hls.startLoad(), 500);
    });
    hls.loadSource(url);
    hls.attachMedia(document.getElementById("video"));
  };
</script>"""

OpenPlayer = Callable[..., Watched]


@pytest.fixture
def open_player(browser: BrowserContext, served: Served) -> Iterator[OpenPlayer]:
    """A page with nothing but hls.js, of the same origin as the film."""
    if not HLS_JS.is_file():
        pytest.skip("hls.js is not installed: npm install in tests/web")
    pages: list[Page] = []

    def open_one(url: str, *, start: float = 0.0) -> Watched:
        page = browser.new_page()
        pages.append(page)
        page.route("**/hls.js", lambda route: route.fulfill(path=HLS_JS, content_type="text/javascript"))
        page.route("**/player.html", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
        watched = Watched(page, served)
        page.goto(url.partition("/g/")[0] + "/player.html")
        watched.ask(f"play({url!r}, {{ startPosition: {start} }})")
        return watched

    yield open_one
    for page in pages:
        page.close()


def share(served: Served, video_id: str) -> str:
    """The address of the film's playlist, for somebody without the token."""
    made = served.call("POST", f"v1/videos/{video_id}/links", {})
    return str(served.url.rstrip("/") + made["playlist_url"])


def play(watched: Watched) -> None:
    watched.until("document.getElementById('video').readyState >= 2")
    watched.record()
    watched.ask("document.getElementById('video').play()")


def wait_for_frame(watched: Watched, number: int, timeout_s: float = 20.0) -> None:
    watched.until(f"window.shown.length && window.shown.at(-1)[0] >= {number}", timeout_s)


def require_each_at_its_time(watched: Watched) -> None:
    """In order, each at its own time, and nothing buffered with a hole.

    A busy machine reads the picture a frame or two from what it was told of, and leaves some out; seeks are exact.
    """
    shown = watched.shown
    assert [entry for entry in shown if not 0 <= entry.number - round(entry.media_s * FPS) <= READ_LATE] == []
    numbers = [entry.number for entry in shown]
    assert numbers == sorted(numbers)
    print(f"{len(set(numbers))} of {numbers[-1] - numbers[0] + 1} frames seen")
    assert watched.ask("document.getElementById('video').buffered.length") == 1


def require_seeks(watched: Watched, frames: list[int]) -> None:
    watched.ask("document.getElementById('video').pause()")
    for frame in frames:
        watched.ask(f"document.getElementById('video').currentTime = {(frame + 0.5) / FPS}")
        watched.until_picture(frame)


def test_every_frame_of_a_whole_film_is_found(open_player: OpenPlayer, served: Served, whole_film: str) -> None:
    watched = open_player(share(served, whole_film))
    watched.until("document.getElementById('video').readyState >= 2")
    assert watched.ask("[hls.levels.length, hls.levels[0].details.type, hls.levels[0].details.live]") == [1, "VOD", False]
    assert watched.ask("document.getElementById('video').duration") == pytest.approx(20, abs=0.01)
    require_seeks(watched, [0, 156, 100, 4])  # the middles of chunks that are fetched for it
    watched.ask("hls.config.maxBufferLength = 60")
    # then all of it is there: while a chunk is missing, Chromium answers a seek to just before the next with that one
    watched.until(
        "document.getElementById('video').buffered.length === 1 && document.getElementById('video').buffered.end(0) > 19.9"
    )
    require_seeks(watched, [159, 0, 15, 16, 23, 24, 80, 79, 81, 7, 152, 151])
    assert watched.ask("problems.filter((said) => said.includes('true'))") == []


def test_chromium_plays_the_playlist_by_itself(open_player: OpenPlayer, served: Served, whole_film: str) -> None:
    """As Safari does, without a script; where this Chromium was built without HLS there is nothing to see."""
    url = share(served, whole_film)
    watched = open_player(url)
    if not watched.ask("document.createElement('video').canPlayType('application/vnd.apple.mpegurl')"):
        pytest.skip("this Chromium plays no HLS by itself")
    watched.ask(f"(() => {{ hls.destroy(); document.getElementById('video').src = {url!r} }})()")
    watched.until("document.getElementById('video').readyState >= 2")
    assert watched.ask("document.getElementById('video').duration") == pytest.approx(20, abs=0.01)
    require_seeks(watched, [0, 100, 44, 156])


def test_a_growing_film_is_followed_without_a_gap_and_ends(open_player: OpenPlayer, served: Served) -> None:
    video = served.call("POST", "v1/videos", {"prompt": "a film that grows", "model": "testcard", "num_frames": 72})["id"]
    watched = open_player(share(served, video))  # long before the first chunk: the playlist is waited for
    play(watched)
    wait_for_frame(watched, 24)
    assert watched.ask("[hls.levels[0].details.type, hls.levels[0].details.live]") == ["EVENT", True]
    assert served.call("GET", f"v1/videos/{video}")["state"] == "running"
    wait_for_frame(watched, 71, 30)
    watched.until("document.getElementById('video').ended")
    assert watched.ask("hls.levels[0].details.live") is False
    require_each_at_its_time(watched)
    require_seeks(watched, [71, 0, 63, 64, 55, 56])
    assert watched.ask("problems.filter((said) => said.includes('true'))") == []


def test_three_seconds_without_a_network_leave_no_gap(open_player: OpenPlayer, served: Served, browser: BrowserContext) -> None:
    video = served.call("POST", "v1/videos", {"prompt": "a film that survives", "model": "testcard", "num_frames": None})["id"]
    watched = open_player(share(served, video))
    play(watched)
    wait_for_frame(watched, 16)
    browser.set_offline(True)
    try:
        watched.page.wait_for_timeout(3000)
        seen = watched.shown[-1].number
    finally:
        browser.set_offline(False)
    assert watched.ask("problems.some((said) => said.startsWith('networkError'))"), "it was cut off"
    wait_for_frame(watched, seen + 24, 30)
    served.call("POST", f"v1/videos/{video}/stop", {})
    require_each_at_its_time(watched)
    require_seeks(watched, [seen + 1, seen, seen - 1, seen + 8, 0])


def test_a_film_that_is_cut_back_goes_on_with_what_is_made_anew(open_player: OpenPlayer, tmp_path: Path) -> None:
    with served_by_hand(tmp_path) as (director, port, do):
        video = director.add(4)
        watched = open_player(link(port, video))
        play(watched)
        wait_for_frame(watched, 24)
        do(lambda: director.reset(video, 4))
        for index in range(4, 8):
            do(lambda index=index: director.segment(video, index, revision=1))  # type: ignore[misc]
        do(lambda: director.state(video, state="completed", ended_by="length"))
        wait_for_frame(watched, 1071, 30)
        numbers = [entry.number for entry in watched.shown]
        assert numbers == sorted(numbers)
        assert {number for number in numbers if number >= 40} <= set(range(1040, 1072))
        for entry in watched.shown:
            assert (
                0 <= entry.number % 1000 - round(entry.media_s * FPS) <= READ_LATE
            )  # which frame is where: see the seeks of others
        assert watched.ask("hls.levels[0].details.fragments.map(({ cc }) => cc)") == [0, 0, 0, 0, 1, 1, 1, 1]
        assert watched.ask("problems.filter((said) => said.includes('true'))") == []


def test_delta_updates_make_the_very_list_that_there_is(
    open_player: OpenPlayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A growing film is told in parts; a cut moves the playlist, and the parts go on there. The pixels are the right ones."""
    monkeypatch.setattr("st2v_stream.media.playlist.SKIP_TARGETS", 3)  # 6 s, so that the test need not last
    with served_by_hand(tmp_path) as (director, port, do):
        video = director.add(10)
        watched = open_player(link(port, video))
        watched.until("document.getElementById('video').readyState >= 2")
        watched.ask("hls.config.maxMaxBufferLength = 5")  # what is fetched before the cut stays
        for index, revision in [(10, 0), (20, 1)]:  # grown on from there, the second time after a cut
            watched.ask("(() => { window.parts = []; })()")
            while watched.ask("parts.filter((skipped) => skipped > 0).length") < 2:
                assert index < 80, "no delta update came"
                do(lambda index=index, revision=revision: director.segment(video, index, revision=revision))  # type: ignore[misc]
                index += 1
                watched.page.wait_for_timeout(500)
            watched.until(f"hls.levels[0].details.fragments.length === {index}")
            if revision == 0:
                assert watched.ask("problems") == []
                do(lambda: director.reset(video, 20))
        do(lambda: director.state(video, state="completed", ended_by="length"))
        watched.until("!hls.levels[0].details.live")
        listed = watched.ask("hls.levels[0].details.fragments.map(({ relurl }) => relurl)")
        with urllib.request.urlopen(link(port, video, "preview.m3u8")) as whole:
            assert listed == re.findall(r"^segments/.*", whole.read().decode(), flags=re.MULTILINE)
        require_seeks(watched, [4, 60, 167, 0])
        seek_until(watched, 172, 1172)
        # HLS has no way to take back what was listed: hls.js is told to go on, as docs/watching.md says, and reads it anew
        fatal = set(watched.ask("problems.filter((said) => said.includes('true'))"))
        assert fatal <= {"networkError levelParsingError true"}


def seek_until(watched: Watched, frame: int, number: int) -> None:
    """Seek there, again and again, until the picture with this number is shown."""
    for _ in range(20):
        watched.ask(f"document.getElementById('video').currentTime = {(frame + 0.5) / FPS}")
        watched.page.wait_for_timeout(250)
        if watched.picture == number:
            return
    raise AssertionError(f"expected {number} on screen, received {watched.picture}")


def test_renditions_are_changed_without_losing_the_place(open_player: OpenPlayer, tmp_path: Path) -> None:
    with served_by_hand(tmp_path) as (director, port, do):
        video = director.add(6)
        for index in range(6):
            do(lambda index=index: director.segment(video, index, rendition="enhanced", revision=1))  # type: ignore[misc]
        do(lambda: director.state(video, state="completed", ended_by="length"))
        watched = open_player(link(port, video))
        watched.until("document.getElementById('video').readyState >= 2")
        names = watched.ask("hls.levels.map(({ uri }) => uri.split('/').at(-1).split('.')[0])")
        assert sorted(names) == ["enhanced", "preview"]
        for name, first in (("preview", 0), ("enhanced", 1000), ("preview", 0)):
            # throws away what is buffered and fetches this one; a paused picture stays until the next seek
            watched.ask(f"hls.currentLevel = {names.index(name)}")
            watched.until(f"hls.currentLevel === {names.index(name)}")
            for frame in (20, 44):
                seek_until(watched, frame, first + frame)
        assert watched.ask("problems.filter((said) => said.includes('true'))") == []
