"""The calls that come while the broker stops.

Those that gRPC has not handed over when its server stops end as CANCELLED, without a reason. And a call that
is refused before its client knows that the connection closes is often made again at once. So in the end all
that come are taken in and held, gRPC is told to stop, which tells the clients, and then they are refused.
"""

from __future__ import annotations

import asyncio
import time

QUIET_SECONDS = 0.1
"""When for so long no call has come, gRPC has none at hand, and no client is about to make one again."""
SECONDS_MAX = 1.0
"""How long that is waited for."""


class LastCalls:
    """Knows when the last call came. Life: `came` with each call, then `hold`, then `release`."""

    def __init__(self, held_max: int) -> None:
        """held_max: of so many calls; those beyond it are refused at once."""
        self._left = held_max
        self._came = -QUIET_SECONDS
        self._released: asyncio.Event | None = None

    def came(self) -> None:
        """A call has come."""
        self._came = time.monotonic()

    async def before_refusal(self) -> None:
        """Wait, if calls are held, until they are refused."""
        if self._released is not None and self._left > 0:
            self._left -= 1
            await self._released.wait()

    async def hold(self) -> None:
        """Hold calls from now on. Returns when no more of them come, or after SECONDS_MAX."""
        self._released = asyncio.Event()
        began = time.monotonic()
        while (now := time.monotonic()) < min(self._came + QUIET_SECONDS, began + SECONDS_MAX):  # noqa: ASYNC110
            await asyncio.sleep(self._came + QUIET_SECONDS - now)

    def release(self) -> None:
        """Let the calls that are held be refused."""
        if self._released is not None:
            self._released.set()
