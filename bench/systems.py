"""The systems that are compared: what an acknowledgement of each means, and what each needs here.

The module of a system starts its server (`serve`), tells its versions (`version`) and carries out loads
(`measure`). Importing this file needs none of them, so that a peer that is not installed can be left out
with a sentence that says how to install it.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import kafka_server
from bench.loads import Load, Results
from bench.stopwatch import Stopwatch, pid_of

FETCHED = Path(__file__).parent.parent / ".venv" / "nats"
"""Where scripts/fetch-nats puts a newer nats-server than Debian has."""
NATS, NATS_SYNCS = "nats-server", (2, 12)
"""The first version that syncs whatever it acknowledges, if it is told to."""
ADMIN_PATH = "/usr/sbin:/sbin"
"""Folders where Debian puts some servers, and which are not always in a user's PATH."""


@dataclass(frozen=True, slots=True)
class System:
    """A system to compare. durability: what has happened to an acknowledged record, for people.

    packages: the Python packages it needs besides ours. program: its server, if that is not ours.
    lacks: says what else is missing, a sentence each. synced: False if an acknowledged record may get lost.
    shares: the system whose running server this one uses. function: the module's function for `measure`;
    server: that for `serve`.
    """

    key: str
    title: str
    durability: str
    module: str
    packages: tuple[str, ...] = ()
    program: str = ""
    shares: str = ""
    function: str = "measure"
    server: str = "serve"
    lacks: Callable[[], list[str]] = list
    synced: bool = True

    def missing(self) -> list[str]:
        """A sentence for each thing that is not installed, with how to install it."""
        packages = [name for name in self.packages if find_spec(name) is None]
        sentences = []
        if packages:
            sentences.append(f"Python lacks {' and '.join(packages)} (pip install -e '.[bench]')")
        if self.program and not self.program_path():
            sentences.append(f"{self.program} is not installed (as root: scripts/install-packages bench)")
        return sentences + self.lacks()

    def program_path(self) -> str:
        """The path of the server; empty if the server is ours, or not found."""
        return shutil.which(self.program, path=f"{FETCHED}:{os.environ.get('PATH', '')}:{ADMIN_PATH}") or ""

    def load_module(self) -> Any:
        return importlib.import_module(f"bench.{self.module}")

    @contextmanager
    def serve(self, folder: Path) -> Iterator[str]:
        """Run the server with its data below `folder`; yields the address that `measure` takes."""
        with (
            tempfile.TemporaryDirectory(prefix=f"{self.key}-", dir=folder) as data_dir,
            getattr(self.load_module(), self.server)(Path(data_dir), self.program_path()) as address,
        ):
            yield address

    def measure(self, address: str, load: Load) -> Results:
        """Carry out a load in the calling process. The result is empty if the system cannot do it."""
        Stopwatch.server_pid = pid_of(address)
        results: Results = getattr(self.load_module(), self.function)(address, load)
        return results


def _nats_cannot_sync() -> list[str]:
    """A sentence if the nats-server that is here is too old to sync always."""
    program = System("", "", "", "", program=NATS).program_path()
    if not program:
        return []
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v(\d+)\.(\d+)", said)
    if found and (int(found[1]), int(found[2])) < NATS_SYNCS:
        return [f"{said.strip()} is older than {'.'.join(map(str, NATS_SYNCS))} (scripts/fetch-nats)"]
    return []


SYSTEMS = (
    System("takhin", "Takhin", "acknowledges when synced (SQLite WAL, synchronous=FULL)", "takhin_client"),
    System(
        "redis",
        "Redis Streams",
        "acknowledges when synced (appendfsync always)",
        "peer_redis",
        packages=("redis", "hiredis"),
        program="redis-server",
    ),
    System(
        "redis-4",
        "Redis, 4 connections",
        "the same server; four producers, with no order between them",
        "peer_redis",
        packages=("redis", "hiredis"),
        program="redis-server",
        shares="redis",
        function="measure_four",
    ),
    System(
        "nats-always",
        "NATS, always",
        "acknowledges when synced (JetStream, sync_interval: always)",
        "peer_nats",
        packages=("nats",),
        program=NATS,
        server="serve_synced",
        lacks=_nats_cannot_sync,
    ),
    System(
        "nats",
        "NATS JetStream",
        "acknowledges BEFORE it syncs (file storage, synced every two minutes)",
        "peer_nats",
        packages=("nats",),
        program=NATS,
        synced=False,
    ),
    System(
        "kafka",
        "Kafka",
        "acknowledges when synced (log.flush.interval.messages=1)",
        "peer_kafka",
        lacks=kafka_server.missing,
    ),
    System(
        "kafka-defaults",
        "Kafka, client's defaults",
        "the same server; librdkafka as it comes",
        "peer_kafka",
        lacks=kafka_server.missing,
        shares="kafka",
        function="measure_defaults",
    ),
    System(
        "kafka-unsynced",
        "Kafka, unsynced",
        "acknowledges BEFORE it syncs (Kafka's default)",
        "peer_kafka",
        lacks=kafka_server.missing,
        server="serve_unsynced",
        synced=False,
    ),
    System("echo", "grpcio echo", "a floor: answers the same messages and keeps nothing", "echo"),
    System("apsw", "bare apsw", "a floor: no transport; commits each batch, synchronous=FULL", "peer_apsw"),
)
