"""Tells on stderr what a command waits for, where the client tries again and again by itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable
from dataclasses import dataclass, field

import click

from takhin.cli.streams import stderr_has_room
from takhin.client import Retry
from takhin.client.errors import UnreachableError
from takhin.errors import UnavailableError

TELL_S = 1.5
"""How long a failure lasts before stderr names it: a broker that restarts needs less."""
FORGET_S = 10.0
"""After so long without a failure the next one is another one, and is told again."""


@dataclass(slots=True)
class _Outage:
    began: float
    failed: float
    told: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TellingRetry(Retry):
    """The client's own policy, which tells the reason of each outage once."""

    _outages: dict[Hashable, _Outage] = field(default_factory=dict, init=False, compare=False)
    """By what failed: the broker as a whole, or one partition of it."""

    def wait_s(self, failures: int, error: UnavailableError) -> float | None:
        """As in Retry. Runs on the clients' thread, which must not wait for whoever reads stderr."""
        if isinstance(error, UnreachableError):  # the client warns of that: see _Warnings
            return Retry.wait_s(self, failures, error)
        now = time.monotonic()
        what = type(error), error.details.get("topic"), error.details.get("partition")
        outage = self._outages.get(what)
        if outage is None or now - outage.failed > FORGET_S:
            outage = self._outages[what] = _Outage(now, now)
        outage.failed = now
        lasts = failures > 1 and now - outage.began >= TELL_S  # one failure is an old connection, or the like
        if lasts and not outage.told and stderr_has_room():
            outage.told = True
            click.echo(f"takhin: still waiting: {' '.join(str(error).splitlines())}", err=True)
        return Retry.wait_s(self, failures, error)


class _Warnings(logging.Handler):
    """Shows what the client warns of when it waits for a broker: that no broker answers, and why."""

    def emit(self, record: logging.LogRecord) -> None:
        if stderr_has_room():  # the clients' thread must not wait for whoever reads stderr
            click.echo(f"takhin: {' '.join(record.getMessage().splitlines())}", err=True)


logging.getLogger("takhin.client.outage").addHandler(_Warnings(logging.WARNING))
