"""A damaged partition of a running broker: others are served, `health` tells it, `recover` mends it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import grpc
import pytest

import forked
from blackbox.broker_process import Broker, command, environment
from blackbox.clients import connected, create_topic, produce, read_all
from takhin.v1 import takhin_pb2 as pb

PAGE = 16_384


def run(*args: object, **settings: object) -> subprocess.CompletedProcess[str]:
    return forked.run(
        command(*args), env=environment(**settings), capture_output=True, text=True, timeout=60, check=False
    )


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


@pytest.fixture
def filled(data_dir: Path) -> Path:
    """A stopped broker's folder with the topics `good` and `bad`."""
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        for topic in ("good", "bad"):
            create_topic(stub, topic)
            for number in range(60):
                produce(stub, topic, [b"%d-%d " % (number, n) * 100 for n in range(40)])
    return data_dir


def health(broker: Broker) -> tuple[int, dict]:
    done = run("health", "--server", broker.address, "--json")
    return done.returncode, json.loads(done.stdout)


def healthy_again(broker: Broker) -> None:
    end = time.monotonic() + 20
    while health(broker)[0]:
        assert time.monotonic() < end, health(broker)
        time.sleep(0.1)


def test_one_is_mended_while_the_others_are_served(filled):
    """The broker starts on a damaged folder; recover mends it beside the broker, and all is served."""
    path = filled / "topics/bad/0.db"
    flip(path, 9 * PAGE + 9_000)  # the committed offsets
    with Broker(filled) as broker, connected(broker.address) as stub:
        assert broker.ready["topics"] == "2"
        code, said = health(broker)
        assert (code, said["status"]) == (1, "degraded")
        assert str(path) in said["reasons"][0]
        plain = run("health", "--server", broker.address)
        assert plain.returncode == 1
        assert plain.stdout.startswith("degraded: Takhin ")
        assert said["reasons"][0] in plain.stdout
        with pytest.raises(grpc.RpcError) as refused:
            produce(stub, "bad", [b"x"])
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert str(path) in refused.value.details()
        with pytest.raises(grpc.RpcError) as refused:
            read_all(stub, "bad")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len(read_all(stub, "good")) == 2_400
        done = run("recover", "--data-dir", filled)
        assert (done.returncode, done.stderr) == (0, "")
        assert "bad/0: no record is lost" in done.stdout
        healthy_again(broker)
        assert len(read_all(stub, "bad")) == 2_400
        assert produce(stub, "bad", [b"more"]) == 2_400
        assert run("recover", "--data-dir", filled).stdout.startswith("nothing to recover")


def test_damage_that_a_start_does_not_see_is_mended_too(filled):
    """The broker lets go of a partition that it has open, for as long as recover takes."""
    path = filled / "topics/bad/0.db"
    flip(path, path.read_bytes().index(b"2-20 2-20 ") // PAGE * PAGE + 5_000)
    with Broker(filled) as broker, connected(broker.address) as stub:
        assert health(broker)[0] == 0
        assert produce(stub, "bad", [b"more"]) == 2_400
        done = run("recover", "--data-dir", filled, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        (recovered,) = json.loads(done.stdout)
        ((first, beyond),) = recovered["lost"]
        assert first <= 100 < beyond
        healthy_again(broker)
        found = read_all(stub, "bad")
        assert [record.offset for record in found] == [n for n in range(2_401) if not first <= n < beyond]
        assert produce(stub, "bad", [b"more"]) == 2_401


def test_recover_waits_for_a_hold(filled):
    """While files are copied, none of them is changed: recover says why it cannot go on."""
    flip(filled / "topics/bad/0.db", 9 * PAGE + 9_000)
    with Broker(filled) as broker:
        (filled / "hold").touch()
        end = time.monotonic() + 20
        while not (filled / "held").exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        done = run("recover", "--data-dir", filled)
        assert done.returncode == 1
        assert "its files are being copied" in done.stderr
        (filled / "hold").unlink()
        done = run("recover", "--data-dir", filled)
        assert "bad/0: no record is lost" in done.stdout
        healthy_again(broker)


def test_strict_refuses_the_start(filled):
    """With --strict the broker serves all or nothing."""
    path = filled / "topics/bad/0.db"
    flip(path, 9 * PAGE + 9_000)
    done = run("serve", "--strict", "--data-dir", filled, "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "a page does not match its checksum" in line


def test_health_of_nobody(data_dir):
    """Exit code 3 says that no broker answers, 0 that one is healthy."""
    with Broker(data_dir) as broker:
        done = run("health", "--server", broker.address)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("healthy: Takhin ")
    done = run("health", "--server", broker.address)
    assert (done.returncode, done.stdout) == (3, "")
    assert broker.address in done.stderr
    done = run("health", "--server", broker.address, "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["status"] == "unreachable"


def test_health_of_a_broker_that_refuses(data_dir):
    """A broker with more calls than it takes is there, so the exit code is 1 and not 3."""
    with Broker(data_dir) as broker, connected(broker.address) as stub:
        create_topic(stub, "t")
        produce(stub, "t", [b"x"])
    with Broker(data_dir, rpc_calls_max=1) as broker, connected(broker.address) as stub:
        stream = stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="t"))
        next(stream)  # the call is under way
        done = run("health", "--server", broker.address)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("takhin: rpc.calls_max leaves no other call to this client")
        done = run("health", "--server", broker.address, "--json")
        assert (done.returncode, json.loads(done.stdout)["status"]) == (1, "refused")
        stream.cancel()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_question(number):
    """A signal ends the wait for a program that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        with forked.Popen(
            command("health", "--server", f"{host}:{port}"), env=environment(), stderr=subprocess.PIPE
        ) as asking:
            connection, _ = silent.accept()
            with connection:
                asking.send_signal(number)
                _, said = asking.communicate(timeout=20)
        assert (asking.returncode, said) == (128 + number, b"")
