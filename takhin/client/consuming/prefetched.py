"""One partition's records that were read and not yet handed out. Knows neither calls nor tasks.

Two sides meet here: a fetcher puts responses in (`add`, then `room`), and whoever iterates takes records out
(`load`, then one by one from `records`, or `take`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from takhin.client.model import Record
from takhin.client.record_batch import RecordBatch
from takhin.client.unread import Unread, nothing
from takhin.model import TopicPartition


class Prefetched:
    """Responses that wait to be taken, and the records of the one that is being handed out.

    position: where to begin. bytes_max: of the responses that wait; the last one may pass it. May be changed.
    end_offset: of the log, as the broker last told it.
    paused: while it is True, nothing is handed out.
    processed: whoever iterates is done with all records below this offset: it has asked for a further one.

    The user of takhin.client.sync takes records out on a thread of its own while all else runs on the loop,
    so what it reads and writes there is a single step for each record.
    """

    def __init__(self, at: TopicPartition, position: int, end_offset: int, bytes_max: int) -> None:
        self.at = at
        self.end_offset = end_offset
        self.paused = False
        self._loaded: Unread = nothing(at, position)
        self.processed = position
        self._responses: deque[Unread] = deque()
        self._bytes = 0
        self.bytes_max = bytes_max
        self._taken = asyncio.Event()

    def add(self, response: Unread) -> None:
        """Put in a response with records."""
        self._responses.append(response)
        self._bytes += response.size_bytes

    @property
    def full(self) -> bool:
        """True if there is no room for another response."""
        return self._bytes >= self.bytes_max

    async def room(self) -> None:
        """Return when there is room for another response."""
        while self.full:
            self._taken.clear()
            await self._taken.wait()

    def clear(self) -> None:
        """Hand out nothing more. The position stays."""
        self._responses.clear()
        self._loaded.clear()

    @property
    def records(self) -> Iterator[Record]:
        """What is left of the response that is loaded. Take the next one only while `paused` is False."""
        return self._loaded.records

    @property
    def position(self) -> int:
        """The offset of the next record to hand out, or the one after the last."""
        return self._loaded.position

    @property
    def in_hand(self) -> bool:
        """True if something was handed out that is not known to be processed."""
        return self.processed < self.position

    def pass_by(self, offset: int | None = None) -> None:
        """All that was handed out is processed, or what of it is below an offset."""
        position = self.position
        self.processed = position if offset is None else max(self.processed, min(offset, position))

    @property
    def empty(self) -> bool:
        return not self._responses and not self._loaded

    def load(self) -> bool:
        """Make the next response's records ready to hand out. False if there are none or it is paused."""
        if self.paused:
            return False
        if not self._loaded and self._responses:
            self._loaded = self._responses.popleft()
            self._bytes -= self._loaded.size_bytes
            self._taken.set()
        return bool(self._loaded)

    def take(self, records_max: int | None = None) -> RecordBatch:
        """The loaded records at once, or the first records_max of them; none if they were just cleared."""
        return RecordBatch(*self.at, self._loaded.take(records_max), self.end_offset)
