"""Those who wait for a log to grow. Owns the waiters of one log; lives on the event loop."""

from __future__ import annotations

import asyncio


class Growth:
    """Wakes everyone who waits for one log."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def wake(self) -> None:
        """Call when the log has grown or was closed. Those who wait go on in the next turn of the loop."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def wait(self) -> None:
        """Return at the next `wake`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
