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
    """At most one deadline for each member and kind, and a timer for it.

    A deadline that moves on, as with each sign of life, leaves its timer where it is: when that ends, it is
    set again.
    """

    def __init__(self, passed: Callable[[DeadlinePassed], None]) -> None:
        self._passed = passed
        self._armed: dict[tuple[str, Deadline], Arm] = {}
        self._timers: dict[tuple[str, Deadline], asyncio.TimerHandle] = {}

    def arm(self, armed: Arm) -> None:
        """Tell of it at its time, instead of the one of its kind before."""
        of = armed.member_id, armed.kind
        before = self._armed.get(of)
        self._armed[of] = armed
        if before is None:
            self._set_timer(armed)
        elif armed.at < before.at:
            self._timers.pop(of).cancel()
            self._set_timer(armed)

    def disarm(self, member_id: str, kind: Deadline) -> None:
        """Forget the one of this kind."""
        if self._armed.pop((member_id, kind), None) is not None:
            self._timers.pop((member_id, kind)).cancel()

    def forget(self, member_id: str) -> None:
        """Forget all of a member."""
        for kind in Deadline:
            self.disarm(member_id, kind)

    def close(self) -> None:
        """Forget all."""
        for of in list(self._armed):
            self.disarm(*of)

    def _set_timer(self, armed: Arm) -> None:
        loop, of = asyncio.get_running_loop(), (armed.member_id, armed.kind)
        # A millisecond later than that: the time is a whole number, and must have come.
        self._timers[of] = loop.call_at((armed.at + 1) / 1_000, self._end, *of)

    def _end(self, member_id: str, kind: Deadline) -> None:
        armed, now = self._armed[member_id, kind], now_ms()
        if now - armed.at > LATE_MS:
            armed = self._armed[member_id, kind] = armed._replace(at=now + CATCH_UP_MS)
        if now < armed.at:  # it has moved on
            self._set_timer(armed)
        else:
            self.disarm(member_id, kind)
            self._passed(DeadlinePassed(member_id, kind, armed.epoch))
