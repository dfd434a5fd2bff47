"""The ablation table as anyone runs it: `st2v evaluate storybook --table --quick`, in the time it promises."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROMISED_S = 600


@pytest.mark.long
@pytest.mark.timeout(2 * PROMISED_S)
def test_the_quick_table_is_ready_in_ten_minutes(tmp_path: Path) -> None:
    began = time.monotonic()
    command = [sys.executable, "-m", "st2v_stream", "evaluate", "storybook", "--table", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < PROMISED_S
    report = json.loads(done.stdout.splitlines()[-1])
    named = json.dumps(report)
    for row in ("cam", "addition", "concatenation", "none", "apm-off", "blend-coded", "blend-paper"):
        assert row in named, row
    assert (tmp_path / "table.md").read_text().count("\n|") > 10
