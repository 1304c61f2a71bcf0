"""Closes connections of an address that has too many. gRPC offers no way to do so, nor to refuse them.

So the sockets are found among the process's own descriptors (proc(5)) and shut down, which gRPC takes for the
client's hanging up. No descriptor is duplicated or closed here: should it have become a database file
meanwhile, closing it would drop SQLite's locks.
"""

from __future__ import annotations

import os
import socket
import stat
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from takhin.quotas import address_of

DESCRIPTORS = Path("/proc/self/fd")


class ExcessConnections:
    """Leaves each address its `most` oldest connections.

    Those that came between two looks are taken to be as old as their descriptors are low, which is a guess:
    the system tells no socket's age, and each processor numbers inodes from a range of its own.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[int, None] = {}  # inodes of sockets, the oldest first

    def close(self, ports: Collection[int]) -> Counter[str]:
        """Close the others of those to our ports; returns how many of each address. May run on a thread."""
        found = {inode: (fd, address) for inode, fd, address in _connections(ports)}
        stayed = [inode for inode in self._known if inode in found]
        self._known = dict.fromkeys([*stayed, *sorted(found, key=found.__getitem__)])
        number: Counter[str] = Counter()
        closed: Counter[str] = Counter()
        for inode in self._known:
            fd, address = found[inode]
            number[address] += 1
            if number[address] > self._most:
                with suppress(OSError), _borrowed(fd) as connection:  # it may be gone
                    connection.shutdown(socket.SHUT_RDWR)
                    closed[address] += 1
        return closed


def _connections(ports: Collection[int]) -> Iterator[tuple[int, int, str]]:
    """Inode, descriptor and address of each connection to these ports."""
    for name in os.listdir(DESCRIPTORS):  # noqa: PTH208  the names are all that is needed
        fd = int(name)
        with suppress(OSError):  # closed meanwhile, or not connected
            status = os.fstat(fd)
            if not stat.S_ISSOCK(status.st_mode):
                continue
            with _borrowed(fd) as connection:
                if connection.family not in (socket.AF_INET, socket.AF_INET6):
                    continue
                if connection.getsockname()[1] not in ports:
                    continue
                host, port = connection.getpeername()[:2]
            yield status.st_ino, fd, address_of(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


@contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """The socket of a descriptor, which stays open."""
    connection = socket.socket(fileno=fd)
    try:
        yield connection
    finally:
        connection.detach()
