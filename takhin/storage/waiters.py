"""Those who wait for something to happen once. Lives on the event loop."""

from __future__ import annotations

import asyncio


class Waiters:
    """Wakes everyone who waits: for a log to grow, or for a file to rest."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def wake(self) -> None:
        """Let those who wait now go on, in the next turn of the loop."""
        if not self._waiting:
            return
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    async def wait(self) -> None:
        """Return at the next `wake`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)
