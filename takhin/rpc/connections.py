"""Whether all connections are taken. gRPC neither counts its connections nor tells of those it turns away.

So they are counted from outside, in the tables of the system (proc(5)); where there are none, nobody looks.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path

import structlog

from takhin.broker.broker import Broker
from takhin.model import NO_LIMIT
from takhin.rpc.excess_connections import ExcessConnections
from takhin.settings.security import UNIX, ListenAddress

logger = structlog.get_logger()

LOOK_SECONDS = 1.0
DESCRIPTORS = Path("/proc/self/fd")
TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
"""One line for each socket of the machine: its local address, its remote one, and its state."""
UNIX_TABLE = Path("/proc/self/net/unix")
"""One line for each Unix socket of the machine: its type and state, and the path that it was made with."""
FULL = "connections_full"
"""The name of the event, and of what the broker's health has to say of it."""


class ConnectionWatch:
    """Says so, in the log and in health, while a listener has as many connections as there may be.

    It also closes those that an address has beyond quotas.address_connections.
    """

    def __init__(self, broker: Broker, connections_max: int, address_connections: int = NO_LIMIT) -> None:
        self._broker = broker
        self._of_address = address_connections
        self._most = connections_max
        self._task: asyncio.Task[None] | None = None

    def start(self, addresses: Sequence[ListenAddress]) -> None:
        """Watch the connections to these addresses of ours."""
        self._several = len(addresses) > 1
        if DESCRIPTORS.exists() and TABLES[0].exists():
            self._task = asyncio.create_task(self._watch(addresses))

    async def stop(self) -> None:
        """Watch no longer. Raises nothing, whatever has become of the watch."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _watch(self, addresses: Sequence[ListenAddress]) -> None:
        most = self._of_address
        excess = None if most == NO_LIMIT else ExcessConnections(most)
        ports = {address.port for address in addresses if address.kind != UNIX}
        while True:
            try:
                if excess is not None:
                    for address, number in (await asyncio.to_thread(excess.close, ports)).items():
                        logger.warning("connections_over_quota", address=address, closed=number, most=most)
                self._note(await asyncio.to_thread(self._full, addresses))
            except OSError as error:  # of descriptors that are short health tells, too
                logger.debug("connections_not_counted", error=str(error))
            except Exception:  # nothing depends on it: the broker serves on
                logger.exception("connections_not_counted")
            await asyncio.sleep(LOOK_SECONDS)

    def _full(self, addresses: Sequence[ListenAddress]) -> list[str]:
        """The addresses at which all connections are taken. gRPC allows so many at each."""
        # On a thread: on a large machine the tables take some ms.
        if len(os.listdir(DESCRIPTORS)) < self._most:  # noqa: PTH208  the names are not needed
            return []
        tcp = [table.read_bytes() for table in TABLES if table.exists()]
        unix = [UNIX_TABLE.read_bytes()] if UNIX_TABLE.exists() else []
        return [
            str(address)
            for address in addresses
            if _count(address, unix if address.kind == UNIX else tcp) >= self._most
        ]

    def _note(self, full: Sequence[str]) -> None:
        known = FULL in self._broker.concerns
        if full and not known:
            to = f" to {' and '.join(full)}" if self._several else ""
            taken = f"all {self._most} connections (rpc.connections_max){to} are taken"
            reason = f"{taken}, and others are turned away"
            self._broker.concerns[FULL] = reason
            logger.warning(FULL, addresses=list(full), reason=reason)
        elif known and not full:
            del self._broker.concerns[FULL]
            logger.info("connections_free")


def _count(address: ListenAddress, tables: Sequence[bytes]) -> int:
    """How many connections to an address are established."""
    if address.kind == UNIX:
        established = re.compile(
            rb" 0001 03 +[0-9]+ %b$" % re.escape(os.fsencode(address.path)), re.MULTILINE
        )
    else:
        established = re.compile(rb": [0-9A-F]+:%04X [0-9A-F]+:[0-9A-F]{4} 01 " % address.port)
    return sum(len(established.findall(table)) for table in tables)
