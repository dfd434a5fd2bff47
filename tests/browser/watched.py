"""A page under test: what it shows, which frames its film shows, and everything that went wrong in it."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from re import Pattern
from typing import Any

import numpy as np
from playwright.sync_api import ConsoleMessage, Error, Page, Request

from st2v_stream.generators.testcard import read_frame_number
from tests.browser.served import TOKEN, Served

READ_LATE = 4
"""Frames that the picture may be ahead of the time its callback was told: a busy machine reads it late, none reads it early."""

_WATCH_FOR_VIOLATIONS = """
addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => {
  console.error(`violation: ${violatedDirective} ${blockedURI}`);
});
"""

_RECORD = """() => {
  const video = document.getElementById("video");
  const context = new OffscreenCanvas(256, 192).getContext("2d", { willReadFrequently: true });
  window.shown = []; window.waits = 0; window.lastShown = performance.now();
  video.addEventListener("waiting", () => { if (!video.seeking && video.currentTime > 0) window.waits += 1; });
  const read = (now, { mediaTime }) => {
    context.drawImage(video, 0, 0, 256, 192);
    const row = context.getImageData(0, 14, 256, 1).data;
    let number = 0;
    for (let cell = 0; cell < 16; cell += 1) number = number * 2 + (row[4 * (16 * cell + 8)] > 127 ? 1 : 0);
    window.shown.push([number, mediaTime, performance.now()]);
    video.requestVideoFrameCallback(read);
  };
  video.requestVideoFrameCallback(read);
}"""

_TOP_OF_PICTURE = """() => {
  const context = new OffscreenCanvas(256, 192).getContext("2d", { willReadFrequently: true });
  context.drawImage(document.getElementById("video"), 0, 0, 256, 192);
  return btoa(String.fromCharCode(...context.getImageData(0, 0, 256, 24).data));
}"""
"""As base64: a long list of numbers would hold the page up long enough to lose a frame."""


_PLAYBACK = """() => {
  const { currentTime, paused, seeking, readyState, playbackRate, buffered } = document.getElementById("video");
  const ranges = Array.from({ length: buffered.length }, (_, i) => [buffered.start(i), buffered.end(i)]);
  const notices = document.getElementById("notices")?.innerText;
  const active = document.activeElement?.id;
  return JSON.stringify({ currentTime, paused, seeking, readyState, playbackRate, ranges, notices, active });
}"""
"""For the words of a test that has failed on a machine where nobody can look."""


@dataclass(frozen=True)
class Shown:
    """A frame that reached the screen: its number, its time in the film, and when (ms, the page's clock)."""

    number: int
    media_s: float
    at_ms: float


class Watched:
    """Wraps a playwright page."""

    def __init__(self, page: Page, served: Served) -> None:
        self.page = page
        self.served = served
        self.allowed_errors: Pattern[str] | None = None
        self._troubles: list[str] = []
        page.add_init_script(_WATCH_FOR_VIOLATIONS)
        page.on("console", self._on_console)
        page.on("pageerror", self._on_error)
        page.on("request", self._on_request)

    def open(self, fragment: str = "") -> None:
        """Load the page by the link with the token; fragment: `/video/<id>` of a film."""
        self.page.goto(f"{self.served.url}#token={TOKEN}" + (f"&{fragment}" if fragment else ""))
        self.until("document.body.dataset.view !== 'loading'")

    @property
    def troubles(self) -> list[str]:
        return [trouble for trouble in self._troubles if not (self.allowed_errors and self.allowed_errors.search(trouble))]

    # ------------------------------------------------------------ asking

    def ask(self, expression: str) -> Any:
        """Evaluate through the debugger: the page's own CSP forbids eval, and so wait_for_function."""
        return self.page.evaluate(expression)

    def until(self, expression: str, timeout_s: float = 20.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (value := self.ask(expression)):
            assert time.monotonic() < deadline, f"{expression} did not come true; the page says: {self.text('main')!r}"
            self.page.wait_for_timeout(20)
        return value

    def text(self, selector: str) -> str:
        return " ".join(self.page.inner_text(selector).split())

    def until_text(self, selector: str, words: str, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while words not in self.text(selector):
            assert time.monotonic() < deadline, f"{selector} says {self.text(selector)!r}, expected {words!r}"
            self.page.wait_for_timeout(20)

    @property
    def video_id(self) -> str:
        return str(self.page.url.rpartition("/video/")[2])

    @property
    def video(self) -> Any:
        """The film, as the server describes it."""
        return self.served.call("GET", f"v1/videos/{self.video_id}")

    @property
    def frames(self) -> int:
        """Frames the page can show, as it tells a screen reader."""
        return int(self.page.get_attribute("#strip", "aria-valuemax") or 0) + 1

    # ------------------------------------------------------------ making

    def until_whole(self, frames: int = 160) -> None:
        """All of the film is here, and its first picture is on the screen."""
        self.until(f"document.getElementById('strip').ariaValueMax === '{frames - 1}'")
        self.until("document.getElementById('video').readyState >= 2")

    def make(self, prompt: str, *, seconds: str = "20", model: str = "testcard") -> None:
        """By clicking, as a person does."""
        self.page.fill("#prompt", prompt)
        self.page.select_option("#model-choice", model)
        self.page.check(f"#lengths input[value='{seconds}']", force=True)
        self.page.click("#make-button")

    # ------------------------------------------------------------ seeing

    def record(self) -> None:
        """From now on note the number of every frame that reaches the screen."""
        self.ask(_RECORD)

    @property
    def shown(self) -> list[Shown]:
        return [Shown(*entry) for entry in self.ask("window.shown")]

    @property
    def picture(self) -> int:
        """The number on the screen now, read by the generator's own reader."""
        frame = np.zeros((192, 256, 3), np.uint8)
        frame[:24] = np.frombuffer(base64.b64decode(self.ask(_TOP_OF_PICTURE)), np.uint8).reshape(24, 256, 4)[:, :, :3]
        return read_frame_number(frame)

    def until_picture(self, number: int, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while (seen := self.picture) != number:
            assert time.monotonic() < deadline, f"expected frame {number} on screen, received {seen}; {self.ask(_PLAYBACK)}"
            self.page.wait_for_timeout(20)

    # ------------------------------------------------------------ what went wrong

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._troubles.append(f"{message.type}: {message.text}")

    def _on_error(self, error: Error) -> None:
        self._troubles.append(f"uncaught: {error}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self.served.url, "blob:" + self.served.url)):
            self._troubles.append(f"a request to somewhere else: {request.url}")
