"""Failed attempts to get in, by address: counted, limited, and logged without filling the log."""

from __future__ import annotations

import asyncio

import structlog

from takhin.errors import OverloadedError

logger = structlog.get_logger()

WINDOW_SECONDS = 60.0
HOSTS_MAX = 4_096
"""Addresses remembered; beyond it, the one that was silent longest is forgotten."""
LINES_PER_WINDOW_MAX = 100
"""Lines about all addresses in a minute."""
RETRY_MS = 10_000


class Host:
    """The failed attempts of one address. since: of the loop's time. unsaid: not logged yet."""

    __slots__ = ("count", "since", "unsaid")

    def __init__(self, since: float) -> None:
        self.since = since
        self.count = 0
        self.unsaid = 0


class Attempts:
    """Failed attempts of the last minute. Only those who fail are told to wait: a right token gets in."""

    def __init__(self, per_minute_max: int) -> None:
        self._most = per_minute_max
        self._hosts: dict[str, Host] = {}  # the one that was silent longest comes first
        self._lines_since = 0.0
        self._lines = 0

    def failed(self, host: str, method: str, reason: str) -> None:
        """Count and log an attempt that failed. Raises OverloadedError once there were too many.

        reason: for the log alone. It must not have any of what was presented.
        """
        now = asyncio.get_running_loop().time()
        of = self._hosts.pop(host, None)
        if of is None or now - of.since >= WINDOW_SECONDS:
            of = Host(now)
        self._hosts[host] = of
        if len(self._hosts) > HOSTS_MAX:
            del self._hosts[next(iter(self._hosts))]
        of.count += 1
        of.unsaid += 1
        if of.count & (of.count - 1) == 0 and self._may_log(now):  # the 1st, 2nd, 4th, 8th, …
            logger.warning(
                "authentication_failed", address=host, method=method, reason=reason, attempts=of.unsaid
            )
            of.unsaid = 0
        if of.count > self._most:
            error = OverloadedError(
                f"{self._most} attempts of this address have failed within a minute "
                "(access.failures_per_minute_max)"
            )
            error.retry_ms = RETRY_MS
            raise error

    def _may_log(self, now: float) -> bool:
        if now - self._lines_since >= WINDOW_SECONDS:
            self._lines_since, self._lines = now, 0
        self._lines += 1
        return self._lines <= LINES_PER_WINDOW_MAX
