"""The `takhin` command as a whole: version, help, errors, addresses, and what it does not load."""

from __future__ import annotations

import importlib.metadata
import socket
import subprocess
import sys
import threading
from contextlib import closing

import pytest

import forked
from blackbox.broker_process import command, environment
from takhin.cli.main import COMMANDS

WHAT_IS_LOADED = """
import sys
from takhin.cli.main import main
code = main(sys.argv[1:])
print("\\n".join(sys.modules))
sys.exit(code)
"""
SERVER_ONLY = {
    *("apsw", "sqlite3", "_sqlite3", "sqlite_utils", "structlog"),
    *("takhin.storage", "takhin.schema", "takhin.broker", "takhin.rpc", "takhin.server"),
}

KNOWN = ", ".join(COMMANDS)


def run(*args, environ=None, entry=("-m", "takhin"), by=forked.run) -> subprocess.CompletedProcess[str]:
    """Run the command; with subprocess.run in a process that is really started (see forked.py)."""
    return by(
        [sys.executable, *entry, *args],
        env=environ or environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("entry", [("-m", "takhin"), ("-m", "takhin.cli.main")])
def test_version(entry):
    """Both modules print the distribution's version."""
    done = run("--version", entry=entry, by=subprocess.run)
    version = importlib.metadata.version("takhin")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"takhin {version}\n", "")


@pytest.mark.parametrize(
    "args",
    [
        *[(), ("serve",), ("topics",), ("topics", "create"), ("produce",), ("consume",)],
        *[("groups",), ("groups", "describe"), ("offsets",), ("offsets", "set"), ("bench",), ("completion",)],
        *[("backup",), ("verify",), ("restore",), ("recover",)],
    ],
    ids=" ".join,
)
def test_help(args):
    """Every command explains itself on stdout."""
    done = run(*args, "--help", by=subprocess.run)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: takhin {' '.join(args)}".rstrip())


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (
            ["nosuch"],
            f"takhin: there is no command 'nosuch'; the commands are {KNOWN} (see takhin --help)",
        ),
        (["cosume"], "takhin: there is no command 'cosume'; did you mean 'consume'? (see takhin --help)"),
        (
            ["topics", "delte"],
            "takhin: there is no command 'delte'; did you mean 'delete'? (see takhin topics --help)",
        ),
        (["consume"], "takhin: Missing argument 'TOPIC...', or --pattern. (see takhin consume --help)"),
    ],
)
def test_usage_errors(args, line):
    """A usage error is one line that mentions --help, with exit code 1."""
    done = run(*args)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line + "\n")


@pytest.mark.parametrize("args", [[], ["topics"], ["context"]], ids=" ".join)
def test_a_group_of_commands_alone(args):
    """Without a command there is the help, on stderr, and exit code 1."""
    done = run(*args)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == run(*args, "--help").stdout


def test_client_commands_load_nothing_of_the_server(takhin, topic):
    """After real work with a broker, neither SQLite nor the broker's code is in sys.modules."""
    for args in (["topics", "describe"], ["produce", topic], ["consume", topic]):
        loads = ("-c", WHAT_IS_LOADED)
        done = run(*args, environ=takhin.environ(), entry=loads, by=subprocess.run)
        assert done.returncode == 0, done.stderr
        loaded = set(done.stdout.splitlines())
        assert f"takhin.cli.{args[0]}" in loaded
        assert not loaded & SERVER_ONLY


@pytest.mark.parametrize(
    "args",
    [["topics", "list"], ["produce", "t", "--timeout", "1"], ["consume", "t"], ["consume", "t", "--follow"]],
)
def test_no_broker_there(args):
    """One line names the address and says how to start a broker."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    done = run(*args, "--server", address)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"takhin: no broker answers at {address}; start one with `takhin serve`")


def test_something_else_is_there():
    """A server that does not speak gRPC is reported like an absent broker, and the command ends by itself."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def hang_up():
            while True:
                try:
                    server.accept()[0].close()
                except OSError:  # the listening socket was shut down: the test is over
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        done = run("topics", "list", "--server", f"127.0.0.1:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("takhin: no broker answers at ")


def test_the_address_comes_from_flag_or_variable(takhin):
    """--server takes precedence over TAKHIN_SERVER."""
    nowhere = environment(server="127.0.0.1:1")
    assert run("topics", "list", environ=nowhere).returncode == 1
    assert run("topics", "list", "--server", takhin.address, environ=nowhere).returncode == 0
    assert run("topics", "list", environ=environment(server=takhin.address)).returncode == 0


def test_a_proxy_is_not_asked(takhin):
    """http_proxy in the environment does not affect the connection to the broker."""
    proxied = takhin.environ() | {"http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    assert run("topics", "list", environ=proxied).returncode == 0


def test_a_closed_stdin_is_an_error(takhin, topic):
    """A closed stdin is an error: its descriptor may be a socket's, whose bytes nobody meant to produce."""
    shell = subprocess.run(
        ["sh", "-c", '"$@" <&-', "sh", *command("produce", topic)],
        env=takhin.environ(),
        capture_output=True,
        check=False,
    )
    assert (shell.returncode, shell.stderr) == (1, b"takhin: stdin is closed\n")


def completed(takhin, *words: str) -> list[str]:
    """What bash would offer to complete the last of these words."""
    asked = {"COMP_WORDS": " ".join(["takhin", *words]), "COMP_CWORD": str(len(words))}
    done = run(environ=takhin.environ() | asked | {"_TAKHIN_COMPLETE": "bash_complete"})
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_completion(takhin, topic):
    """Commands, options, topics and groups are completed; without a broker nothing is, and nothing fails."""
    assert completed(takhin, "pro") == ["produce"]
    assert completed(takhin, "offsets", "") == ["list", "set"]
    assert "--max-records" in completed(takhin, "consume", "x", "--")
    assert topic in completed(takhin, "consume", "")
    assert completed(takhin, "topics", "describe", topic[:-1]) == [topic]
    run("offsets", "set", "billing", topic, "-o", "end", environ=takhin.environ())
    assert completed(takhin, "groups", "describe", "bil") == ["billing"]
    run("groups", "delete", "billing", environ=takhin.environ())
    assert completed(type(takhin)("127.0.0.1:1"), "consume", "") == []
    for shell in ("bash", "zsh", "fish"):
        assert "_TAKHIN_COMPLETE" in run("completion", shell).stdout
