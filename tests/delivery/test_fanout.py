"""The bench of many viewers, in small: it runs, and it counts what was lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_everybody_who_reads_gets_everything_once_beside_some_who_do_not() -> None:
    small = ["--viewers", "3", "--stalled", "2", "--among", "5", "--chunks", "6", "--pace", "0.1"]
    command = [sys.executable, str(ROOT / "bench" / "fanout.py"), *small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [(row["viewers"], row["stalled"]) for row in rows] == [(3, 0), (5, 2)]
    for row in rows:
        assert (row["expected"], row["delivered"], row["lost"], row["twice_or_unordered"]) == (18, 18, 0, 0)
        assert row["kilobytes"] > 10
        assert row["cpu_s"] > 0
        assert row["chunk_gap_median_s"] > 0
