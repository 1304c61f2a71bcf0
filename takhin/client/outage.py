"""Since when a client has had no connection to its broker, and the one warning about that in the log.

Knows nothing of channels: connection.py tells it what becomes of them.
"""

from __future__ import annotations

import logging

from takhin.client.clock import monotonic
from takhin.client.errors import UnreachableError

logger = logging.getLogger("takhin.client.outage")

TELL_SECONDS = 2.0
"""How long there is no connection before the log says so: a broker that restarts needs less."""
FORGET_SECONDS = 10.0
"""After so long without an attempt the next one that fails begins an outage of its own."""
NEVER = float("-inf")


class Outage:
    """The time without a connection to `server`, if there is one."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._began = 0.0
        self._seen = NEVER
        self._told = False
        self._error: UnreachableError | None = None
        self.connected_once = False
        """True from the first connection on: then somebody has shown that the settings are right."""

    def over(self) -> None:
        """A connection has come about."""
        self.connected_once = True
        self._seen = NEVER

    def lasts(self, error: UnreachableError | None = None) -> float:
        """An attempt waits, or has failed with `error`. Warns when it is time to, once in an outage.

        Returns how many seconds from now the warning is due; a large number when it was given.
        """
        now = monotonic()
        if now - self._seen > FORGET_SECONDS:
            self._began, self._told, self._error = now, False, None
        self._seen = now
        self._error = error or self._error
        if not self._told and now - self._began >= TELL_SECONDS:
            self._told = True
            logger.warning("still waiting: %s", self._error or f"no broker answers at {self._server}")
        return FORGET_SECONDS / 2 if self._told else self._began + TELL_SECONDS - now
