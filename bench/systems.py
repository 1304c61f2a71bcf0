"""The systems that are compared: what an acknowledgement of each means, and what each needs here.

The module of a system starts its server (`serve`), tells its versions (`version`) and carries out loads
(`measure`). Importing this file needs none of them, so that a peer that is not installed can be left out
with a sentence that says how to install it.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.loads import Load, Results

ADMIN_PATH = "/usr/sbin:/sbin"
"""Folders where Debian puts some servers, and which are not always in a user's PATH."""


@dataclass(frozen=True, slots=True)
class System:
    """A system to compare. durability: what has happened to an acknowledged record, for people.

    packages: the Python packages it needs besides ours. program: its server, if that is not ours.
    shares: the system whose running server this one uses. function: the module's function for `measure`.
    """

    key: str
    title: str
    durability: str
    module: str
    packages: tuple[str, ...] = ()
    program: str = ""
    shares: str = ""
    function: str = "measure"

    def missing(self) -> list[str]:
        """A sentence for each thing that is not installed, with how to install it."""
        packages = [name for name in self.packages if find_spec(name) is None]
        sentences = []
        if packages:
            sentences.append(f"Python lacks {' and '.join(packages)} (pip install -e '.[bench]')")
        if self.program and not self.program_path():
            sentences.append(f"{self.program} is not installed (as root: scripts/install-packages bench)")
        return sentences

    def program_path(self) -> str:
        """The path of the server; empty if the server is ours, or not found."""
        return shutil.which(self.program, path=f"{os.environ.get('PATH', '')}:{ADMIN_PATH}") or ""

    def load_module(self) -> Any:
        return importlib.import_module(f"bench.{self.module}")

    @contextmanager
    def serve(self, folder: Path) -> Iterator[str]:
        """Run the server with its data below `folder`; yields the address that `measure` takes."""
        with (
            tempfile.TemporaryDirectory(prefix=f"{self.key}-", dir=folder) as data_dir,
            self.load_module().serve(Path(data_dir), self.program_path()) as address,
        ):
            yield address

    def measure(self, address: str, load: Load) -> Results:
        """Carry out a load in the calling process. The result is empty if the system cannot do it."""
        results: Results = getattr(self.load_module(), self.function)(address, load)
        return results


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
        "nats",
        "NATS JetStream",
        "acknowledges BEFORE it syncs (file storage, synced every two minutes)",
        "peer_nats",
        packages=("nats",),
        program="nats-server",
    ),
    System("echo", "grpcio echo", "a floor: answers the same messages and keeps nothing", "echo"),
    System("apsw", "bare apsw", "a floor: no transport; commits each batch, synchronous=FULL", "peer_apsw"),
)
