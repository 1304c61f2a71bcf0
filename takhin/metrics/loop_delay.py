"""How late the event loop is: whatever occupies it makes every call wait so long."""

from __future__ import annotations

import asyncio
import time

from takhin.meters import Histogram

EVERY_SECONDS = 0.1
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""The loop's own clock has a resolution of 1 ms, so most of what is below that says nothing."""


class LoopDelay:
    """Asks the loop for a turn again and again, and measures how late it comes. Life: `start`, `stop`."""

    def __init__(self) -> None:
        self.seconds = Histogram(BOUNDS)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Measure from now on."""
        self._ask(asyncio.get_running_loop())

    def stop(self) -> None:
        """Measure no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        due = time.perf_counter() + EVERY_SECONDS
        self._timer = loop.call_later(EVERY_SECONDS, self._turn, loop, due)

    def _turn(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.seconds.observe(max(0.0, time.perf_counter() - due))
        self._ask(loop)
