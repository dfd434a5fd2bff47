"""From a decoded chunk to pixels on the page: how late is live? (Latency claims of docs/results.md.)

Starts the real server on loopback with a numbered test card that is handed over once per chunk length, in time with playback,
and writes down the wall-clock moment at which each chunk's frames left the generator: encoding, the disk and the log come after
it. A real headless Chromium opens the page; the number of every frame is read off its pixels when the browser presents it. A
chunk's latency is the moment its first frame was seen minus the moment it was decoded (where that frame was left out: the next
one seen, less its place in the chunk). Two rows: the page as it opens, over the WebSocket and Media Source Extensions, where
the player keeps about 1.5 chunks of film in hand on purpose; and its low-latency mode, over WebRTC (WHEP). For the first also
how soon a chunk is in the browser's buffer. Both are given some chunks to settle.

    python bench/latency.py [--chunks 40] [--load]

Needs a Chromium (ST2V_BROWSER, or the first one found) and playwright. --load: a second page plays the film beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from fanout import free_port, until_ready
from live import control_ticker
from playwright.sync_api import Page, sync_playwright

TOKEN = "a-token-for-the-latency-bench"
FPS, FIRST, FURTHER = 8, 16, 8
CHUNK_S = FURTHER / FPS
SETTLES_CHUNKS = 12

CONTEXT = multiprocessing.get_context("spawn")


# ---------------------------------------------------------------- the server's process


def serve(port: int, folder: str) -> None:
    """A film that grows exactly as fast as it plays; FOLDER/decoded has the moment of each chunk."""
    from st2v_stream.config import Config
    from st2v_stream.generators.testcard import TestCard
    from st2v_stream.server.app import serve
    from st2v_stream.types import ModelEntry

    class Paced(TestCard):
        """Hands its chunks over on the beat."""

        due_s = 0.0

        def _pretend_to_denoise(self, *args: Any) -> None:
            super()._pretend_to_denoise(*args)
            now = time.monotonic()
            if now - self.due_s > CHUNK_S:  # the beginning, or held up: no race afterwards
                self.due_s = now
            time.sleep(max(0.0, self.due_s - now))
            self.due_s += CHUNK_S

        def _chunk(self, index: int, *args: Any, **kwargs: Any) -> Any:
            made = super()._chunk(index, *args, **kwargs)
            with (Path(folder) / "decoded").open("a") as moments:
                moments.write(f"{index} {time.time()}\n")
            return made

    maker = Paced(steps=2, fps=FPS, first_chunk_frames=FIRST, chunk_frames=FURTHER)
    config = Config(
        port=port, data_dir=Path(folder) / "data", model="testcard", token=TOKEN,
        ice_addresses=("127.0.0.1",), ice_networks=("127.0.0.0/8",),
    )  # fmt: skip
    asyncio.run(serve(config, {"testcard": ModelEntry(maker.card, lambda: maker)}))


# ---------------------------------------------------------------- the page

RECORD = """(id) => {
  const video = document.getElementById(id);
  const context = new OffscreenCanvas(256, 192).getContext("2d", { willReadFrequently: true });
  const shown = (window.shown = []), stopped = (window.stopped = { is: false });
  const read = () => {
    context.drawImage(video, 0, 0, 256, 192);
    const row = context.getImageData(0, 14, 256, 1).data;
    let number = 0;
    for (let cell = 0; cell < 16; cell += 1) number = number * 2 + (row[4 * (16 * cell + 8)] > 127 ? 1 : 0);
    shown.push([number, Date.now()]);
    if (!stopped.is) video.requestVideoFrameCallback(read);
  };
  video.requestVideoFrameCallback(read);
}"""
"""Date.now() and Python's time.time() are the same clock on one machine, to the millisecond."""

RECORD_BUFFER = """() => {
  const ends = (window.ends = []);
  window.lookingAtBuffer = setInterval(() => {
    const { buffered } = document.getElementById("video");
    const end = buffered.length ? buffered.end(buffered.length - 1) : 0;
    if (end > (ends.at(-1)?.[0] ?? 0)) ends.push([end, Date.now()]);
  }, 5);
}"""


class Watching:
    """One page that plays the film."""

    def __init__(self, page: Page, url: str, video_id: str, decoded: Path) -> None:
        self._page = page
        self._decoded = decoded
        page.goto(f"{url}#token={TOKEN}&/video/{video_id}")

    def measure(self, element: str, chunks: int) -> list[float]:
        """Seconds from decoded to seen, for so many chunks from now on."""
        self._page.evaluate("() => { if (window.stopped) window.stopped.is = true; }")
        self._page.evaluate(RECORD, element)
        began = len(self.decoded())
        while len(self.decoded()) < began + chunks + 2:
            self._page.wait_for_timeout(200)
        self._page.wait_for_timeout(3000 * CHUNK_S)  # what was decoded last is seen, too
        decoded, seen = self.decoded(), dict[int, float]()
        for number, at_ms in self._page.evaluate("window.shown"):
            index = 0 if number < FIRST else 1 + (number - FIRST) // FURTHER
            place = number if index == 0 else (number - FIRST) % FURTHER
            seen.setdefault(index, at_ms / 1000 - place / FPS)
        return [seen[index] - decoded[index] for index in range(began, began + chunks) if index in seen]

    def measure_buffer(self, chunks: int) -> list[float]:
        """Seconds from decoded to buffered, for the chunks since recording began."""
        decoded, buffered = self.decoded(), dict[int, float]()
        for end_s, at_ms in self._page.evaluate("window.ends"):
            index = (round(end_s * FPS) - FIRST) // FURTHER
            buffered.setdefault(index, at_ms / 1000)
        self._page.evaluate("clearInterval(window.lookingAtBuffer)")
        return [buffered[index] - decoded[index] for index in buffered if index in decoded and index > 0][-chunks:]

    def record_buffer(self) -> None:
        self._page.evaluate(RECORD_BUFFER)

    def settle(self) -> None:
        """Let the player find its distance to the live edge."""
        until = len(self.decoded()) + SETTLES_CHUNKS
        while len(self.decoded()) < until:
            self._page.wait_for_timeout(200)

    def go_low_latency(self) -> None:
        """Press the button, and wait until a picture came that way."""
        self._page.click("#low-latency")
        deadline = time.monotonic() + 30
        while not self._page.evaluate("document.getElementById('live-video').currentTime > 0"):
            if time.monotonic() > deadline:
                raise RuntimeError("no picture by WebRTC")
            self._page.wait_for_timeout(100)

    def decoded(self) -> dict[int, float]:
        """When each chunk left the generator."""
        lines = self._decoded.read_text().splitlines() if self._decoded.exists() else []
        return {int(index): float(at_s) for index, at_s in (line.split() for line in lines)}


# ---------------------------------------------------------------- measuring


def row(name: str, seconds: list[float], asked: int) -> dict[str, Any]:
    values = sorted(seconds)
    if not values:  # a machine so busy that nothing was shown in time
        return {"way": name, "chunks": asked, "measured": 0, "median_ms": None, "p95_ms": None, "longest_ms": None}
    return {
        "way": name,
        "chunks": asked,
        "measured": len(values),
        "median_ms": 1000 * statistics.median(values),
        "p95_ms": 1000 * values[int(0.95 * (len(values) - 1))],
        "longest_ms": 1000 * values[-1],
    }


def run(args: argparse.Namespace) -> tuple[list[dict[str, Any]], float]:
    stop, results = CONTEXT.Event(), CONTEXT.Queue()
    control = CONTEXT.Process(target=control_ticker, args=(stop, results))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        port = free_port()
        url = f"http://127.0.0.1:{port}/"
        server = CONTEXT.Process(target=serve, args=(port, folder))
        server.start()
        try:
            client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
            until_ready(client, server)
            control.start()
            rows = browse(args, playwright, client, url, Path(folder) / "decoded")
            stop.set()
            late = sorted(results.get(timeout=10))
            client.close()
        finally:
            stop.set()
            server.terminate()
            server.join(20)
    return rows, 1000 * late[int(0.99 * (len(late) - 1))]


def browse(args: argparse.Namespace, playwright: Any, client: httpx.Client, url: str, decoded: Path) -> list[dict[str, Any]]:
    program = os.environ.get("ST2V_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    flags = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
    browser = playwright.chromium.launch(executable_path=program, args=flags)
    made = client.post("/v1/videos", json={"prompt": "a film to be early for", "num_frames": None, "model": "testcard"})
    video_id = made.raise_for_status().json()["id"]
    try:
        watching = Watching(browser.new_page(), url, video_id, decoded)
        if args.load:
            Watching(browser.new_page(), url, video_id, decoded)
        watching.settle()
        watching.record_buffer()
        seen = watching.measure("video", args.chunks)
        rows = [
            row("websocket: in the buffer", watching.measure_buffer(args.chunks), args.chunks),
            row("websocket: on the page", seen, args.chunks),
        ]
        watching.go_low_latency()
        watching.settle()
        return [*rows, row("webrtc: on the page", watching.measure("live-video", args.chunks), args.chunks)]
    finally:
        client.post(f"/v1/videos/{video_id}/stop")
        browser.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--load", action="store_true", help="a second page plays the same film beside it")
    args = parser.parse_args()
    rows, control_ms = run(args)
    print(f"{'decoded chunk to':26}{'chunks':>8}{'median':>10}{'p95':>10}{'longest':>10}   ms")
    for line in rows:
        counted = f"{line['measured']}/{line['chunks']}"
        cells = [line[name] for name in ("median_ms", "p95_ms", "longest_ms")]
        print(f"{line['way']:26}{counted:>8}" + "".join(f"{'-' if cell is None else round(cell):>10}" for cell in cells))
    print(f"control ticker late, p99: {control_ms:.1f} ms")
    print(json.dumps({"bench": "latency", "rows": rows, "control_late_p99_ms": control_ms}))
    return int(any(line["measured"] < line["chunks"] for line in rows))


if __name__ == "__main__":
    sys.exit(main())
