"""examples/gradio_app.py in a real browser: the film plays while it grows, stops, and is made sharp."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
LOOK = """label => {
  const player = [...document.querySelectorAll("video")].find((video) => video.closest(".block").innerText.includes(label));
  if (!player || player.readyState < 2) return null;
  const canvas = Object.assign(document.createElement("canvas"), { width: 32, height: 32 });
  const context = canvas.getContext("2d");
  context.drawImage(player, 0, 0, 32, 32);
  const pixels = [...context.getImageData(0, 0, 32, 32).data];
  return { time: player.currentTime, end: player.buffered.end(player.buffered.length - 1), width: player.videoWidth, pixels };
}"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    if find_spec("gradio") is None:
        pytest.skip("gradio is not installed (pip install st2v_stream[examples])")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "examples/gradio_app.py"]
    with (tmp_path / "log").open("wb") as log:
        program = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while b"Running on" not in (tmp_path / "log").read_bytes():
            assert program.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, "gradio did not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        program.terminate()
        program.wait()


def until(page: Page, label: str, seconds: float) -> dict[str, Any]:
    """What the player with this label shows once it has played so far."""
    deadline, seen = time.monotonic() + 120, None
    while time.monotonic() < deadline:
        seen = page.evaluate(LOOK, label)
        if seen is not None and seen["time"] >= seconds:
            return dict(seen)
        page.wait_for_timeout(100)
    raise AssertionError(f"{label} did not come to {seconds} s: {seen}")


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    return sum(abs(a - b) for a, b in zip(one["pixels"], other["pixels"])) / len(one["pixels"])


def test_a_film_plays_while_it_grows_and_is_made_sharp(browser: BrowserContext, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    page.get_by_role("spinbutton", name="Seconds").fill("100")
    page.get_by_role("spinbutton", name="Seconds").press("Tab")
    page.get_by_role("button", name="Long video preview").click()
    early = until(page, "Preview", 0.2)
    later = until(page, "Preview", 3.0)
    assert later["end"] < 100, "it plays while it is made"
    assert later["end"] > early["end"], "it grows"
    assert difference(early, later) > 1
    with page.expect_response(lambda answer: answer.url.endswith("/cancel")):  # it would stop what is begun before, too
        page.get_by_role("button", name="Stop").click()
    made = until(page, "Preview", 3.0)["end"]
    page.get_by_role("button", name="Enhance").click()
    sharp = until(page, "Enhanced", 1.0)
    assert sharp["width"] == 256
    until(page, "Enhanced", made + 1.0)  # what was stopped is gone on with: all that was asked for becomes sharp
    page.close()
