"""The partitions that a consumer reads, and whose turn it is to hand out records.

The inner interface of both faces: takhin.client.sync awaits `next_loaded` on its loop and takes the records
out on its user's thread. Knows nothing of positions that are not offsets.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

from takhin.client.calls import Calls
from takhin.client.consuming.fetcher import Fetcher, FetchOptions
from takhin.client.consuming.positions import ReadRange
from takhin.client.consuming.prefetched import Prefetched
from takhin.client.errors import ClosedError
from takhin.errors import InvalidArgumentError
from takhin.model import TopicPartition


class Assignment:
    """Fetchers, one for each partition, that hand out records in turn. All methods run on the loop."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._fetchers: dict[TopicPartition, Fetcher] = {}
        self._turns: deque[Fetcher] = deque()
        self._arrived = asyncio.Event()
        self._closed = False

    def partitions(self) -> list[TopicPartition]:
        return list(self._fetchers)

    def positions(self) -> dict[TopicPartition, int]:
        """The offset of the next record of each partition."""
        return {at: fetcher.prefetched.position for at, fetcher in self._fetchers.items()}

    def prefetched(self, topic: str, partition: int) -> Prefetched:
        """A partition's records that were read ahead. Raises InvalidArgumentError if it is not assigned."""
        return self._fetcher(TopicPartition(topic, partition)).prefetched

    async def replace_all(self, ranges: Mapping[TopicPartition, ReadRange], options: FetchOptions) -> None:
        """Read these partitions, and none of those that were read before."""
        before = list(self._fetchers.values())
        self._fetchers = {
            at: Fetcher(self._calls, at, read_range, options, self._arrived)
            for at, read_range in ranges.items()
        }
        self._turns = deque(self._fetchers.values())
        await self._switch(before)

    async def move(self, at: TopicPartition, read_range: ReadRange) -> None:
        """Go on at another offset of a partition, which keeps its stop offset and its turn."""
        before = self._fetcher(at)
        read_range = replace(read_range, stop_offset=before.stop_offset)
        fetcher = Fetcher(self._calls, at, read_range, before.options, self._arrived)
        fetcher.prefetched.paused = before.prefetched.paused
        self._fetchers[at] = fetcher
        self._turns[self._turns.index(before)] = fetcher
        await self._switch([before])

    def pause(self, partitions: Iterable[tuple[str, int]], *, paused: bool) -> None:
        """Pause partitions or let them go on. Raises InvalidArgumentError, and then changes nothing."""
        for prefetched in [self.prefetched(*at) for at in partitions]:
            prefetched.paused = paused
        self._arrived.set()

    async def next_loaded(self) -> Prefetched | None:
        """A partition with records to hand out, each in turn; None when all partitions are finished.

        Raises the error that ended a partition's reading, ClosedError, and InvalidArgumentError if nothing
        is assigned.
        """
        if not self._fetchers:
            raise InvalidArgumentError("nothing is assigned to this consumer; see `assign`")
        while True:
            if self._closed:
                raise ClosedError("the consumer is closed")
            self._arrived.clear()
            for _ in range(len(self._turns)):
                fetcher = self._turns[0]
                self._turns.rotate(-1)
                if fetcher.prefetched.load():
                    return fetcher.prefetched
                if fetcher.error is not None and not fetcher.prefetched.paused:
                    error, fetcher.error = fetcher.error, None
                    raise error
                fetcher.start()
            if all(fetcher.finished for fetcher in self._turns):
                return None
            await self._arrived.wait()

    async def close(self) -> None:
        """Stop reading. May be called again."""
        self._closed = True
        await asyncio.gather(*(fetcher.stop() for fetcher in self._fetchers.values()))
        self._arrived.set()

    async def _switch(self, before: Iterable[Fetcher]) -> None:
        """Stop these fetchers, start those that are assigned, and let whoever iterates look again."""
        await asyncio.gather(*(fetcher.stop() for fetcher in before))
        for fetcher in self._turns:
            fetcher.start()
        self._arrived.set()

    def _fetcher(self, at: TopicPartition) -> Fetcher:
        fetcher = self._fetchers.get(at)
        if fetcher is None:
            raise InvalidArgumentError(
                f"topic {at.topic!r} partition {at.partition} is not assigned to this consumer"
            )
        return fetcher
