"""The bound on the bytes of a producer's records that are not acknowledged yet.

Knows neither batches nor partitions. Records are put in on any thread; room is given back on the loop.
"""

from __future__ import annotations

import asyncio
import threading

from takhin.client.producing import per_record


class Buffer(per_record.Counted):
    """A count of bytes, and a wait until it is below its bound.

    lock: held while records are put into any queue of the producer or taken out.
    bytes: of all records without an outcome. The last record put in may pass bytes_max.
    """

    def __init__(self, bytes_max: int) -> None:
        self.lock = threading.Lock()
        self.bytes = 0
        self.bytes_max = bytes_max
        self._freed = asyncio.Event()

    @property
    def full(self) -> bool:
        return self.bytes >= self.bytes_max

    async def room(self) -> None:
        """Return when a record may be put in."""
        while self.full:
            self._freed.clear()
            await self._freed.wait()

    def give_back(self, size_bytes: int) -> None:
        """Records of this size have their outcome."""
        with self.lock:
            self.bytes -= size_bytes
        self._freed.set()
