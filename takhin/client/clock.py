"""The clock of all of the client's deadlines."""

from __future__ import annotations

import time


def monotonic() -> float:
    """Seconds, as time.monotonic() counts them on Unix, which is also what event loops go by.

    This stays the real clock where a test freezes time (freezegun and time-machine replace time.monotonic):
    with a clock that stands still no wait would ever end.
    """
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def timeout_of_call(seconds: float) -> float:
    """The timeout to give gRPC for a call of `seconds`: it adds time.time(), which may be frozen as well."""
    return seconds + time.clock_gettime(time.CLOCK_REALTIME) - time.time()
