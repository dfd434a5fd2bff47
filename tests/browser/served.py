"""A server in a process of its own, so that a test can cut it off and start it again on the same port and data.

As a program: `python -m tests.browser.served PORT DATA_DIR MODEL ...`; the first model is the default one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from st2v_stream.checkpoints.models import known_models
from st2v_stream.chunk import Chunk, Frames, Memory
from st2v_stream.config import Config
from st2v_stream.direction import Direction
from st2v_stream.enhancers.choice import equipped
from st2v_stream.enhancers.lanczos import Lanczos
from st2v_stream.generators.testcard import TestCard
from st2v_stream.types import EnhancedChunk, ModelEntry, OnStep

TOKEN = "a-token-for-browser-tests-0123"
STEPS = 10
WORDS = {"things": ("boat", "ball"), "small words": ("a", "the", "drifts")}


class Frail(TestCard):
    """Fails the first time it comes to chunk 3."""

    has_failed = False

    def generate(self, direction: Direction, memory: Memory, on_step: OnStep) -> tuple[Frames, Memory]:
        if memory.next_index == 3 and not Frail.has_failed:
            Frail.has_failed = True
            raise RuntimeError("the device ran out of memory: expected 2.0 GiB, received 1.2 GiB")
        return super().generate(direction, memory, on_step)


class Unhurried(Lanczos):
    """Takes its time for every frame, as an enhancer does that denoises."""

    def enhance(self, chunk: Chunk, carry: Memory | None, on_step: OnStep) -> tuple[Sequence[EnhancedChunk], Memory]:
        def step(k: int, n: int) -> None:
            on_step(k, n)
            time.sleep(0.05)

        return super().enhance(chunk, carry, step)


def _make(name: str) -> ModelEntry:
    """NAME, or NAME+enhancer: with the enhancer it brings, or else the baseline."""
    if name == _model(name):
        return _plain(name)
    own = equipped(_plain(_model(name)), "auto", "cpu")
    return own if own.load_enhancer is not None else equipped(own, "lanczos", "cpu")


def _plain(name: str) -> ModelEntry:
    """testcard makes 1.4 s of film per second, quick as fast as it can, slow 0.6 s per second, frail fails once.

    The pictures of wide are larger; the films of sharpened are made as fast as it can, and made sharp at twice their size.
    """
    if name == "testcard":
        return _entry(TestCard(steps=STEPS, seconds_per_step=0.07))
    if name == "quick":
        return _entry(TestCard(steps=STEPS, name=name))
    if name == "slow":
        return _entry(TestCard(steps=STEPS, seconds_per_step=0.17, name=name))
    if name == "frail":
        return _entry(Frail(steps=STEPS, name=name, vocabulary=WORDS))
    if name == "wide":
        return _entry(TestCard(320, 192, steps=STEPS, name=name))
    if name == "sharpened":
        entry = _entry(TestCard(steps=STEPS, name=name))
        return replace(entry, load_enhancer=lambda: Unhurried(2), enhancer="lanczos")
    if name == "drawn":
        from tests.browser.drawn import Drawn

        return _entry(Drawn(seconds_per_step=0.08))
    return known_models(device="cpu")[name]


def _model(name: str) -> str:
    return name.partition("+")[0]


def _entry(maker: TestCard) -> ModelEntry:
    return ModelEntry(maker.card, lambda: maker)


class Served:
    """Starts and ends the process."""

    def __init__(self, data_dir: Path, models: Sequence[str]) -> None:
        self._data_dir = data_dir
        self._models = models
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def link(self) -> str:
        return f"{self.url}#token={TOKEN}"

    def start(self) -> None:
        arguments = [sys.executable, "-m", "tests.browser.served", str(self.port), str(self._data_dir), *self._models]
        self._process = subprocess.Popen(arguments, env={**os.environ, "PYTHONWARNINGS": "default"})
        deadline = time.monotonic() + 180
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it without a word, as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Ask the API as the owner; the answer's JSON."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(20)
            self._process = None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "readyz", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _main(port: str, data_dir: str, *names: str) -> None:
    from st2v_stream.server.app import serve

    config = Config(port=int(port), data_dir=Path(data_dir), model=_model(names[0]), token=TOKEN)
    asyncio.run(serve(config, {_model(name): _make(name) for name in names}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
