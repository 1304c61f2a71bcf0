"""SIGINT and SIGTERM end every command, wherever they strike, with the code that shells give them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from blackbox.broker_process import command
from blackbox.clients import eventually

LOST = """
import gc, os, signal, sys

def interrupt(phase, info):
    # What a handler raises within this callback is printed and lost.
    if f"takhin.cli.{sys.argv[1]}" in sys.modules and interrupt in gc.callbacks:
        gc.callbacks.remove(interrupt)
        os.kill(os.getpid(), signal.SIGINT)

gc.set_threshold(1)
gc.callbacks.append(interrupt)
from takhin.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
WITHIN_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "takhin.cli.consume":
            sys.meta_path.remove(self)
            number = getattr(signal, sys.argv[1])
            try:
                exec("os.kill(os.getpid(), number); [n for n in range(10_000)]")
            except KeyboardInterrupt:
                if sys.argv[2] == "as it is":
                    raise
                raise ImportError("what C code makes of it") from None

sys.meta_path.insert(0, Finder())
from takhin.cli.main import main
sys.exit(main(["consume", "nothing"]))
"""
ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n"


@pytest.mark.parametrize("args", [["produce"], ["consume", "--follow"]], ids=" ".join)
def test_an_interrupt_that_python_loses(takhin, topic, args):
    """An interrupt that is raised in a callback, where Python only prints it, ends the command."""
    line = [sys.executable, "-c", LOST, args[0], topic, *args[1:]]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, env=takhin.environ(), stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            assert process.wait(20) == 130
            assert b"Exception ignored" in process.stderr.read()  # it was lost
        finally:
            process.kill()


@pytest.mark.parametrize("comes_out", ["as it is", "otherwise"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_an_import(number, comes_out):
    """The exit code is that of the signal, whatever an import makes of the interrupt."""
    done = subprocess.run(
        [sys.executable, "-c", WITHIN_IMPORT, number.name, comes_out], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, b"", b"")


def handles(pid: int, number: signal.Signals) -> bool:
    """True if a process handles a signal, and SIGTERM, which Python does not handle by itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*([0-9a-f]+)", status)[1], 16)
    return all(caught >> (each - 1) & 1 for each in (number, signal.SIGTERM))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["produce", "consume", "sql"])
def test_any_command(takhin, broker, topic, name, number):
    """A command that waits for input, for records or for SQLite is ended."""
    line = {
        "produce": command("produce", topic),
        "consume": command("consume", topic, "--follow"),
        "sql": command("sql", topic, ENDLESS, "--data-dir", broker.data_dir),
    }[name]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, env=takhin.environ(), stdin=pipe, stderr=pipe) as process:
        try:
            eventually(lambda: handles(process.pid, number))
            process.send_signal(number)
            assert process.wait(20) == 128 + number
            said = process.stderr.read()  # nothing if it had not begun
            if not said.startswith(
                b"Exception ignored in"
            ):  # Python's own words where it met a callback first
                assert said == b"" or (name, said) == ("produce", b"interrupted: 0 records produced\n")
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["produce", "consume", "member", "top"])
def test_pressed_again_and_again(takhin, topic, name):
    """Signals that come while a command ends change nothing, and nothing of Python's shows."""
    args = {
        "produce": ["produce", topic],
        "consume": ["consume", topic, "--follow"],
        "member": ["consume", topic, "--group", "g", "--follow"],
        "top": ["top"],
    }[name]
    pipe = subprocess.PIPE
    line = command(*args)
    with subprocess.Popen(line, env=takhin.environ(), stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            if name == "top":
                assert process.stdout.readline()
            else:
                eventually(lambda: handles(process.pid, signal.SIGINT))
            while process.poll() is None:
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.005)
            said = process.stderr.read()
            assert process.returncode in (130, -signal.SIGINT)  # the latter in the interpreter's own end
            assert said in (b"", b"interrupted: 0 records produced\n")
        finally:
            process.kill()


BEFORE_THE_COMMAND = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "takhin.cli.main":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from takhin.__main__ import main
sys.exit(main())
"""


def test_before_the_command_has_begun():
    """Ctrl-C within the imports ends the process without a word."""
    done = subprocess.run([sys.executable, "-c", BEFORE_THE_COMMAND], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a namespace of processes")
def test_as_the_first_process(takhin, topic):
    """SIGTERM ends a command that is PID 1, for which the system ignores what is not handled."""
    line = ["unshare", "--pid", "--fork", "--kill-child", *command("consume", topic, "--follow", "-n", 2)]
    with subprocess.Popen(line, env=takhin.environ(), stdout=subprocess.PIPE) as process:
        try:
            takhin.output("produce", topic, stdin=b"a\n")
            assert process.stdout.readline() == b"a\n"
            (child,) = subprocess.check_output(["pgrep", "-P", str(process.pid)]).split()
            os.kill(int(child), signal.SIGTERM)
            assert process.wait(20) == 143
        finally:
            process.kill()


def test_what_is_ignored_stays_ignored(takhin, topic):
    """A command that is started to ignore SIGINT, as in the background of a script, goes on."""
    line = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command("produce", topic)]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, env=takhin.environ(), stdin=pipe, stderr=pipe) as process:
        process.stdin.write(b"a\n")
        process.stdin.flush()
        assert takhin.output("consume", topic, "--follow", "-n", "1") == b"a\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert (process.returncode, said[:17]) == (0, b"produced 1 record")
