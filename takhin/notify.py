"""Tells the service manager that started this process how it is: sd_notify(3), as far as a broker needs it.

systemd and others name a datagram socket in NOTIFY_SOCKET. Without one nothing is done, and a socket that
nobody reads costs a line in the log. Knows nothing of the broker.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog

from takhin.sentences import shown

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"
RETRY_SECONDS = 0.1
"""How long until the manager is told again, if it had no room for a datagram."""
WATCHDOG_SECONDS_MAX = 86_400.0
"""More patience than a day is none of a watchdog's."""

logger = structlog.get_logger()


class ServiceManager:
    """Who started this process and wants to be told; nobody, if the environment names no socket."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """environ: the variables of the process."""
        self._address = _address(environ.get(SOCKET_VARIABLE, ""))
        self._watchdog_seconds = _watchdog_seconds(environ)
        self._failed = False

    @asynccontextmanager
    async def told_that_we_serve(self, status: str) -> AsyncIterator[None]:
        """The manager knows that we serve in the block, and that we are stopping when it ends.

        In the block it hears from the event loop twice in each time that it allows for silence. So a broker
        whose loop is stuck is started again, and one whose disk is slow is not.
        status: for people, on one line.
        """
        if not self._address:
            yield
            return
        telling = asyncio.create_task(self._tell_on(status))
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.wait({telling})
            self._tell("STOPPING=1", "STATUS=stopping")

    async def _tell_on(self, status: str) -> None:
        while not self._tell("READY=1", f"STATUS={status}"):  # noqa: ASYNC110  it has no event for us
            await asyncio.sleep(RETRY_SECONDS)
        while self._watchdog_seconds:
            await asyncio.sleep(self._watchdog_seconds / 2)
            self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> bool:
        """Send one datagram. False if there is no room for it now. Waits for nothing."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)
        except BlockingIOError:
            return False
        except OSError as error:
            if not self._failed:
                logger.warning("service_manager_not_told", reason=error.strerror, said=lines[0])
            self._failed = True
        return True


def _address(name: str) -> str | bytes:
    """The address of a socket by its name, in which @ stands for the zero byte of an abstract one."""
    if name.startswith("@"):
        return b"\0" + os.fsencode(name[1:])
    if name and not name.startswith("/"):
        logger.warning(
            "service_manager_unknown", reason=f"{SOCKET_VARIABLE} is {shown(name)}: no path, no @name"
        )
        return ""
    return name


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    """How long we may be silent; 0 if that is nobody's concern, or another process's."""
    if environ.get(WATCHDOG_PID_VARIABLE, str(os.getpid())) != str(os.getpid()):
        return 0
    try:
        return min(max(0, int(environ.get(WATCHDOG_VARIABLE, "0"))) / 1_000_000, WATCHDOG_SECONDS_MAX)
    except ValueError:
        logger.warning("watchdog_unknown", reason=f"{WATCHDOG_VARIABLE} is no number of microseconds")
        return 0
