"""A broker whose event loop is watched: run as a program, with the data folder and settings as arguments.

It prints its address. For each line on stdin it prints how long the longest turn of its loop has been since
the line before: as time on a clock, and as time of the processor, both in ms. A turn is taken for as long as
a timer is late that was due in it. What the machine gives to others meanwhile is in the first number only.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop

from takhin import garbage
from takhin.config import load
from takhin.server import Server

TICK_SECONDS = 0.001


class Watch:
    """The longest turn of the running loop."""

    def __init__(self) -> None:
        self.forget()
        asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def forget(self) -> None:
        self.late_ms = self.busy_ms = 0.0
        self._at, self._used = time.perf_counter(), time.thread_time()

    def _tick(self) -> None:
        now, used = time.perf_counter(), time.thread_time()
        late, busy = now - self._at - TICK_SECONDS, used - self._used
        self.late_ms = max(self.late_ms, late * 1_000)
        self.busy_ms = max(self.busy_ms, min(late, busy) * 1_000)
        self._at, self._used = now, used
        asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)


async def main(data_dir: str, *flags: str) -> None:
    settings = {"data_dir": data_dir, "listen": "127.0.0.1:0"} | dict(flag.split("=", 1) for flag in flags)
    server = Server(load(settings, {}, None).settings)
    await server.start()
    print(server.address, flush=True)
    garbage.spare_old_objects()  # as `takhin serve` does
    looking = asyncio.create_task(garbage.look_at_young())
    watch = Watch()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        print(f"{watch.late_ms:.1f} {watch.busy_ms:.1f}", flush=True)
        watch.forget()
    looking.cancel()
    await server.stop()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
