"""Wakes those who wait for a log's end to move. Owns the waiters; lives on the event loop."""

from __future__ import annotations

import asyncio

from takhin.storage.contract import PartitionLog


class Signals:
    """Waiters by log. `notify` fits an engine's `end_moved`."""

    def __init__(self) -> None:
        self._waiters: dict[PartitionLog, set[asyncio.Future[None]]] = {}

    def notify(self, log: PartitionLog) -> None:
        """Wake everyone who waits for this log, at once."""
        for waiter in self._waiters.pop(log, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, log: PartitionLog, seconds: float) -> bool:
        """Return True at the log's next notification, False if `seconds` pass without one."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(log, set()).add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return False
        else:
            return True
        finally:
            if waiters := self._waiters.get(log):
                waiters.discard(waiter)
                if not waiters:
                    del self._waiters[log]
