"""Starts a Kafka for the benchmarks: one node, broker and controller in one process, on the loopback.

Its jars are in .venv/kafka, where scripts/fetch-kafka puts them. The options of the JVM are those of Kafka's
own start script. What an acknowledgement means is the caller's choice: synced, by
log.flush.interval.messages=1, or with Kafka's default, which leaves that to the operating system.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from bench.common import ended, free_port

JARS = Path(__file__).parent.parent / ".venv" / "kafka"
START_SECONDS_MAX = 60
JVM_OPTIONS = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-Djava.awt.headless=true")


def missing() -> list[str]:
    """A sentence for each thing that is not here, with how to get it."""
    sentences = []
    if find_spec("confluent_kafka") is None:
        sentences.append("Python lacks confluent-kafka (pip install -e '.[bench]')")
    if shutil.which("java") is None:
        sentences.append("java is not installed (Debian: openjdk-17-jre-headless)")
    if not (JARS / "fetched").exists():
        sentences.append("Kafka is not fetched (scripts/fetch-kafka)")
    return sentences


@contextmanager
def serve(folder: Path, *, synced: bool) -> Iterator[str]:
    """Run a Kafka with its data in `folder`, which is empty; yields its address."""
    port, controller = free_port(), free_port()
    properties = folder / "server.properties"
    properties.write_text(_properties(folder / "data", port, controller, synced=synced))
    # As Kafka writes a UUID; one that begins with "-" would be taken for an option.
    identity = urlsafe_b64encode(b"\1" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
    with (folder / "log").open("w") as log:
        subprocess.run(
            [*_java("kafka.tools.StorageTool"), "format", "-t", identity, "-c", properties],
            stdout=log,
            stderr=log,
            check=True,
        )
        command = [*_java("kafka.Kafka"), str(properties)]
        with subprocess.Popen(command, stdout=log, stderr=log, text=True) as process, ended(process):
            _wait_until_up(process, port, folder / "log")
            yield f"127.0.0.1:{port}"


def version() -> str:
    """The version of the jars."""
    (jar,) = JARS.glob("kafka_2.13-*.jar")
    return jar.stem.partition("-")[2]


def _java(program: str) -> list[str]:
    return ["java", *JVM_OPTIONS, "-cp", f"{JARS}/*", program]


def _properties(data: Path, port: int, controller: int, *, synced: bool) -> str:
    """One copy of everything, and members that join are served at once; else Kafka's defaults."""
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data),
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
    }
    if synced:
        properties["log.flush.interval.messages"] = "1"
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def _wait_until_up(process: subprocess.Popen[str], port: int, log: Path) -> None:
    """Return when the broker's port takes connections, which it does once it can serve them."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text().strip().splitlines()
                raise RuntimeError("Kafka does not start: " + "\n".join(said[-5:])) from None
            time.sleep(0.1)
        else:
            return
