"""The partitions that a consumer reads, and whose turn it is to hand out records.

The inner interface of both faces: takhin.client.sync awaits `next_loaded` on its loop and takes the records
out on its user's thread. Knows nothing of positions that are not offsets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace

from takhin.client import forks
from takhin.client.calls import Calls
from takhin.client.consuming.arrivals import Arrivals
from takhin.client.consuming.fetcher import Fetcher, FetchOptions
from takhin.client.consuming.positions import ReadRange
from takhin.client.consuming.prefetched import Prefetched
from takhin.client.consuming.watch import Watch
from takhin.client.errors import ClosedError
from takhin.errors import InvalidArgumentError
from takhin.model import TopicPartition


class Assignment:
    """Fetchers, one for each partition, that hand out records in turn. All methods run on the loop."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._fetchers: dict[TopicPartition, Fetcher] = {}
        self._arrivals: Arrivals[Fetcher] = Arrivals()
        self._watch: Watch | None = None
        self._closed = False
        forks.shut_in_child(self)

    def shut(self) -> None:
        """Hand out nothing more: in a forked process, whose parent hands out what was read ahead."""
        for fetcher in self._fetchers.values():
            fetcher.prefetched.clear()

    def partitions(self) -> list[TopicPartition]:
        return list(self._fetchers)

    def positions(self) -> dict[TopicPartition, int]:
        """The offset of the next record of each partition."""
        return {at: fetcher.prefetched.position for at, fetcher in self._fetchers.items()}

    def incarnation_ids(self, of: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """Of those of the logs that are read."""
        fetchers = self._fetchers
        return {at: fetchers[TopicPartition(*at)].incarnation_id for at in of if at in fetchers}

    def prefetched(self, topic: str, partition: int) -> Prefetched:
        """A partition's records that were read ahead. Raises InvalidArgumentError if it is not assigned."""
        return self._fetcher(TopicPartition(topic, partition)).prefetched

    async def replace_all(self, ranges: Mapping[TopicPartition, ReadRange], options: FetchOptions) -> None:
        """Read these partitions, and none of those that were read before."""
        await self.watch(None)
        before = list(self._fetchers.values())
        self._fetchers = {
            at: Fetcher(self._calls, at, read_range, options, self._arrivals)
            for at, read_range in ranges.items()
        }
        await self._switch(before, list(self._fetchers.values()))

    async def watch(self, watch: Watch | None) -> None:
        """Have `watch` add partitions from now on, instead of any before."""
        before, self._watch = self._watch, watch
        if before is not None:
            await before.stop()
        if watch is not None:
            watch.start()

    def add(self, ranges: Mapping[TopicPartition, ReadRange], options: FetchOptions) -> None:
        """Read these partitions besides the others, which share the room for what is read ahead with them."""
        for fetcher in self._fetchers.values():
            fetcher.options = options
            fetcher.prefetched.bytes_max = options.buffer_bytes_max
        for at, read_range in ranges.items():
            self._fetchers[at] = fetcher = Fetcher(self._calls, at, read_range, options, self._arrivals)
            fetcher.start()
            self._arrivals.add(fetcher)
        self._arrivals.wake()

    async def move(self, at: TopicPartition, read_range: ReadRange) -> None:
        """Go on at another offset of a partition, which keeps its stop offset and its turn."""
        before = self._fetcher(at)
        read_range = replace(read_range, stop_offset=before.stop_offset)
        fetcher = Fetcher(self._calls, at, read_range, before.options, self._arrivals)
        fetcher.prefetched.paused = before.prefetched.paused
        self._fetchers[at] = fetcher
        await self._switch([before], [fetcher])

    def pause(self, partitions: Iterable[tuple[str, int]], *, paused: bool) -> None:
        """Pause partitions or let them go on. Raises InvalidArgumentError, and then changes nothing."""
        for fetcher in [self._fetcher(TopicPartition(*at)) for at in partitions]:
            fetcher.prefetched.paused = paused
            self._arrivals.add(fetcher)

    async def next_loaded(self, seconds_max: float | None = None) -> Prefetched | None:
        """A partition with records to hand out, each in turn; None when all partitions are finished.

        Raises TimeoutError after seconds_max, the error that ended a partition's reading, ClosedError,
        ForkedError, OtherLoopError, and InvalidArgumentError if nothing is assigned. A wait that is cancelled
        loses nothing.
        """
        self._calls.check_here()
        if self._watch is not None:
            self._watch.start()  # somebody may have cancelled all tasks
        async with asyncio.timeout(seconds_max):
            return await self._next_loaded()

    async def _next_loaded(self) -> Prefetched | None:
        if not self._fetchers:
            raise InvalidArgumentError("nothing is assigned to this consumer; see `assign`")
        while True:
            if self._closed:
                raise ClosedError("the consumer is closed")
            self._arrivals.forget_wakes()
            while (fetcher := self._arrivals.take()) is not None:
                if fetcher.stopped:
                    continue
                if fetcher.prefetched.load():
                    self._arrivals.add(fetcher)  # it may have more, when the others have had their turns
                    return fetcher.prefetched
                if fetcher.error is None:
                    fetcher.start()
                elif not fetcher.prefetched.paused:
                    error, fetcher.error = fetcher.error, None
                    self._arrivals.add(fetcher)
                    raise error
            if all(fetcher.finished for fetcher in self._fetchers.values()):
                return None
            await self._arrivals.wait()

    async def close(self) -> None:
        """Stop reading. May be called again."""
        self._closed = True
        await self.watch(None)
        await asyncio.gather(*(fetcher.stop() for fetcher in self._fetchers.values()))
        self._arrivals.wake()

    async def _switch(self, before: Iterable[Fetcher], after: Iterable[Fetcher]) -> None:
        """Stop some fetchers, start others, and let whoever iterates look again."""
        await asyncio.gather(*(fetcher.stop() for fetcher in before))
        for fetcher in after:
            fetcher.start()
            self._arrivals.add(fetcher)
        self._arrivals.wake()

    def _fetcher(self, at: TopicPartition) -> Fetcher:
        fetcher = self._fetchers.get(at)
        if fetcher is None:
            raise InvalidArgumentError(
                f"topic {at.topic!r} partition {at.partition} is not assigned to this consumer"
            )
        return fetcher
