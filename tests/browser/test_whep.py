"""WHEP in a real browser: the page's own client module, and numbers read off the pixels it shows."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from delivery.webrtc_viewers import LOOPBACK, Filmed, only
from playwright.sync_api import BrowserContext, Page, Route
from server.running import TOKEN, Running, running

from st2v_stream.types import StreamSpec

pytestmark = pytest.mark.browser

FPS = 8
SPEC = StreamSpec(256, 192, fps=FPS, first_chunk_frames=16, chunk_frames=8)

CONNECT = """async ([path, token]) => {
  const { connect } = await import("/whep.js");
  const video = window.video = document.createElement("video");
  video.muted = true;
  document.body.append(video);
  window.shown = []; window.reasons = [];
  const context = new OffscreenCanvas(256, 192).getContext("2d", { willReadFrequently: true });
  const read = () => {
    context.drawImage(video, 0, 0, 256, 192);
    const row = context.getImageData(0, 14, 256, 1).data;
    let number = 0;
    for (let cell = 0; cell < 16; cell += 1) number = number * 2 + (row[4 * (16 * cell + 8)] > 127 ? 1 : 0);
    const [red, , blue] = context.getImageData(8, 100, 1, 1).data;
    window.shown.push([number, performance.now(), blue - red]);
    video.requestVideoFrameCallback(read);
  };
  video.requestVideoFrameCallback(read);
  const fetchWithAuth = (url, init) => fetch(url, { ...init, headers: { ...init.headers, Authorization: `Bearer ${token}` } });
  const began = performance.now();
  try {
    window.connection = await connect(video, new URL(path, location.href).href, fetchWithAuth, {
      onEnded: (reason) => window.reasons.push(reason),
    });
    window.connectedAt = performance.now();
    return { ms: window.connectedAt - began };
  } catch (error) {
    return { status: error.status, message: error.message, playlist: error.playlist };
  }
}"""


class Stage:
    """A server in a thread of its own, whose films grow when the test says so."""

    def __init__(self, server: Running, director: Filmed, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.director = director
        self._loop = loop

    def do(self, act: Callable[[], Any]) -> Any:
        """Act in the server's own loop."""

        async def in_loop() -> Any:
            return act()

        return asyncio.run_coroutine_threadsafe(in_loop(), self._loop).result(10)

    def open(self, page: Page, path: str) -> dict[str, Any]:
        """Connect a page by the page's own module."""
        page.goto(f"{self.server.url}/healthz")
        answer: dict[str, Any] = page.evaluate(CONNECT, [f"/v1/videos/{path}", TOKEN])
        return answer

    @property
    def viewers(self) -> int:
        return int(self.server.app.state.metrics.viewers)


@contextmanager
def on_stage(tmp_path: Path) -> Iterator[Stage]:
    ready: list[Stage] = []
    begun, over = threading.Event(), threading.Event()

    async def serve() -> None:
        director = Filmed()
        async with running(director, tmp_path, **LOOPBACK) as server:
            ready.append(Stage(server, director, asyncio.get_running_loop()))
            begun.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=_run, args=(serve,))
    thread.start()
    assert begun.wait(30)
    try:
        yield ready[0]
    finally:
        over.set()
        thread.join(30)


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with on_stage(tmp_path) as stage:
        yield stage


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    page = browser.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    yield page
    page.close()
    assert troubles == []


def numbers(page: Page) -> list[int]:
    return [number for number, *_ in page.evaluate("window.shown")]


def until(page: Page, comes_true: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not comes_true():
        assert time.monotonic() < deadline, f"shown: {numbers(page)}"
        page.wait_for_timeout(20)


def require_order(seen: list[int]) -> None:
    """Never a step back, and nothing left out but what a busy machine's compositor leaves out."""
    assert seen == sorted(seen)
    lost = seen[-1] - seen[0] + 1 - len(set(seen))
    print(f"{len(set(seen))} frames on the screen, {lost} left out, load {os.getloadavg()[0]:.1f}")
    assert lost <= len(set(seen)) / 4


def test_live_frames_reach_the_screen_in_order_and_the_last_one_is_held(stage: Stage, page: Page) -> None:
    video = stage.do(lambda: stage.director.add(spec=SPEC))
    answer = stage.open(page, f"{video}/whep")
    print(f"connected after {answer['ms']:.0f} ms, before there is a picture")
    stage.do(lambda: stage.director.segment(video, 0))
    until(page, lambda: 15 in numbers(page))
    page.wait_for_timeout(1000)  # the model thinks
    assert numbers(page)[-1] == 15, "the last picture is held, all of it"
    assert page.evaluate("window.connection.peer.connectionState") == "connected"
    for index in range(1, 4):
        stage.do(lambda index=index: stage.director.segment(video, index))
    until(page, lambda: 39 in numbers(page))
    require_order(numbers(page))
    page.evaluate("window.connection.close()")
    until(page, lambda: stage.viewers == 0)
    assert page.evaluate("window.reasons") == []


def test_a_late_joiner_has_a_picture_at_once_while_the_model_thinks(stage: Stage, page: Page, browser: BrowserContext) -> None:
    video = stage.do(lambda: stage.director.add(2, spec=SPEC))
    stage.open(page, f"{video}/whep")
    until(page, lambda: 23 in numbers(page))
    late = browser.new_page()
    answer = stage.open(late, f"{video}/whep")
    until(late, lambda: numbers(late)[-1:] == [23])
    picture_ms = late.evaluate("window.shown[0][1] - window.connectedAt")
    print(f"connected after {answer['ms']:.0f} ms, first picture {picture_ms:.0f} ms later")
    assert picture_ms < 1500, "not when the next chunk comes"
    assert stage.viewers == 2
    late.close()
    until(page, lambda: stage.viewers == 1)  # a closed page says goodbye by itself


def test_enhanced_plays_from_the_moment_asked_for(stage: Stage, page: Page) -> None:
    video = stage.do(lambda: stage.director.add(4, spec=SPEC))
    for index in (0, 1):
        stage.do(lambda index=index: stage.director.segment(video, index, rendition="enhanced"))
    stage.open(page, f"{video}/whep?rendition=enhanced&t={18.5 / FPS}")
    until(page, lambda: 23 in numbers(page))
    stage.do(lambda: stage.director.segment(video, 2, rendition="enhanced"))
    until(page, lambda: 31 in numbers(page))
    assert min(numbers(page)) >= 16
    assert min(blueness for *_, blueness in page.evaluate("window.shown")) > 40


def test_the_page_hears_that_the_film_has_ended(stage: Stage, page: Page) -> None:
    video = stage.do(lambda: stage.director.add(1, spec=SPEC))
    stage.open(page, f"{video}/whep")
    until(page, lambda: len(numbers(page)) > 2)
    stage.do(lambda: stage.director.state(video, state="completed", ended_by="length"))
    until(page, lambda: page.evaluate("window.reasons.length") == 1)
    assert 15 in numbers(page), "after its last frame"
    assert "ended" in page.evaluate("window.reasons[0]")
    refused = stage.open(page, f"{video}/whep")
    assert refused["status"] == 409
    assert refused["playlist"] == f"{stage.server.url}/v1/videos/{video}/index.m3u8"


def test_a_lost_picture_comes_back(stage: Stage, page: Page) -> None:
    """Half of the packets of two seconds never leave; whatever the browser asks for, the right pictures come back."""
    video = stage.do(lambda: stage.director.add(1, spec=SPEC))
    stage.open(page, f"{video}/whep")
    until(page, lambda: 3 in numbers(page))
    with pytest.MonkeyPatch.context() as patch:
        from aiortc.rtcdtlstransport import RTCDtlsTransport

        send, sent = RTCDtlsTransport._send_rtp, [0]

        async def lossy(self: Any, data: bytes) -> None:
            sent[0] += 1
            if sent[0] % 2:
                await send(self, data)

        patch.setattr(RTCDtlsTransport, "_send_rtp", lossy)
        for index in range(1, 4):
            stage.do(lambda index=index: stage.director.segment(video, index))
        page.wait_for_timeout(2000)
    stage.do(lambda: stage.director.segment(video, 4))
    until(page, lambda: numbers(page)[-1:] == [47])
    print(f"after losing half of {sent[0]} packets: {numbers(page)}")


READ_LIVE = """() => {
  const context = new OffscreenCanvas(256, 192).getContext("2d", { willReadFrequently: true });
  context.drawImage(document.getElementById("live-video"), 0, 0, 256, 192);
  const row = context.getImageData(0, 14, 256, 1).data;
  let number = 0;
  for (let cell = 0; cell < 16; cell += 1) number = number * 2 + (row[4 * (16 * cell + 8)] > 127 ? 1 : 0);
  return number;
}"""


def wait(page: Page, expression: str, expected: object = True, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while (said := page.evaluate(expression)) != expected:
        assert time.monotonic() < deadline, f"{expression}: expected {expected}, received {said}"
        page.wait_for_timeout(50)


def test_the_page_goes_on_with_the_film_without_h264_and_has_low_latency_with_it(stage: Stage, page: Page) -> None:
    video = stage.do(lambda: stage.director.add(4, spec=SPEC, num_frames=None))
    page.goto(f"{stage.server.url}/#token={TOKEN}&/video/{video}")
    wait(page, "document.getElementById('low-latency').hidden", False)

    def without_h264(route: Route) -> None:
        """As a browser asks that decodes no H.264 by WebRTC; the answer is the server's own."""
        offer = route.request.post_data
        route.continue_(post_data=only(offer, "VP8") if offer else None)

    page.route("**/whep", without_h264)
    page.click("#low-latency")
    wait(page, "document.getElementById('toast').hidden", False)
    words = page.inner_text("#toast")
    assert "Low latency is not to be had" in words
    assert "VP8" in words, "what the server said to the offer (415)"
    assert page.evaluate("document.getElementById('live-video').hidden")
    played = page.evaluate("document.getElementById('video').currentTime")
    stage.do(lambda: stage.director.segment(video, 4))
    wait(page, f"document.getElementById('video').currentTime > {played} + 0.3")
    page.unroute("**/whep")
    page.click("#low-latency")
    wait(page, "document.body.dataset.live", "webrtc")
    stage.do(lambda: stage.director.segment(video, 5))
    wait(page, READ_LIVE, 55)
    assert page.evaluate("document.getElementById('video').paused"), "one picture, one decoder"
    page.click("#low-latency")
    wait(page, "document.getElementById('live-video').hidden")
    wait(page, "document.getElementById('video').paused", False)
