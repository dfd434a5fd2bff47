"""Counters, gauges and one histogram in Prometheus' text format: no labels from outside, nothing that names a video.

The numbers of `Director.system()` are added as gauges, so what the flow measures (chunk seconds, queue) shows here too.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

from st2v_stream import __version__

LATENESS_BUCKETS_S = (*(n / 1000 for n in range(1, 21)), 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
TICK_S = 0.05


class Histogram:
    """How often a measurement was at most so large."""

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one measurement."""
        self._counts[bisect_left(self._buckets, value)] += 1
        self._sum += value

    def lines(self, name: str) -> Iterator[str]:
        """As Prometheus reads it: buckets count everything below them."""
        total = 0
        for limit, count in zip((*self._buckets, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{limit}"}} {total}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """What this process has done since it started."""

    def __init__(self) -> None:
        self.started_at_s = time.time()
        self.viewers = 0
        self.viewers_total = 0
        self.viewers_aborted = 0
        self.viewer_skips = 0
        self.segments_sent = 0
        self.segment_bytes = 0
        self.requests: dict[int, int] = {}
        self.refused = 0
        self.loop_lateness = Histogram(LATENESS_BUCKETS_S)

    def viewer_joined(self) -> None:
        """Somebody watches over a WebSocket."""
        self.viewers += 1
        self.viewers_total += 1

    def viewer_left(self) -> None:
        """They no longer do."""
        self.viewers -= 1

    def viewer_aborted(self) -> None:
        """A viewer whose socket took nothing was cut off."""
        self.viewers_aborted += 1

    def viewer_skipped(self) -> None:
        """A live viewer that was too slow was skipped ahead to the live edge."""
        self.viewer_skips += 1

    def segment_sent(self, size_bytes: int) -> None:
        """A segment went to a viewer."""
        self.segments_sent += 1
        self.segment_bytes += size_bytes

    def request_done(self, status: int) -> None:
        """A request was answered."""
        self.requests[status] = self.requests.get(status, 0) + 1
        self.refused += status in (401, 403)

    async def watch_loop(self) -> None:
        """Measure for ever how late the event loop wakes up."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            self.loop_lateness.observe(max(0.0, loop.time() - due))

    def render(self, system: Mapping[str, Any]) -> str:
        """Everything, for GET /metrics."""
        lines = [f'st2v_build_info{{version="{__version__}"}} 1']
        for kind, name, value in self._plain():
            lines += [f"# TYPE st2v_{name} {kind}", f"st2v_{name} {value}"]
        lines.append("# TYPE st2v_http_requests_total counter")
        lines += [f'st2v_http_requests_total{{status="{status}"}} {count}' for status, count in sorted(self.requests.items())]
        lines.append("# TYPE st2v_event_loop_lateness_seconds histogram")
        lines += self.loop_lateness.lines("st2v_event_loop_lateness_seconds")
        for name, number in _numbers("st2v_system", system):
            lines += [f"# TYPE {name} gauge", f"{name} {number}"]
        return "\n".join(lines) + "\n"

    def _plain(self) -> Iterator[tuple[str, str, float]]:
        yield "gauge", "uptime_seconds", round(time.time() - self.started_at_s, 3)
        yield "gauge", "viewers", self.viewers
        yield "counter", "viewers_total", self.viewers_total
        yield "counter", "viewers_aborted_total", self.viewers_aborted
        yield "counter", "viewer_skips_total", self.viewer_skips
        yield "counter", "segments_sent_total", self.segments_sent
        yield "counter", "segment_bytes_sent_total", self.segment_bytes
        yield "counter", "requests_refused_total", self.refused


def _numbers(prefix: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number among plain facts, named by its path."""
    for name, fact in facts.items():
        path = f"{prefix}_{''.join(c if c.isalnum() else '_' for c in str(name).lower())}"
        if isinstance(fact, Mapping):
            yield from _numbers(path, fact)
        elif isinstance(fact, bool | int | float):
            yield path, float(fact)
