"""The benches run: a change of what they call breaks them where nobody looks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.stopwatch import pid_of

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


def test_a_server_is_found_by_its_address():
    """Whose processor's time is measured: who listens on the port, and nobody where there is no port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert pid_of(f"127.0.0.1:{listener.getsockname()[1]}") == os.getpid()
    assert pid_of("/tmp/a-folder") is None
