"""Does the built-in model keep up with playback through the whole server? (Speed claims of docs/results.md.)

Starts the real server on a free port, makes one film with preset live, follows it over the WebSocket and measures: start
to first answer, start to model ready, click to first segment, delivered frames per second against the film's, and how late
the server's event loop wakes up, beside a control ticker in a process that does nothing else. With
--browser a headless Chromium plays the film meanwhile on the same machine, and its stalls and dropped frames are counted.

    python bench/live.py [--frames 480] [--model storybook] [--preset live] [--browser]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import shutil
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect

HEADER = struct.Struct(">BBBBIIII")
TICK_S = 0.05


def control_ticker(stop: object, results: object) -> None:
    """Lateness of a 50 ms sleep in a process of its own: what the machine itself adds."""
    late = []
    while not stop.is_set():  # type: ignore[attr-defined]
        due = time.perf_counter() + TICK_S
        time.sleep(TICK_S)
        late.append(max(0.0, time.perf_counter() - due))
    results.put(late)  # type: ignore[attr-defined]


async def start_server(data_dir: Path, model: str) -> tuple[asyncio.subprocess.Process, str, float]:
    command = [sys.executable, "-m", "st2v_stream", "serve", "--port", "0", "--data-dir", str(data_dir), "--model", model]
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=os.environ)
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode():
        if found := re.search(r"(http://\S+)", line):
            return process, found.group(1), began
    raise RuntimeError("the server ended before it was ready")


async def until_ready(client: httpx.AsyncClient, began: float) -> tuple[float, float]:
    """Seconds from start to the first answered page, and to a loaded model."""
    (await client.get("/")).raise_for_status()
    answered = time.perf_counter() - began
    while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return answered, time.perf_counter() - began


async def watch(base: str, token: str, video_id: str, clicked: float) -> list[tuple[float, int]]:
    """(seconds since the click, index) of every segment as it arrives."""
    arrivals: list[tuple[float, int]] = []
    url = base.replace("http", "ws") + f"/v1/videos/{video_id}/watch"
    async with connect(url, subprotocols=["st2v.v1", f"bearer.{token}"], max_size=None) as socket:
        await socket.send(json.dumps({"type": "hello", "cursor": 0, "renditions": ["preview"]}))
        async for message in socket:
            if isinstance(message, str):
                if json.loads(message)["type"] == "ended":
                    return arrivals
                continue
            _, kind, _, _, index, _, _, seq = HEADER.unpack(message[: HEADER.size])
            if kind == 2:
                arrivals.append((time.perf_counter() - clicked, index))
                await socket.send(json.dumps({"type": "ack", "seq": seq}))
    raise RuntimeError("the socket closed before the film ended")


@asynccontextmanager
async def one_browser(link: str, video_id: str, *, wanted: bool) -> AsyncIterator[Any]:
    """A page of headless Chromium that plays the film from its start, or None."""
    if not wanted:
        yield None
        return
    from playwright.async_api import async_playwright

    program = os.environ.get("ST2V_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    async with async_playwright() as playwright:
        flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = await playwright.chromium.launch(executable_path=program, args=flags)
        page = await browser.new_page()
        await page.goto(f"{link}&/video/{video_id}")
        await page.evaluate(COUNT_WAITS)
        yield page
        await browser.close()


COUNT_WAITS = """() => {
  window.waits = 0;
  const video = document.getElementById("video");
  video.addEventListener("waiting", () => { if (!video.seeking && video.currentTime > 0.5) window.waits += 1; });
}"""
READ_PLAYBACK = """() => {
  const video = document.getElementById("video"), quality = video.getVideoPlaybackQuality();
  const { totalVideoFrames: shown, droppedVideoFrames: dropped } = quality;
  return { played_s: video.currentTime, stalls: window.waits, shown, dropped };
}"""


def lateness_counts(metrics: str) -> dict[float, int]:
    """Upper edge in seconds -> wake-ups at most so late, since the start."""
    found = re.findall(r'event_loop_lateness_seconds_bucket\{le="([^"]+)"\} (\d+)', metrics)
    return {float(edge): int(count) for edge, count in found}


def p99_between(before: dict[float, int], after: dict[float, int]) -> float:
    """Upper edge of the 1 ms bucket that holds the 99th percentile of the wake-ups between two readings."""
    counts = {edge: after[edge] - before[edge] for edge in after}
    total = counts[float("inf")]
    return next(edge for edge, count in counts.items() if count >= 0.99 * total)


async def run(args: argparse.Namespace) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    stop, results = context.Event(), context.Queue()
    control = context.Process(target=control_ticker, args=(stop, results))
    with tempfile.TemporaryDirectory() as folder:
        server, link, began = await start_server(Path(folder) / "data", args.model)
        base, token = link.split("/#token=")
        try:
            async with httpx.AsyncClient(base_url=base, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
                answered, ready = await until_ready(client, began)
                control.start()
                prompt = {"prompt": args.prompt, "num_frames": args.frames, "preset": args.preset, "seed": 7}
                before = lateness_counts((await client.get("/metrics")).text)
                clicked = time.perf_counter()
                video = (await client.post("/v1/videos", json=prompt)).raise_for_status().json()
                async with one_browser(link, video["id"], wanted=args.browser) as page:
                    arrivals = await watch(base, token, video["id"], clicked)
                    playback = await page.evaluate(READ_PLAYBACK) if page else {}
                after = lateness_counts((await client.get("/metrics")).text)
                stop.set()
                late = results.get()
        finally:
            server.terminate()
            await server.wait()
    first, last = arrivals[0][0], arrivals[-1][0]
    frames = (len(arrivals) - 1) * video["chunk_frames"]
    gaps = [b[0] - a[0] for a, b in zip(arrivals, arrivals[1:], strict=False)]
    return {
        "page_s": answered,
        "model_ready_s": ready,
        "first_segment_s": first,
        "frames_per_second": frames / (last - first),
        "real_time_factor": frames / (last - first) / video["fps"],
        "chunk_gap_median_s": statistics.median(gaps),
        "chunk_gap_max_s": max(gaps),
        "loop_late_p99_at_most_s": p99_between(before, after),
        "control_late_p99_s": statistics.quantiles(late, n=100)[-1],
        **{f"browser_{name}": float(value) for name, value in playback.items()},
    }


TARGETS = {
    "page_s": "at most 2",
    "model_ready_s": "at most 10",
    "first_segment_s": "at most 3 (with the browser)",
    "real_time_factor": "at least 1.5, with the browser 1.0",
    "loop_late_p99_at_most_s": "control + 0.010",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=480)
    parser.add_argument("--model", default="storybook")
    parser.add_argument("--preset", default="live")
    parser.add_argument("--browser", action="store_true", help="a headless Chromium plays the film on the same machine")
    parser.add_argument("--prompt", default="a red boat drifts left over the sea")
    result = asyncio.run(run(parser.parse_args()))
    for name, value in result.items():
        print(f"{name:26} {value:9.3f}   {TARGETS.get(name, '')}")
    print(json.dumps({"bench": "live"} | {name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
