"""Cyclic garbage: Python seldom looks for it among all objects, because everything else waits meanwhile.

By itself CPython (3.11 to 3.13) does so whenever a quarter more objects have outlived its younger
generations. In a broker that is often and in vain: what the call of a long stream holds lives for seconds and
is then freed by its reference counts. With 1,000 members of groups the loop stood still for 40 to 100 ms
every 15 s, and nothing was found. The younger generations, where the cycles of gRPC's calls end, are looked
at as ever.
"""

from __future__ import annotations

import asyncio
import gc
import time

from takhin.memory import resident_bytes

LOOK_S = 1.0
"""How often the process's memory is looked at."""
EVERY_S_MIN, EVERY_S_MAX = 30.0, 600.0
"""After so long all objects are looked at in any case: twice as long each time that little was found."""
LITTLE = 2_000
"""As many objects can be garbage of the calls of this moment."""
GROWTH = 1.25
GROWTH_BYTES = 64 << 20
"""All objects are looked at when the process holds `GROWTH` times as much as before and these bytes more."""
YOUNG, MIDDLE, OLD = 700, 4, (1 << 31) - 1
"""Thresholds of the three generations. The middle one is kept small. With 200 for the first, small produce
calls take 4 to 10 % more of a processor."""
YOUNG_S = 0.1
"""How often the young are looked at in any case. CPython counts new objects less those that are freed, of any
age. Where each message of a long stream puts 30 new objects in the place of 30 old ones, as heartbeats do, it
looks at nothing until 50,000 are young, which takes 25 ms."""


def spare_old_objects() -> None:
    """Let Python pass over all that there is now, for good, and over all that becomes old until `collect`."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)


async def look_at_young() -> None:
    """Look for garbage among the young where CPython does not do so by itself. Never returns."""
    while True:
        looks = gc.get_stats()[1]["collections"]
        await asyncio.sleep(YOUNG_S)
        if gc.get_stats()[1]["collections"] == looks:
            gc.collect(1)


async def collect() -> None:
    """Look for garbage among the old objects when the process has grown, and now and then. Never returns."""
    least, looked_at, every_s = resident_bytes(), time.monotonic(), EVERY_S_MIN
    while True:
        await asyncio.sleep(LOOK_S)
        now, held = time.monotonic(), resident_bytes()
        least = min(least, held)
        if held > GROWTH * least + GROWTH_BYTES or now - looked_at >= every_s:
            every_s = next_every_s(every_s, gc.collect())
            least, looked_at = resident_bytes(), time.monotonic()


def next_every_s(every_s: float, found: int) -> float:
    """After how many seconds to look again, where so many objects were found to be garbage."""
    return min(2 * every_s, EVERY_S_MAX) if found < LITTLE else EVERY_S_MIN
