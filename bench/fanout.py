"""How many can watch one growing film over the WebSocket? (Fan-out claims of docs/results.md.)

Starts the real server in a process of its own on loopback, with a grainy test card that grows at a steady pace, and viewers in
another process, so that their CPU is not counted. One film per column: 1, 50, 200 viewers, then 60 of which 20 take nothing (a
tiny receive buffer, never read). Every viewer that reads must get every segment once and in order. Printed: deliveries; CPU
of the server per viewer that joins, and then, once all are there, per delivery, both beyond what it takes for one viewer (that
is: without making and encoding the film; with a delivery go its progress messages and its acknowledgement); memory per viewer
beyond what a film with one viewer takes; how late the server's event loop wakes up, while they join and then, beside a control
ticker in a process that does nothing else; how much later than the first viewer the others get a chunk; seconds between chunks,
which must not depend on who watches; and how many viewers were cut off.

    python bench/fanout.py [--viewers 1 50 200] [--stalled 20 --among 60] [--chunks 40] [--pace 0.5]

Exits with status 1 if a segment was lost, came twice or out of order.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from live import HEADER, control_ticker, lateness_counts, p99_between
from websockets.asyncio.client import ClientConnection, connect

TOKEN = "a-token-for-the-fan-out-bench"
STEPS = 4
"""Each is told to every viewer: the live preset of storybook has 2, others more."""
GRAIN = 12
"""Grey levels up and down."""
MIB = 2**20
JOINED_S = 60.0

CONTEXT = multiprocessing.get_context("spawn")


# ---------------------------------------------------------------- the server's process


def serve(port: int, folder: str, pace_s: float) -> None:
    """One chunk of about 40 kB every `pace_s` seconds, for whoever asks for a film."""
    from st2v_stream.config import Config
    from st2v_stream.generators.testcard import TestCard
    from st2v_stream.server.app import serve
    from st2v_stream.types import ModelEntry

    class Grainy(TestCard):
        """A test card whose middle is grain, the same for each frame number: real films do not compress to nothing."""

        def _chunk(self, index: int, *args: Any, **kwargs: Any) -> Any:
            frames, memory = super()._chunk(index, *args, **kwargs)
            grain = np.random.default_rng(index).integers(-GRAIN, GRAIN, (len(frames), 96, 192, 1))
            frames[:, 48:144, 32:224] = np.clip(frames[:, 48:144, 32:224] + grain, 0, 255).astype(np.uint8)
            return frames, memory

    maker = Grainy(steps=STEPS, seconds_per_step=pace_s / STEPS)
    config = Config(port=port, data_dir=Path(folder), model="testcard", token=TOKEN)
    asyncio.run(serve(config, {"testcard": ModelEntry(maker.card, lambda: maker)}))


# ---------------------------------------------------------------- the viewers' process


@dataclass
class Seen:
    """What one viewer got: index and time of each segment in the order of arrival."""

    indexes: list[int] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    size_bytes: int = 0


def view(url: str, reading: int, stalled: int, joined: Any, results: Any, leave: Any) -> None:
    """`reading` viewers that take everything and `stalled` ones that take nothing, until told to leave."""
    host, port = url.removeprefix("ws://").split("/")[0].split(":")
    deaf = [stall(host, int(port), "/" + url.split("/", 3)[3]) for _ in range(stalled)]
    asyncio.run(view_all(url, reading, joined, results, leave))
    for sock in deaf:
        sock.close()


async def view_all(url: str, reading: int, joined: Any, results: Any, leave: Any) -> None:
    seen = [Seen() for _ in range(reading)]
    here = asyncio.Semaphore(0)
    watching = [asyncio.create_task(watch(url, one, here, leave)) for one in seen]
    for _ in watching:
        await here.acquire()  # welcomed
    joined.set()
    for _ in watching:
        await here.acquire()  # the film has ended
    results.put(seen)
    await asyncio.gather(*watching)


async def watch(url: str, seen: Seen, here: asyncio.Semaphore, leave: Any) -> None:
    subprotocols: list[Any] = ["st2v.v1", f"bearer.{TOKEN}"]
    async with connect(url, subprotocols=subprotocols, max_size=None, compression=None, proxy=None) as film:
        await film.send(json.dumps({"type": "hello", "cursor": 0, "renditions": ["preview"]}))
        async for message in film:
            if isinstance(message, bytes):
                await take(film, message, seen)
                continue
            kind = json.loads(message)["type"]
            if kind == "welcome":
                here.release()
            elif kind == "ended":
                break
        here.release()
        await asyncio.to_thread(leave.wait)


async def take(film: ClientConnection, message: bytes, seen: Seen) -> None:
    _, kind, _, _, index, _, _, seq = HEADER.unpack(message[: HEADER.size])
    if kind == 2:
        seen.indexes.append(index)
        seen.at_s.append(time.perf_counter())
        seen.size_bytes += len(message)
        await film.send(json.dumps({"type": "ack", "seq": seq}))


def stall(host: str, port: int, path: str) -> socket.socket:
    """A viewer by hand that says hello and takes nothing; its tiny buffer keeps the kernel from taking it instead."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((host, port))
    key = base64.b64encode(os.urandom(16)).decode()
    said = [
        f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}", f"Sec-WebSocket-Protocol: st2v.v1, bearer.{TOKEN}", "", "",
    ]  # fmt: skip
    sock.sendall("\r\n".join(said).encode())
    if not sock.recv(4096).startswith(b"HTTP/1.1 101"):
        raise RuntimeError("the server refused a viewer")
    hello = json.dumps({"type": "hello", "cursor": 0, "live": True}).encode()
    sock.sendall(bytes([0x81, 0x80 | len(hello), 0, 0, 0, 0]) + hello)
    return sock


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Spent:
    """What the server has done so far (or, as a difference, meanwhile)."""

    wall_s: float
    cpu_s: float
    sent: int
    late: dict[float, int]
    """Wake-ups of the event loop at most so many seconds late."""

    def since(self, before: Spent) -> Spent:
        late = {edge: count - before.late[edge] for edge, count in self.late.items()}
        return Spent(self.wall_s - before.wall_s, self.cpu_s - before.cpu_s, self.sent - before.sent, late)

    @property
    def late_p99_ms(self) -> float:
        return 1000 * p99_between(dict.fromkeys(self.late, 0), self.late)


@dataclass(frozen=True)
class Row:
    """One film and its viewers."""

    viewers: int
    stalled: int
    chunks: int
    delivered: int
    lost: int
    twice_or_unordered: int
    kilobytes: float
    joining: Spent
    watching: Spent
    grown_mib: float
    late_p50_ms: float
    late_p99_ms: float
    control_p99_ms: float
    gap_median_s: float
    gap_max_s: float
    cut_off: int


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def until_ready(client: httpx.Client, process: Any) -> None:
    """Until the server's process answers and its model is loaded."""
    deadline = time.monotonic() + 60
    while True:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if not process.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the server did not start")
        time.sleep(0.05)


class Server:
    """The server's process, and what it says of itself."""

    def __init__(self, folder: Path, pace_s: float) -> None:
        self.port = free_port()
        self._process = CONTEXT.Process(target=serve, args=(self.port, str(folder), pace_s))
        self._process.start()
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
        )
        self._facts = psutil.Process(self._process.pid)

    def until_ready(self) -> None:
        until_ready(self.client, self._process)

    @property
    def cpu_s(self) -> float:
        times = self._facts.cpu_times()
        return float(times.user + times.system)

    @property
    def resident_bytes(self) -> int:
        return int(self._facts.memory_info().rss)

    def spent(self) -> Spent:
        metrics = self.metrics()
        return Spent(time.perf_counter(), self.cpu_s, counter(metrics, "st2v_segments_sent_total"), lateness_counts(metrics))

    def metrics(self) -> str:
        return self.client.get("/metrics").raise_for_status().text

    def end(self) -> None:
        self.client.close()
        self._process.terminate()
        self._process.join(20)


def counter(metrics: str, name: str) -> int:
    return int(float(next(line.split()[1] for line in metrics.splitlines() if line.startswith(name + " "))))


def film(server: Server, reading: int, stalled: int, chunks: int) -> Row:
    """Make a film of so many chunks while they watch."""
    joined, leave, stop = CONTEXT.Event(), CONTEXT.Event(), CONTEXT.Event()
    results, control_late = CONTEXT.Queue(), CONTEXT.Queue()
    control = CONTEXT.Process(target=control_ticker, args=(stop, control_late))
    control.start()
    before, memory = server.metrics(), server.resident_bytes
    made = server.client.post("/v1/videos", json={"prompt": f"for {reading} viewers", "num_frames": 16 + 8 * (chunks - 1)})
    url = f"ws://127.0.0.1:{server.port}/v1/videos/{made.raise_for_status().json()['id']}/watch"
    began = server.spent()
    viewers = CONTEXT.Process(target=view, args=(url, reading, stalled, joined, results, leave))
    viewers.start()
    try:
        if not joined.wait(JOINED_S):
            raise RuntimeError("not everybody was welcomed")
        here = server.spent()
        seen: list[Seen] = results.get(timeout=600)
        spent, memory, after = (here.since(began), server.spent().since(here)), server.resident_bytes - memory, server.metrics()
    finally:
        leave.set()
        stop.set()
        late = control_late.get(timeout=10)
        viewers.join(20)
        if viewers.is_alive():
            viewers.terminate()
    return summarise(seen, stalled, chunks, spent, memory, before, after, late)


def p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))] if values else 0.0


def summarise(
    seen: list[Seen],
    stalled: int,
    chunks: int,
    spent: tuple[Spent, Spent],
    memory: int,
    before: str,
    after: str,
    late: list[float],
) -> Row:
    joining, watching = spent
    expected = list(range(chunks))
    arrivals = {index: sorted(one.at_s[one.indexes.index(index)] for one in seen if index in one.indexes) for index in expected}
    after_first = sorted(1000 * (at - first) for first, *others in arrivals.values() for at in others)
    firsts = [times[0] for times in arrivals.values() if times]
    gaps = [later - earlier for earlier, later in zip(firsts[1:], firsts[2:])]  # the first chunk is longer
    delivered = sum(len(one.indexes) for one in seen)
    return Row(
        viewers=len(seen) + stalled,
        stalled=stalled,
        chunks=chunks,
        delivered=delivered,
        lost=sum(chunks - len(set(one.indexes)) for one in seen),
        twice_or_unordered=sum(one.indexes != sorted(set(one.indexes)) for one in seen),
        kilobytes=sum(one.size_bytes for one in seen) / delivered / 1000,
        joining=joining,
        watching=watching,
        grown_mib=memory / MIB,
        late_p50_ms=statistics.median(after_first or [0.0]),
        late_p99_ms=p99(after_first),
        control_p99_ms=1000 * p99(late),
        gap_median_s=statistics.median(gaps),
        gap_max_s=max(gaps),
        cut_off=counter(after, "st2v_viewers_aborted_total") - counter(before, "st2v_viewers_aborted_total"),
    )


def cpu_us_per_delivery(row: Row, alone: Row) -> float | None:
    """Beyond what one viewer's film takes in the same time."""
    share = row.watching.wall_s / alone.watching.wall_s
    more = row.watching.sent - share * alone.watching.sent
    return 1e6 * (row.watching.cpu_s - share * alone.watching.cpu_s) / more if more > 0 else None


def table(rows: list[Row]) -> list[dict[str, float | int | None]]:
    """The rows as numbers; what one viewer costs is what many cost beyond one."""
    alone = rows[0]
    lines: list[dict[str, float | int | None]] = []
    for row in rows:
        per_delivery = cpu_us_per_delivery(row, alone) if row.viewers > 1 else None
        per_join = 1e3 * (row.joining.cpu_s - alone.joining.cpu_s) / (row.viewers - 1) if row.viewers > 1 else None
        per_viewer = (row.grown_mib - alone.grown_mib) / (row.viewers - 1) if row.viewers > 1 else None
        lines.append(
            {
                "viewers": row.viewers,
                "stalled": row.stalled,
                "expected": row.chunks * (row.viewers - row.stalled),
                "delivered": row.delivered,
                "lost": row.lost,
                "twice_or_unordered": row.twice_or_unordered,
                "kilobytes": row.kilobytes,
                "cpu_s": row.joining.cpu_s + row.watching.cpu_s,
                "cpu_ms_per_join": per_join,
                "cpu_us_per_delivery": per_delivery,
                "mib_per_viewer": per_viewer,
                "late_p50_ms": row.late_p50_ms,
                "late_p99_ms": row.late_p99_ms,
                "loop_late_joining_p99_ms": row.joining.late_p99_ms,
                "loop_late_p99_ms": row.watching.late_p99_ms,
                "control_late_p99_ms": row.control_p99_ms,
                "chunk_gap_median_s": row.gap_median_s,
                "chunk_gap_max_s": row.gap_max_s,
                "cut_off": row.cut_off,
            }
        )
    return lines


def run(args: argparse.Namespace) -> list[dict[str, float | int | None]]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "data", args.pace)
        try:
            server.until_ready()
            film(server, 1, 0, 5)  # what is loaded once is nobody's cost
            rows = [film(server, viewers, 0, args.chunks) for viewers in args.viewers]
            if args.stalled:
                rows.append(film(server, args.among - args.stalled, args.stalled, args.chunks))
        finally:
            server.end()
    return table(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--viewers", type=int, nargs="+", default=[1, 50, 200], help="the first row is what others are compared with"
    )
    parser.add_argument("--stalled", type=int, default=20)
    parser.add_argument("--among", type=int, default=60)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--pace", type=float, default=0.5, help="seconds per chunk")
    args = parser.parse_args()
    lines = run(args)
    for name in lines[0]:
        cells = ["-" if line[name] is None else f"{line[name]:.3f}".removesuffix(".000") for line in lines]
        print(f"{name:25}" + "".join(f"{cell:>12}" for cell in cells))
    print(json.dumps({"bench": "fanout", "rows": lines}))
    return int(any(line["lost"] or line["twice_or_unordered"] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
