"""The bound on what waits for its commit, all partitions together. Pure bookkeeping on the loop."""

from __future__ import annotations

import asyncio
from collections import deque

from takhin.errors import OverloadedError


class Admission:
    """Counts queued bytes and lets producers in, first come first served, while there is room.

    The bound is passed by at most one batch, so that a batch of any allowed size gets through.
    """

    def __init__(self, *, bytes_max: int, wait_ms_max: int) -> None:
        self.bytes_max = bytes_max
        self._wait_ms_max = wait_ms_max
        self._bytes = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def queued_bytes(self) -> int:
        return self._bytes

    @property
    def waiters(self) -> int:
        """How many requests wait for room."""
        return len(self._waiters)

    @property
    def has_room(self) -> bool:
        return self._bytes < self.bytes_max

    def add(self, size_bytes: int) -> None:
        self._bytes += size_bytes

    def remove(self, size_bytes: int) -> None:
        self._bytes -= size_bytes
        self._wake_next()

    async def room(self) -> None:
        """Return when there is room. Raises OverloadedError after the longest wait."""
        if self.has_room and not self._waiters:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self._wait_ms_max / 1_000):
                await waiter
        except TimeoutError:
            raise OverloadedError(
                f"{self._bytes} bytes wait for their commit (the limit is {self.bytes_max}), and no room "
                f"came up within {self._wait_ms_max} ms",
                queued_bytes=self._bytes,
                queued_bytes_max=self.bytes_max,
            ) from None
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            # The one let in adds its bytes before the next one looks: one at a time keeps the bound.
            asyncio.get_running_loop().call_soon(self._wake_next)

    def _wake_next(self) -> None:
        while self._waiters and self.has_room:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
