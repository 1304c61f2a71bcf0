"""Starting: the ready line, and every refusal to start as one clear line and exit code 2."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

import forked
from blackbox.broker_process import Broker, command, environment
from blackbox.clients import connected, create_topic, produce, read_all

REFUSED_S_MAX = 2.0
"""For the quickest of a test's rounds: whatever else the machine does only makes the others longer."""


def refused(*args, by=forked.run, **settings):
    """Start a broker that must be refused; returns its one line on stderr and the seconds it took."""
    began = time.monotonic()
    done = by(
        command("serve", *args),
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    took = time.monotonic() - began
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line, took


def test_the_ready_line_says_what_is_served(data_dir):
    """The ready line has the address, data folder, topics and versions; nothing else is on stdout."""
    with Broker(data_dir) as broker:
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", broker.address)
        assert Path(broker.ready["data_dir"]).resolve() == data_dir.resolve()
        assert broker.ready["topics"] == "0"
        with connected(broker.address) as stub:
            for name in ("a", "b"):
                create_topic(stub, name)
        assert broker.stop() == 0
        assert broker.more_output() == ""
    with Broker(data_dir) as broker:
        assert broker.ready["topics"] == "2"


ROUNDS = pytest.mark.parametrize(
    "rounds", [3, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)


@pytest.mark.timed
@ROUNDS
def test_a_second_broker_on_the_folder_is_refused(broker, stub, rounds, figures):
    """A second broker names the folder and the holder's pid within 2 s; the holder is not disturbed."""
    create_topic(stub, "topic")
    times = []
    for _ in range(rounds):
        line, took = refused("--data-dir", broker.data_dir, "--listen", "127.0.0.1:0", by=subprocess.run)
        assert str(broker.pid) in line
        assert str(broker.data_dir) in line
        times.append(took)
        produce(stub, "topic", [b"v"])
    assert len(read_all(stub, "topic")) == rounds
    figures(f"second broker on the folder: {rounds} refused by name, after {max(times):.2f} s at most")
    assert min(times) < REFUSED_S_MAX


@pytest.mark.timed
@ROUNDS
def test_a_second_broker_on_the_port_is_refused(broker, tmp_path, rounds, figures):
    """A second broker names the address within 2 s; no two brokers silently share a port."""
    times = []
    for number in range(rounds):
        line, took = refused(
            *("--data-dir", tmp_path / f"other-{number}", "--listen", broker.address), by=subprocess.run
        )
        assert broker.address in line
        times.append(took)
    figures(f"second broker on the port: {rounds} refused by name, after {max(times):.2f} s at most")
    assert min(times) < REFUSED_S_MAX


@ROUNDS
def test_the_folder_is_free_again_after_sigkill(data_dir, rounds, figures):
    """After SIGKILL both the folder and the port can be used again."""
    address = "127.0.0.1:0"
    for number in range(rounds + 1):
        with Broker(data_dir, listen=address) as broker, connected(broker.address) as stub:
            address = broker.address
            if number == 0:
                create_topic(stub, "topic")
            assert produce(stub, "topic", [b"%d" % number]) == number
            if number < rounds:
                broker.kill()
    figures(f"folder and port after SIGKILL: {rounds} of {rounds} starts")


def test_a_port_of_another_program_is_refused(data_dir):
    """A port on which any other program listens is reported as in use."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        line, _ = refused("--data-dir", data_dir, "--listen", address)
    assert line == f"takhin: cannot listen on {address}: another process listens there"


def file_in_the_way(folder):
    (folder / "data").write_text("a file")
    return folder / "data"


def file_above(folder):
    (folder / "file").write_text("a file")
    return folder / "file" / "data"


def file_for_topics(folder):
    (folder / "data").mkdir()
    (folder / "data" / "topics").write_text("a file")
    return folder / "data"


def no_folder_can_be_made(folder):
    return Path("/proc/takhin-data")


def foreign_file(folder):
    (folder / "data/topics/topic").mkdir(parents=True)
    (folder / "data/topics/topic/0.db").write_bytes(b"no database at all" * 1_000)
    return folder / "data"


@pytest.mark.parametrize(
    "odd", [file_in_the_way, file_above, file_for_topics, no_folder_can_be_made, foreign_file]
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path, odd):
    """An odd or unwritable data folder is named in one line, with exit code 2."""
    path = odd(tmp_path)
    line, _ = refused("--strict", "--data-dir", path, "--listen", "127.0.0.1:0")
    assert str(path) in line


BAD_CONFIGS = {
    "not-toml": ("listen = ", "bad.toml"),
    "unknown-key": ("[storage]\ncommit_thread = 2", "commit_threads"),
    "unknown-section": ("[storrage]\ncommit_threads = 2", "storage"),
    "wrong-type": ('[storage]\ncommit_threads = "two"', "commit_threads"),
    "too-small": ("[storage]\ncommit_threads = 0", "commit_threads"),
    "fraction": ("[consume]\nheartbeat_ms = 99.5", "heartbeat_ms"),
    "not-utf8": ("\udcff = 1", "bad.toml"),
}


@pytest.mark.parametrize(("text", "named"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_bad_config_file_is_refused(tmp_path, data_dir, text, named):
    """A bad config file gives a line with the key (and the nearest known one) and exit code 2."""
    config = tmp_path / "bad.toml"
    config.write_bytes(text.encode(errors="surrogateescape"))
    line, _ = refused("--data-dir", data_dir, "--config", config)
    assert named in line
    assert not data_dir.exists()


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:65536", ":", ""])
def test_an_address_that_is_none_is_refused(data_dir, listen):
    """--listen takes HOST:PORT; the error repeats what was given instead."""
    line, _ = refused("--data-dir", data_dir, "--listen", listen)
    assert listen in line
    assert "listen" in line


def test_an_address_of_another_machine_is_refused(data_dir):
    """An address that this machine does not have is refused and named."""
    line, _ = refused("--data-dir", data_dir, "--listen", "192.0.2.1:9092", "--allow-plaintext")
    assert line == "takhin: cannot listen on 192.0.2.1:9092: this machine has no such address"


def test_a_mistaken_variable_is_refused(data_dir):
    """The error for a misspelled variable names the nearest known one."""
    line, _ = refused("--data-dir", data_dir, "--listen", "127.0.0.1:0", consume_heartbeat_mz=100)
    assert "TAKHIN_CONSUME_HEARTBEAT_MS" in line


def test_a_missing_config_file_is_refused(data_dir, tmp_path):
    """A missing config file is an error and is not treated as an empty one."""
    line, _ = refused("--data-dir", data_dir, "--config", tmp_path / "absent.toml")
    assert "absent.toml" in line
