"""What commands write: all of it, whatever kind of stdout they have, or an error; and always UTF-8."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

import forked
from blackbox.broker_process import Broker, command
from blackbox.clients import eventually
from cli.records import fill, put
from takhin.v1 import takhin_pb2 as pb

PIPE_BYTES_FULL = 56_000
MANY = 6_001
"""Records of 99 bytes."""


def outputs(broker, topic) -> dict[str, list[str]]:
    """Commands that print more than a small pipe holds."""
    data = ["--data-dir", str(broker.data_dir)]
    return {
        "consume": command("consume", topic),
        "consume --json": command("consume", topic, "--json"),
        "sql --csv": command("sql", topic, "select * from records", "--csv", *data),
        "sql --json": command("sql", topic, "select * from records", "--json", *data),
        "sql": command("sql", topic, "select offset, value from records", *data),
    }


@pytest.fixture(scope="module")
def full_topic(broker, takhin) -> str:
    """A topic with records that no test changes."""
    takhin.output("topics", "create", "full")
    fill(broker, "full", MANY)
    return "full"


def unbuffered(takhin) -> dict[str, str]:
    """The environment as in most images of containers."""
    return takhin.environ() | {"PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize("name", ["consume", "consume --json", "sql --csv", "sql --json", "sql"])
def test_a_pipe_that_does_not_block(takhin, broker, full_topic, name):
    """A pipe that takes only a part of what is written, and does not block, still gets everything."""
    line = outputs(broker, full_topic)[name]
    whole = takhin.run(line, b"").stdout
    read, write = os.pipe()
    os.set_blocking(write, False)
    with (
        os.fdopen(read, "rb") as pipe,
        forked.Popen(line, stdout=write, stderr=subprocess.PIPE, env=unbuffered(takhin)) as writer,
    ):
        os.close(write)
        found = pipe.read()
        assert (writer.wait(30), writer.stderr.read()) == (0, b"")
    assert found == whole
    assert len(whole) > 99 * MANY


def waiting_bytes(descriptor: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("name", ["consume", "sql --csv"])
def test_stopped_and_continued(takhin, broker, full_topic, name):
    """Ctrl-Z and fg, while the command waits for its reader, lose nothing."""
    line = outputs(broker, full_topic)[name]
    whole = takhin.run(line, b"").stdout
    with forked.Popen(line, stdout=subprocess.PIPE, env=unbuffered(takhin)) as writer:
        found = []
        for _ in range(5):
            eventually(lambda: waiting_bytes(writer.stdout.fileno()) > PIPE_BYTES_FULL)
            for number in (signal.SIGSTOP, signal.SIGCONT):
                writer.send_signal(number)
                if number == signal.SIGSTOP:
                    os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
            found.append(os.read(writer.stdout.fileno(), 30_000))
        found.append(writer.stdout.read())
        assert writer.wait(30) == 0
    assert b"".join(found) == whole


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["consume", "sql --csv"])
def test_a_signal_while_the_reader_does_not_read(takhin, broker, full_topic, name, signal_number):
    """A command whose reader does not read can be ended at once, whether the pipe blocks or not."""
    for blocking in (True, False):
        read, write = os.pipe()
        os.set_blocking(write, blocking)
        line = outputs(broker, full_topic)[name]
        with forked.Popen(line, stdout=write, stderr=subprocess.PIPE, env=takhin.environ()) as writer:
            os.close(write)
            eventually(lambda pipe=read: waiting_bytes(pipe) > PIPE_BYTES_FULL)
            writer.send_signal(signal_number)
            assert (writer.wait(10), writer.stderr.read()) == (128 + signal_number, b"")
        os.close(read)


def shell(takhin, line: list[str], redirection: str, stdin: bytes = b""):
    return takhin.run(["sh", "-c", f'"$@" {redirection}', "sh", *line], stdin)


def test_a_closed_stdout(takhin, broker, topic):
    """A closed stdout is one line of an error for a command that has output, and no harm to others."""
    put(broker, topic, pb.Record(value=b"x"))
    lines = [
        command("consume", topic),
        command("topics", "list"),
        command("topics", "list", "--json"),
        command("sql", topic, "--data-dir", broker.data_dir),
        command("--version"),
    ]
    for line in lines:
        done = shell(takhin, line, ">&-")
        assert (done.returncode, done.stderr) == (1, b"takhin: cannot write the output: it is closed\n"), line
    done = shell(takhin, command("produce", topic), ">&-", b"a\n")
    assert (done.returncode, done.stderr[:17]) == (0, b"produced 1 record")


def test_a_closed_stderr(takhin, broker, topic):
    """Without a stderr nothing is said, least of all on stdout or a socket; the exit code is the same."""
    put(broker, topic, pb.Record(value=b"x"))
    done = shell(takhin, command("consume", topic), "2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x\n", b"")
    for redirection in ("2>&-", "2>/dev/full", "<&- >&- 2>&-"):
        done = shell(takhin, command("consume", "nosuch"), redirection)
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_a_broker_without_streams(tmp_path):
    """A broker serves although its caller has closed stdout, or reads neither of its lines."""
    data = tmp_path / "data"
    with Broker(data):
        pass
    for redirection in (">&- 2>&-", ">/dev/full 2>/dev/full"):
        line = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
        line += command("serve", "--data-dir", data, "--listen", "127.0.0.1:0")
        with subprocess.Popen(line) as broker:
            eventually((data / "ballast").exists)
            broker.send_signal(signal.SIGTERM)
            assert broker.wait(20) == 0


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_output_is_utf_8(takhin, broker, topic, tmp_path, encoding):
    """Whatever encoding Python would choose, text is written as UTF-8, and what has none as an escape."""
    put(broker, topic, pb.Record(value="größer ☃".encode()))
    environ = takhin.environ() | {"PYTHONIOENCODING": encoding}
    query = ["sql", topic, "select value from records", "--data-dir", broker.data_dir]
    for line in (query, [*query, "--csv"], [*query, "--json"], ["consume", topic]):
        done = subprocess.run(command(*line), env=environ, capture_output=True, check=True)
        assert "größer ☃" in done.stdout.decode()
    odd = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(odd)).mkdir()
    done = subprocess.run(
        [*command("sql", "t", "--data-dir"), odd], env=environ, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)


def screen(takhin, *args, stdin) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command whose stderr is a terminal; returns it and the other end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(*args), env=takhin.environ() | {"TERM": "xterm"}, stdin=stdin, stderr=theirs
    )
    os.close(theirs)
    return process, ours


def everything(terminal: int) -> bytes:
    """What is shown on a terminal until nobody has it open any more."""
    found = []
    while True:
        try:
            found.append(os.read(terminal, 4_096))
        except OSError:  # as a terminal says that it was closed
            os.close(terminal)
            return b"".join(found)


def test_no_bar_before_the_first_line(takhin, topic):
    """produce draws nothing before it has sent something, and for a terminal's lines nothing at all."""
    keyboard, theirs = pty.openpty()
    process, terminal = screen(takhin, "produce", topic, stdin=theirs)
    os.close(theirs)
    os.write(keyboard, b"typed\n\x04")
    assert process.wait(20) == 0
    shown = everything(terminal)
    os.close(keyboard)
    assert shown.startswith(b"produced 1 record to ")
    assert b"\x1b" not in shown
    read, write = os.pipe()
    process, terminal = screen(takhin, "produce", topic, stdin=read)
    os.close(read)
    shown = []
    reader = threading.Thread(target=lambda: shown.append(everything(terminal)))
    reader.start()
    with takhin.start("consume", topic, "--follow", "-o", "1") as follower:
        os.write(write, b"piped\n")
        assert follower.stdout.readline() == b"piped\n"
    os.close(write)
    assert process.wait(20) == 0
    reader.join(20)
    assert b"produced 1 record to " in shown[0]


def test_help_shows_no_escapes(takhin):
    """The marks that keep lines of --help as they are do not appear in it."""
    for name in ("consume", "completion", "produce"):
        text = takhin.output(name, "--help")
        assert b"\\b" not in text
        assert b"\b" not in text
