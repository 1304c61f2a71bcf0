"""A broker that the tests of a file share, and the `takhin` command pointed at it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

import forked
from blackbox.broker_process import Broker, command, environment
from blackbox.clients import CALL_S_MAX, connected, create_topic
from takhin.v1 import takhin_pb2 as pb


@dataclass(frozen=True)
class Takhin:
    """Runs `takhin ARGS` as people do, in a process of its own, with TAKHIN_SERVER set."""

    address: str

    def __call__(self, *args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return self.run(command(*args), stdin)

    def to(self, broker: Broker) -> Takhin:
        """The same runner for another broker."""
        return Takhin(broker.address)

    def run(self, line: list[str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        """Run any command line in the same environment."""
        return forked.run(line, input=stdin, env=self.environ(), capture_output=True, timeout=60)

    def output(self, *args: object, stdin: bytes = b"") -> bytes:
        """Run a command that must succeed; return what it prints on stdout."""
        done = self(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def error(self, *args: object, stdin: bytes = b"") -> str:
        """Run a command that must fail with exit code 1; return its one line on stderr."""
        done = self(*args, stdin=stdin)
        assert done.returncode == 1, done.stderr.decode()
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith("takhin: ")
        return line.removeprefix("takhin: ")

    @contextmanager
    def start(self, *args: object) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command that keeps running; it is ended with the block at the latest."""
        pipe = subprocess.PIPE
        with forked.Popen(
            command(*args), env=self.environ(), stdin=pipe, stdout=pipe, stderr=pipe
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def environ(self) -> dict[str, str]:
        return environment(server=self.address)


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[Broker]:
    """A broker that sends an empty response on idle streams every 100 ms."""
    with Broker(tmp_path_factory.mktemp("broker") / "data", consume_heartbeat_ms=100) as broker:
        yield broker


@pytest.fixture(scope="module")
def takhin(broker) -> Takhin:
    return Takhin(broker.address)


@pytest.fixture
def topic(broker, request) -> Iterator[str]:
    """A topic of the test's own, with one partition."""
    with made_topic(broker, request) as name:
        yield name


@pytest.fixture
def wide_topic(broker, request) -> Iterator[str]:
    """A topic of the test's own, with four partitions."""
    with made_topic(broker, request, 4) as name:
        yield name


@contextmanager
def made_topic(broker: Broker, request, partitions: int = 1) -> Iterator[str]:
    """Create a topic by a gRPC call, because a command takes a third of a second."""
    with connected(broker.address) as stub:
        name = create_topic(stub, request.node.name.partition("[")[0], partitions)
        yield name
        assert stub.DeleteTopic(pb.DeleteTopicRequest(name=name), timeout=CALL_S_MAX).success
