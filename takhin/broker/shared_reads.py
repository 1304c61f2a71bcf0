"""A small cache: when several consumers tail one log, one reads and the others get the same object.

Without it each of them would scan and encode the same records again. So while a log has more than one
consumer, recent reads are kept. A read takes at most as many records as there are offsets up to the next
multiple of `records_max`, so consumers that began apart soon ask for the same offsets. Lives on the event
loop.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from takhin.model import INT64_MAX, Records
from takhin.storage.contract import PartitionLog

Key = tuple[PartitionLog, int, int, int]
"""The log, the offset and both limits of a read."""


class SharedReads:
    """Keeps at most `bytes_max` bytes of reads, all logs together. The least recently used goes first."""

    def __init__(self, *, bytes_max: int, records_max: int) -> None:
        self._bytes_max = bytes_max
        self._records_max = records_max
        self._consumers: Counter[PartitionLog] = Counter()
        self._kept: OrderedDict[Key, tuple[Records, int]] = OrderedDict()
        self._bytes = 0

    @contextmanager
    def consumer(self, log: PartitionLog) -> Iterator[None]:
        """Count a consumer of the log for as long as the block lasts."""
        self._consumers[log] += 1
        try:
            yield
        finally:
            self._consumers[log] -= 1
            if not self._consumers[log]:
                del self._consumers[log]
                for key in [key for key in self._kept if key[0] is log]:
                    self._drop(key)

    async def read(
        self, log: PartitionLog, offset: int, *, max_bytes: int, max_records: int, below: int = INT64_MAX
    ) -> Records:
        """Like `PartitionLog.read`; equal questions get the same object."""
        if self._consumers[log] < 2:
            return await log.read(offset, max_bytes=max_bytes, max_records=max_records, below=below)
        max_records = min(max_records, self._records_max - offset % self._records_max)
        key = (log, offset, max_bytes, max_records)
        kept, _ = self._kept.get(key, (None, 0))
        if kept is not None and kept.next_offset <= below and not log.closed and log.start_offset <= offset:
            self._kept.move_to_end(key)
            return kept
        records = await log.read(offset, max_bytes=max_bytes, max_records=max_records, below=below)
        if records.rows:
            self._keep(key, records)
        return records

    def _keep(self, key: Key, records: Records) -> None:
        if key in self._kept:
            self._drop(key)
        size_bytes = records.size_bytes
        self._kept[key] = (records, size_bytes)
        self._bytes += size_bytes
        while self._bytes > self._bytes_max:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: Key) -> None:
        self._bytes -= self._kept.pop(key)[1]
