"""The partitions that a consumer reads, and whose turn it is to hand out records.

The inner interface of both faces: takhin.client.sync awaits `next_loaded` on its loop and takes the records
out on its user's thread. Knows nothing of positions that are not offsets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Protocol

from takhin.client import forks
from takhin.client.calls import Calls
from takhin.client.clock import monotonic
from takhin.client.consuming.arrivals import Arrivals
from takhin.client.consuming.fetcher import Fetcher, FetchOptions, FetchPlan
from takhin.client.consuming.positions import ReadRange
from takhin.client.consuming.prefetched import Prefetched
from takhin.client.errors import ClosedError
from takhin.errors import InvalidArgumentError
from takhin.model import TopicPartition

TURN_S_MAX = 0.05
"""After so long whoever iterates over records at hand lets the loop do other things: a program that never
awaits anything else would keep a member from giving a sign of life, and from hearing what its group says."""
BREATH_SHARE = 0.01
BREATH_S_MAX = 0.01
"""How long the loop then has: a part of the time that it did not have, so that its own work gets done however
slow the program is."""


class Source(Protocol):
    """What changes an assignment while it is read: new partitions of its topics, or a group."""

    endless: bool
    """True if iterating waits where nothing is assigned."""

    def start(self) -> None:
        """Begin, or begin again if somebody cancelled all tasks. Called whenever somebody iterates."""

    async def stop(self) -> None:
        """Change nothing more."""

    async def mends(self, at: TopicPartition, error: Exception) -> bool:
        """Do something about the error that ended a partition's reading. False: it is to be raised."""


class Assignment:
    """Fetchers, one for each partition, that hand out records in turn. All methods run on the loop."""

    def __init__(self, calls: Calls, plan: FetchPlan) -> None:
        self._calls = calls
        self._plan = plan
        self._fetchers: dict[TopicPartition, Fetcher] = {}
        self._arrivals: Arrivals[Fetcher] = Arrivals()
        self.source: Source | None = None
        """What adds and removes partitions meanwhile."""
        self._handed: Prefetched | None = None  # where the last records were taken from
        self._passed = asyncio.Event()  # set whenever somebody asks for the next one
        self._ending: set[asyncio.Task[None]] = set()
        self._error: Exception | None = None
        self._breathed = monotonic()
        self._ended = False
        self._end_told = False
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

    def processed(self) -> dict[TopicPartition, int]:
        """For each partition the offset below which all is processed."""
        return {at: fetcher.prefetched.processed for at, fetcher in self._fetchers.items()}

    def incarnation_ids(self, of: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """Of those of the logs that are read."""
        fetchers = self._fetchers
        return {at: fetchers[TopicPartition(*at)].incarnation_id for at in of if at in fetchers}

    def prefetched(self, topic: str, partition: int) -> Prefetched:
        """A partition's records that were read ahead. Raises InvalidArgumentError if it is not assigned."""
        return self._fetcher(TopicPartition(topic, partition)).prefetched

    async def replace_all(self, ranges: Mapping[TopicPartition, ReadRange]) -> None:
        """Read these partitions, and none of those that were read before."""
        options = self._plan.options(len(ranges))
        await self.follow(None)
        before = list(self._fetchers.values())
        self._fetchers = {
            at: Fetcher(self._calls, at, read_range, options, self._arrivals)
            for at, read_range in ranges.items()
        }
        await self._switch(before, list(self._fetchers.values()))

    async def follow(self, source: Source | None) -> None:
        """Have `source` add and remove partitions from now on, instead of any before."""
        before, self.source = self.source, source
        if before is not None:
            await before.stop()

    def add(self, ranges: Mapping[TopicPartition, ReadRange], *, held: bool = False) -> None:
        """Read these partitions besides the others, which share the room for what is read ahead with them.

        held: only from `begin` on.
        """
        options = self._share_room(len(self._fetchers) + len(ranges))
        for at, read_range in ranges.items():
            fetcher = self._fetchers[at] = Fetcher(self._calls, at, read_range, options, self._arrivals)
            fetcher.held = held
        self.begin(() if held else ranges)

    def _share_room(self, partitions: int) -> FetchOptions:
        """Share the room for what is read ahead among so many partitions."""
        options = self._plan.options(partitions)
        for fetcher in self._fetchers.values():
            fetcher.options = options
            fetcher.prefetched.bytes_max = options.buffer_bytes_max
        return options

    def begin(self, partitions: Iterable[TopicPartition]) -> None:
        """Read those of these partitions that are assigned."""
        for fetcher in [self._fetchers[at] for at in partitions if at in self._fetchers]:
            fetcher.held = False
            fetcher.start()
            self._arrivals.add(fetcher)
        self._arrivals.wake()

    async def withhold(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out no record of these partitions any more, from the first step on. Their positions stay."""
        await self._shut([self._fetchers[at] for at in partitions if at in self._fetchers])

    def remove(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget partitions, which must have been withheld."""
        for at in partitions:
            self._fetchers.pop(at, None)
        self._share_room(len(self._fetchers))

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        """Withhold and forget partitions, at once."""
        for at in partitions:
            fetcher = self._fetchers.pop(at, None)
            if fetcher is not None and (task := fetcher.shut()) is not None:
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
        self._arrivals.wake()

    async def _shut(self, fetchers: Iterable[Fetcher]) -> None:
        """Shut fetchers, and wait until none of them runs any more."""
        tasks = {task for fetcher in fetchers if (task := fetcher.shut()) is not None}
        if tasks:
            await asyncio.wait(tasks)

    async def passed(self, partitions: Collection[TopicPartition], until: float) -> bool:
        """Wait until all that was handed out of these partitions is processed. False: it was not in time."""
        handed = [self._fetchers[at].prefetched for at in partitions if at in self._fetchers]
        while any(of.in_hand for of in handed):
            self._passed.clear()
            try:
                async with asyncio.timeout(until - monotonic()):
                    await self._passed.wait()
            except TimeoutError:
                return False
        return True

    def pass_by(self, offsets: Mapping[TopicPartition, int]) -> None:
        """All below these offsets is processed: somebody says so."""
        for at, offset in offsets.items():
            if (fetcher := self._fetchers.get(at)) is not None:
                fetcher.prefetched.pass_by(offset)
        self._passed.set()

    def fail(self, error: Exception) -> None:
        """Have the next one who iterates raise this error."""
        self._error = error
        self._arrivals.wake()

    def end(self) -> None:
        """Let iterating end, also where it waits. What was read ahead is dropped."""
        self._ended = True
        for fetcher in self._fetchers.values():
            fetcher.prefetched.clear()
        self._arrivals.wake()

    def tell_of_end(self) -> None:
        """Whoever polls gets nothing. Raises ClosedError if that was so before, and the consumer was stopped.

        A program that polls on for ever would not notice that nothing comes any more, and never wait.
        """
        if self._ended and self._end_told:
            raise ClosedError("the consumer was stopped: it gives no more records")
        self._end_told = self._ended

    async def move(self, at: TopicPartition, read_range: ReadRange) -> None:
        """Go on at another offset of a partition, which keeps its stop offset and its turn."""
        before = self._fetcher(at)
        if before.stopped:
            raise InvalidArgumentError(
                f"topic {at.topic!r} partition {at.partition} is being given up by this consumer"
            )
        read_range = replace(read_range, stop_offset=before.stop_offset)
        fetcher = Fetcher(self._calls, at, read_range, before.options, self._arrivals)
        fetcher.prefetched.paused = before.prefetched.paused
        fetcher.held = before.held
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
        if self._handed is not None:
            self._handed.pass_by()
            self._handed = None
            self._passed.set()
        if self.source is not None and not self._closed and not self._ended:
            self.source.start()
        await self.breathe()
        async with asyncio.timeout(seconds_max):
            return await self._next_loaded()

    @property
    def turn_ends(self) -> float:
        """When whoever iterates is to call `next_loaded` at the latest, of clock.monotonic()."""
        return self._breathed + TURN_S_MAX if self._endless else inf

    async def breathe(self) -> None:
        """Let the loop do other things if whoever iterates has not done so for a while."""
        now = monotonic()
        if now > self.turn_ends:
            await asyncio.sleep(min(BREATH_SHARE * (now - self._breathed), BREATH_S_MAX))
            self._breathed = monotonic()

    @property
    def _endless(self) -> bool:
        return self.source is not None and self.source.endless

    async def _next_loaded(self) -> Prefetched | None:
        endless = self._endless
        if not self._fetchers and not endless:
            raise InvalidArgumentError("nothing is assigned to this consumer; see `assign`")
        while True:
            if self._closed:
                raise ClosedError("the consumer is closed")
            if self._ended:
                return None
            self._raise_error()
            self._arrivals.forget_wakes()
            if (loaded := await self._arrived()) is not None:
                return loaded
            if not endless and all(fetcher.finished for fetcher in self._fetchers.values()):
                return None
            await self._arrivals.wait()
            self._breathed = monotonic()

    async def _arrived(self) -> Prefetched | None:
        """The next one in the queue that has records to hand out; None if none has."""
        while (fetcher := self._arrivals.take()) is not None:
            if fetcher.stopped or fetcher.held:
                continue
            if fetcher.prefetched.load():
                self._arrivals.add(fetcher)  # it may have more, when the others have had their turns
                self._handed = fetcher.prefetched
                return fetcher.prefetched
            if fetcher.error is None:
                fetcher.start()
            elif not fetcher.prefetched.paused:
                await self._fault(fetcher)
        return None

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def _fault(self, fetcher: Fetcher) -> None:
        """Raise the error that ended a partition's reading, unless the source can do something about it."""
        self._arrivals.add(fetcher)
        error = fetcher.error
        if error is not None and not (self.source is not None and await self.source.mends(fetcher.at, error)):
            fetcher.error = None
            raise error

    async def close(self) -> None:
        """Stop reading. May be called again."""
        self._closed = True
        await self.follow(None)
        await self._shut(self._fetchers.values())
        if self._ending:
            await asyncio.wait(self._ending)
        self._arrivals.wake()

    async def _switch(self, before: Iterable[Fetcher], after: Iterable[Fetcher]) -> None:
        """Stop some fetchers, start others, and let whoever iterates look again."""
        await self._shut(before)
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
