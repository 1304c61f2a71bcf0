"""What glibc does with memory that is free again: a flood of large requests must not be kept for ever.

By itself glibc takes large blocks from its heaps after a while, and returns only what is free at the end of a
heap. Where there is another malloc, nothing is done.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""The numbers of options in glibc's malloc.h."""
HEAPS_MAX = 4
"""By itself glibc makes eight heaps for each core, and what is free in one is no use to threads of another. A
flood of calls that are cancelled at once takes 60 MiB with 4 heaps, and 120 MiB or more without a bound."""
LARGE_BLOCK_BYTES = 1_536 << 10
"""More than a response usually has: to get such a block and to give it back takes some 0.1 ms."""
KEPT_BYTES = 16 << 20
"""What is free at the end of a heap is kept up to this size: else each response would ask the system."""
LOOK_SECONDS = 0.5
LOOKS_AT_REST, LOOKS_BETWEEN_MAX = 2, 1_200
WORTH_BYTES, MOVED_BYTES = 32 << 20, 4 << 20
"""A process that has so much more than at its start gives back what is free, once its memory has moved by so
much and then rests for some looks. That takes a thread 10 to 30 ms. It does so again after four times as many
looks, and so on: memory that is freed meanwhile stays with the process, so that nothing is seen to move."""
GROWN_BYTES = 32 << 20
"""It does so without a rest, too, when it has grown by so much since: in a flood of small calls more than
half of what it holds is free, in pieces that the next calls do not find."""
STATM = Path("/proc/self/statm")


class FreeMemory:
    """Gives free memory back to the system, as a part of the server. Life: `start`, `stop`."""

    def __init__(self) -> None:
        self._libc: Any = ctypes.CDLL(None)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Set glibc's options and watch, where there is a glibc."""
        if hasattr(self._libc, "malloc_trim") and resident_bytes():
            self._libc.mallopt(M_ARENA_MAX, HEAPS_MAX)
            self._libc.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
            self._libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
            self._task = asyncio.create_task(self._watch())

    async def stop(self, _grace_seconds: float) -> None:
        """Watch no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _watch(self) -> None:
        first = least = before = resident_bytes()
        rests, due = 0, LOOKS_AT_REST
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = resident_bytes() or before
            rests += 1
            if abs(now - before) >= MOVED_BYTES:
                rests, due = 0, LOOKS_AT_REST
            if now - first >= WORTH_BYTES and (now - least >= GROWN_BYTES or rests >= due):
                with suppress(RuntimeError):  # the system has no thread for it: another time
                    await asyncio.to_thread(self._libc.malloc_trim, 0)
                least = now = resident_bytes() or now
                rests, due = 0, min(4 * due, LOOKS_BETWEEN_MAX)
            before = now


def resident_bytes() -> int:
    """The memory that the process has now; 0 if that is unknown, as without a free descriptor."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
