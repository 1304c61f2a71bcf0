"""The benches run: a change of what they call breaks them where nobody looks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ("--repeat", "1", "--scale", "0.01")


@pytest.mark.parametrize(
    "command",
    [
        ("bench.shapes", *SMALL),
        pytest.param(("bench.produce", *SMALL), marks=pytest.mark.soak),
        pytest.param(("bench.client", *SMALL), marks=pytest.mark.soak),
        pytest.param(("bench.stalls", *SMALL), marks=pytest.mark.soak),
        pytest.param(("pytest", "-q", "bench", "--benchmark-disable"), marks=pytest.mark.soak),
    ],
    ids=lambda command: command[0],
)
def test_a_bench_runs(command, tmp_path):
    """With little work; its figures mean nothing then."""
    folder = () if command[0] == "pytest" else ("--folder", str(tmp_path))
    argv = [sys.executable, "-m", *command, *folder]
    done = subprocess.run(argv, check=False, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert "Traceback" not in done.stderr
    assert done.stdout, done.stderr
