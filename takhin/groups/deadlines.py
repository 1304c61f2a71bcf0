"""The deadlines of one group's members, as timers of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from takhin.groups.events import Arm, Deadline, DeadlinePassed

LATE_MS = 100
CATCH_UP_MS = 500
"""A timer that is so late means that the broker itself stood still: its machine was suspended, or its process
stopped. What members have said meanwhile is not read yet, so their deadlines move by CATCH_UP_MS."""


def now_ms() -> int:
    """The time that groups go by, the event loop's: no change of the machine's clock ends a session."""
    return int(asyncio.get_running_loop().time() * 1_000)


class Deadlines:
    """At most one timer for each member and kind."""

    def __init__(self, passed: Callable[[DeadlinePassed], None]) -> None:
        self._passed = passed
        self._timers: dict[str, dict[Deadline, asyncio.TimerHandle]] = {}

    def arm(self, armed: Arm) -> None:
        """Tell of it at its time, instead of the one of its kind before."""
        self.disarm(armed.member_id, armed.kind)
        loop = asyncio.get_running_loop()
        # A millisecond later than that: the time is a whole number, and must have come.
        timer = loop.call_at((armed.at + 1) / 1_000, self._end, armed)
        self._timers.setdefault(armed.member_id, {})[armed.kind] = timer

    def disarm(self, member_id: str, kind: Deadline) -> None:
        """Forget the one of this kind."""
        timers = self._timers.get(member_id, {})
        if (timer := timers.pop(kind, None)) is not None:
            timer.cancel()
        if not timers:
            self._timers.pop(member_id, None)

    def forget(self, member_id: str) -> None:
        """Forget all of a member."""
        for timer in self._timers.pop(member_id, {}).values():
            timer.cancel()

    def close(self) -> None:
        """Forget all."""
        for member_id in list(self._timers):
            self.forget(member_id)

    def _end(self, armed: Arm) -> None:
        now = now_ms()
        if now - armed.at > LATE_MS:
            self.arm(armed._replace(at=now + CATCH_UP_MS))
            return
        self.disarm(armed.member_id, armed.kind)
        self._passed(DeadlinePassed(armed.member_id, armed.kind, armed.epoch))
