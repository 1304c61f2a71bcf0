"""Loads of calls with one record each, for any client: the client passes a function that makes one call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from bench.common import Figures, latencies
from bench.loads import Load, Results
from bench.stopwatch import Stopwatch

Call = Callable[[], Awaitable[object]]
"""Makes one call and returns when its record is acknowledged. Raises if it is refused."""


async def serial(call: Call, load: Load) -> Results:
    """Make the calls one after the other."""
    for _ in range(load.warm_up):
        await _timed(call)
    return {"call": latencies([await _timed(call) for _ in range(load.requests)])}


async def concurrent(call: Call, load: Load) -> Results:
    """Make as many calls at a time as the load says, then send them at half of the rate reached."""
    await _at_a_time(call, load.in_flight, max(load.warm_up, load.in_flight))
    watch = Stopwatch()
    seconds = await _at_a_time(call, load.in_flight, load.requests)
    produce = watch.rate(load.requests, load.requests * load.payload().size_bytes) | latencies(seconds)
    half = await _paced(call, produce["records_per_s"] / 2, load.requests // 2)
    return {"produce": produce, "half_load": half}


async def _timed(call: Call) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


async def _at_a_time(call: Call, in_flight: int, count: int) -> list[float]:
    """Make the calls, so many at a time; returns the seconds that each took."""
    left = iter(range(count))

    async def worker() -> list[float]:
        return [await _timed(call) for _ in left]

    async with asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(worker()) for _ in range(in_flight)]
    return [seconds for of in workers for seconds in of.result()]


async def _paced(call: Call, calls_per_s: float, count: int) -> Figures:
    """Send calls at even intervals, however long the answers take; each latency counts from the sending."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        calls = []
        for number in range(count):
            ahead = began + number / calls_per_s - time.perf_counter()
            await asyncio.sleep(max(ahead, 0))
            calls.append(tasks.create_task(_timed(call)))
    return {"records_per_s": calls_per_s} | latencies(done.result() for done in calls)
