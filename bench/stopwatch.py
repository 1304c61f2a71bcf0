"""What a part of a load took by the clock, and of processors in this process and in the server.

The server is found by the port on which it listens (Linux's /proc), so that any system is measured alike.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from bench.common import Figures, rate
from bench.process import cpu_seconds

LISTENING = "0A"
"""A socket's state in /proc/net/tcp."""
STATE, INODE = 3, 9
"""Positions in a line there."""


class Stopwatch:
    """Runs from when it is made.

    server_pid: of the server that is measured in this process; None where there is none.
    """

    server_pid: ClassVar[int | None] = None

    def __init__(self) -> None:
        self._server = _spent(self.server_pid)
        self._client = time.process_time()
        self._began = time.perf_counter()

    def rate(self, records: int, size_bytes: int) -> Figures:
        """Throughput until now, and what a record took of processors, in µs: client_us and server_us."""
        took = time.perf_counter() - self._began
        client, server = time.process_time() - self._client, _spent(self.server_pid) - self._server
        us = 1e6 / records
        return rate(took, records, size_bytes) | {"client_us": client * us, "server_us": server * us}


def _spent(pid: int | None) -> float:
    return 0.0 if pid is None else cpu_seconds(pid)


def pid_of(address: str) -> int | None:
    """The process that listens on HOST:PORT; None if there is none, or the address is none."""
    port = address.rpartition(":")[2]
    if not port.isdigit():
        return None
    sockets = {f"socket:[{inode}]" for inode in _listening(int(port))}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it is closed by now, or another user's
            if str(link.readlink()) in sockets:
                return int(link.parts[2])
    return None


def _listening(port: int) -> list[str]:
    """The inodes of the sockets that listen on a port."""
    inodes = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[STATE] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.append(fields[INODE])
    return inodes
