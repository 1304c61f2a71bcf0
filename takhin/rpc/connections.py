"""Whether all connections are taken. gRPC neither counts its connections nor tells of those it turns away.

So they are counted from outside, in the tables of the system (proc(5)); where there are none, nobody looks.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import structlog

from takhin.broker.broker import Broker

logger = structlog.get_logger()

LOOK_SECONDS = 1.0
DESCRIPTORS = Path("/proc/self/fd")
TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
"""One line for each socket of the machine: its local address, its remote one, and its state."""


class ConnectionWatch:
    """Says so, in the log and in health, while as many connections are open as there may be."""

    def __init__(self, broker: Broker, connections_max: int) -> None:
        self._broker = broker
        self._most = connections_max
        self._task: asyncio.Task[None] | None = None

    def start(self, port: int) -> None:
        """Watch the connections to this port of ours."""
        if DESCRIPTORS.exists() and TABLES[0].exists():
            self._task = asyncio.create_task(self._watch(port))

    async def stop(self) -> None:
        """Watch no longer. Raises nothing, whatever has become of the watch."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _watch(self, port: int) -> None:
        while True:
            try:
                self._note(await asyncio.to_thread(self._count, port))
            except OSError as error:  # of descriptors that are short health tells, too
                logger.debug("connections_not_counted", error=str(error))
            except Exception:  # nothing depends on it: the broker serves on
                logger.exception("connections_not_counted")
            await asyncio.sleep(LOOK_SECONDS)

    def _count(self, port: int) -> int:  # on a thread: on a large machine the tables take some ms
        if len(os.listdir(DESCRIPTORS)) < self._most:  # noqa: PTH208  the names are not needed
            return 0
        established = re.compile(rb": [0-9A-F]+:%04X [0-9A-F]+:[0-9A-F]{4} 01 " % port)
        return sum(len(established.findall(table.read_bytes())) for table in TABLES if table.exists())

    def _note(self, count: int) -> None:
        full = count >= self._most
        if full and self._broker.crowd is None:
            self._broker.crowd = (
                f"all {self._most} connections (rpc.connections_max) are taken, and others are turned away"
            )
            logger.warning("connections_full", connections=count, reason=self._broker.crowd)
        elif not full and self._broker.crowd is not None:
            self._broker.crowd = None
            logger.info("connections_free")
