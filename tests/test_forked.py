"""What is forked behaves as what is started: see forked.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

import forked

SAYS = """
import json, os, sys
print(json.dumps([__name__, sys.argv, os.environ.get("TAKHIN_X"), os.getcwd(), os.umask(0), os.getppid(),
    sys.stdin.read(), sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:3]]))
print("on stderr", file=sys.stderr)
sys.exit(7)
"""
DRAWS = "import apsw, random, uuid; print(apsw.randomness(8), random.random(), uuid.uuid4())"
IS_FORKED = "import sys; print('takhin.cli.produce' in sys.modules)"
WAITS = "print(flush=True); import time; time.sleep(60)"

pytestmark = pytest.mark.skipif("REAL_PROCESSES" in os.environ, reason="nothing is forked")


def python(*args, by=forked.run, **options):
    return by([sys.executable, *map(str, args)], capture_output=True, text=True, **options)


@pytest.mark.parametrize("way", ["-c", "path", "-m"])
def test_a_program_finds_what_it_is_given(tmp_path, way):
    """Arguments, environment, folder, umask, parent and streams are the same, and so is how it ends."""
    (tmp_path / "says.py").write_text(SAYS)
    line = {"-c": ["-c", SAYS], "path": [tmp_path / "says.py"], "-m": ["-m", "says"]}[way]
    before = os.umask(0o027)
    try:
        options = {"input": "in", "cwd": tmp_path, "env": os.environ | {"TAKHIN_X": "y"}}
        found = python(*line, "a", "b", **options)
        wanted = python(*line, "a", "b", by=subprocess.run, check=False, **options)
    finally:
        os.umask(before)
    assert (found.returncode, found.stderr) == (wanted.returncode, wanted.stderr) == (7, "on stderr\n")
    assert json.loads(found.stdout) == json.loads(wanted.stdout)


def test_an_error_ends_it():
    """An exception is exit code 1 and a traceback."""
    done = python("-c", "1 / 0")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals(number):
    """It is a child of this process and ends by signals."""
    with forked.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=-3) as process:
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(20) == -number


def test_nothing_random_is_shared():
    """Each process draws its own."""
    drawn = [set(python("-c", DRAWS).stdout.split()) for _ in range(2)]
    assert not drawn[0] & drawn[1]


def test_what_is_read_at_the_start():
    """A program with another such variable is started."""
    assert python("-c", IS_FORKED).stdout == "True\n"
    assert python("-c", IS_FORKED, env=os.environ | {"PYTHONHASHSEED": "1"}).stdout == "False\n"
