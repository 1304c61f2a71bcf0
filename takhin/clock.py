"""The time, as a function that tests can replace."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns milliseconds since 1970-01-01T00:00Z."""


def system_clock() -> int:
    """The machine's clock: milliseconds since 1970-01-01T00:00Z."""
    return time.time_ns() // 1_000_000
