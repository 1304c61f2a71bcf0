"""A partition's log in plain dicts: see memory.py.

Owns what a log must answer; it works at once, so every future that it returns is done already.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeVar

from takhin.clock import Clock
from takhin.errors import OffsetOutOfRangeError, RefusedError, UnknownTopicError
from takhin.meters import EngineMeters
from takhin.model import (
    INT64_MAX,
    NO_TIMESTAMP,
    Appended,
    Batch,
    Condition,
    Header,
    OffsetAtTime,
    PartitionState,
    Records,
    Row,
    Source,
    TopicConfig,
    TopicPartition,
)
from takhin.sizes import RECORD_OVERHEAD_BYTES, size_bytes
from takhin.storage.compaction import Bounds, Gaps, History, is_due, passes_after, plan
from takhin.storage.conditions import (
    BATCHES_REMEMBERED,
    Known,
    Remembered,
    judge,
    may_have_forgotten,
    to_forget,
    to_remember,
    too_many_sources,
)
from takhin.storage.retention import Limits, Oldest
from takhin.storage.sources import SourceIndex
from takhin.storage.waiters import Waiters

T = TypeVar("T")


class Remembers(NamedTuple):
    """How much a log remembers of those who send to it, who knows of which groups, and what is counted."""

    producers_max: int
    sources_max: int
    sources: SourceIndex
    meters: EngineMeters


class Taken(NamedTuple):
    """The highest offset that was taken of an input log, and its topic."""

    topic: str
    offset: int


class MemoryLog:
    """A `PartitionLog`: records and headers by offset."""

    def __init__(self, topic: str, partition: int, remembers: Remembers, clock: Clock) -> None:
        self.topic = topic
        self.partition = partition
        self.incarnation_id = uuid.uuid4().hex
        self.start_offset = 0
        self.end_offset = 0
        self.closed = False
        self._rows: dict[int, Row] = {}
        self._appended: dict[int, int] = {}  # when, by the clock
        self._latest = 0
        self._clock = clock
        self._headers: dict[int, Sequence[Header]] = {}
        self._producers: dict[bytes, deque[Remembered]] = {}  # the one silent for longest first
        self._sources: dict[tuple[str, str], Taken] = {}  # by group and incarnation id
        self._remembers = remembers
        self._growth = Waiters()
        self._last_group = 0
        self._history = History()

    @property
    def size_bytes(self) -> int:
        return sum(map(self._size_bytes, self._rows))

    @property
    def record_count(self) -> int:
        return len(self._rows)

    @property
    def first_timestamp(self) -> int:
        return next((row[1] for row in self._rows.values()), NO_TIMESTAMP)

    @property
    def last_timestamp(self) -> int:
        return next((row[1] for row in reversed(self._rows.values())), NO_TIMESTAMP)

    @property
    def state(self) -> PartitionState:
        return PartitionState.OPEN

    def check_available(self) -> None:
        self._check_open()

    def append(self, batch: Batch) -> asyncio.Future[Appended]:
        self._check_open()
        if batch.condition is not None:
            try:
                stored = self._judge(batch, batch.condition)
            except RefusedError as refused:
                return _refused(refused)
            if stored is not None:
                return _done(stored)
        first = self.end_offset
        end = first + len(batch)
        rows = zip(range(first, end), batch.timestamps, batch.keys, batch.values, strict=True)
        self._rows.update({row[0]: row for row in rows})
        now = self._clock()
        self._latest = max(self._latest, now)
        self._appended.update(dict.fromkeys(range(first, end), now))
        self._headers.update({first + i: tuple(headers) for i, headers in batch.headers.items()})
        self.end_offset, self._last_group = end, first
        self._growth.wake()
        of_topic = self._remembers.meters.topic(self.topic)
        of_topic.appended_records += len(batch)
        of_topic.appended_bytes += batch.size_bytes
        return _done(Appended(self.partition, first, batch.first_timestamp, len(batch)))

    def _judge(self, batch: Batch, condition: Condition) -> Appended | None:
        """The answer to a repeat; None if the batch is to be appended, which is remembered."""
        producer_id, source, end = condition.producer_id, condition.source, self.end_offset
        remembered = self._producers.get(producer_id, deque(maxlen=BATCHES_REMEMBERED))
        taken = None if source is None else self._taken(source)
        stored = judge(
            condition,
            len(batch),
            Known(remembered, taken),
            topic=self.topic,
            partition=self.partition,
            end=end,
            forgotten_before=self._forgotten_before,
        )
        if stored is not None:
            return stored
        if source is not None:
            if taken is None:
                self._make_room(source)
            self._sources[source.group_id, source.incarnation_id] = Taken(source.topic, source.offset)
        if producer_id:
            if not remembered:
                forgotten = to_forget(len(self._producers), self._remembers.producers_max)
                for silent in list(self._producers)[:forgotten]:
                    del self._producers[silent]
            remembered.append(to_remember(batch, condition.sequence, remembered, end))
            self._producers.pop(producer_id, None)
            self._producers[producer_id] = remembered
        return None

    def _taken(self, source: Source) -> int | None:
        found = self._sources.get((source.group_id, source.incarnation_id))
        return None if found is None else found.offset

    def _make_room(self, source: Source) -> None:
        """For one more source. Those whose log is gone make room; without any it is refused."""
        at, (_, most, index, _) = TopicPartition(self.topic, self.partition), self._remembers
        if len(self._sources) >= most:
            gone = index.gone(at, {incarnation_id for _, incarnation_id in self._sources})
            if not gone:
                raise too_many_sources(source, most, *at)
            self._sources = {of: taken for of, taken in self._sources.items() if of[1] not in gone}
        index.note(at, {source.group_id: True})

    def forget_sources(self, group_id: str, topics: Collection[str] | None) -> None:
        """Forget what was taken of a group's sources, or of those in some topics."""
        gone = {
            of
            for of, (topic, _) in self._sources.items()
            if of[0] == group_id and (topics is None or topic in topics)
        }
        self._sources = {of: taken for of, taken in self._sources.items() if of not in gone}
        remembers = any(of == group_id for of, _ in self._sources)
        self._remembers.sources.note(TopicPartition(self.topic, self.partition), {group_id: remembers})

    def _forgotten_before(self) -> int:
        """Producers whose last batch is at this offset or behind it are all remembered."""
        if not may_have_forgotten(len(self._producers), self._remembers.producers_max):
            return 0
        return max(next(iter(self._producers.values()))).offset

    async def read(self, offset: int, *, max_bytes: int, max_records: int, below: int = INT64_MAX) -> Records:
        self._check_open()
        if not self.start_offset <= offset <= self.end_offset:
            raise self._out_of_range(offset)
        rows: list[Row] = []
        room_bytes = max_bytes
        next_offset = max(offset, min(self.end_offset, below))
        for at in (at for at in range(offset, next_offset) if at in self._rows):
            room_bytes -= self._size_bytes(at)
            if len(rows) == max_records or (rows and room_bytes < 0):
                next_offset = rows[-1][0] + 1
                break
            rows.append(self._rows[at])
        headers = {row[0]: self._headers[row[0]] for row in rows if row[0] in self._headers}
        return Records(rows, headers, next_offset)

    async def grown(self, end: int) -> None:
        while not self.closed and self.end_offset <= end:
            await self._growth.wait()

    async def offset_for_time(self, timestamp: int) -> OffsetAtTime:
        self._check_open()
        # Dicts keep the order of insertion, and rows are inserted in the order of their offsets.
        later = (OffsetAtTime(*row[:2]) for row in self._rows.values() if row[1] >= timestamp)
        return next(later, OffsetAtTime(self.end_offset, -1))

    def known_timestamp(self, offset: int) -> int | None:
        if offset >= self.end_offset:
            return NO_TIMESTAMP
        return self._rows[offset][1] if offset in self._rows else None

    async def timestamp_from(self, offset: int) -> int:
        self._check_open()
        return next((row[1] for at, row in self._rows.items() if at >= offset), NO_TIMESTAMP)

    async def compaction_due(self, config: TopicConfig, now: int) -> bool:
        first = max(self._history.gaps.compacted_below, self.start_offset)
        oldest = next((row[1] for at, row in self._rows.items() if at >= first), None)
        return is_due(self._history, await self._bounds(config, now), config, now, oldest)

    async def compact(self, config: TopicConfig, now: int) -> int:
        self._check_open()
        begun = plan(await self._bounds(config, now), self._history, config, now)
        if begun is None:
            return 0
        last = {row[2]: row[0] for row in self._rows.values() if row[0] < begun.read_to}
        below = [row for row in self._rows.values() if row[0] < begun.end_offset]
        kept = {
            offset
            for offset, _, key, value in below
            if key is not None
            and last[key] == offset
            and (value is not None or offset >= begun.tombstones_below)
        }
        for offset, *_ in below:
            if offset not in kept:
                del self._rows[offset], self._appended[offset]
                self._headers.pop(offset, None)
        tombstones = [offset for offset in kept if self._rows[offset][3] is None]
        passes = passes_after(self._history.passes, begun, min(tombstones, default=None))
        gaps = Gaps(begun.end_offset, len(kept))
        self._history = History(gaps, passes, len(tombstones), None, begun.read_to)
        return len(below) - len(kept)

    async def _bounds(self, config: TopicConfig, now: int) -> Bounds:
        young = self.end_offset
        if config.min_compaction_lag_ms:
            young = (await self.offset_for_time(now - config.min_compaction_lag_ms + 1)).offset
        return Bounds(self.start_offset, self._last_group, young, self.end_offset)

    async def trim(self, offset: int) -> int:
        self._check_open()
        if offset > self.end_offset:
            raise self._out_of_range(offset)
        for gone in range(self.start_offset, offset):
            self._rows.pop(gone, None)
            self._appended.pop(gone, None)
            self._headers.pop(gone, None)
        self.start_offset = max(self.start_offset, offset)
        below = self._history.gaps.compacted_below
        self._history = self._history._replace(gaps=Gaps(below, sum(1 for at in self._rows if at < below)))
        return self.start_offset

    async def retain(self, limits: Limits, committed: int | None) -> None:
        """Remove what the limits let go. committed: the lowest offset of a group; None: there is none."""
        now = self._clock()
        if self._latest > now:  # the clock was ahead: what was appended then counts from now on
            self._latest = now
            self._appended = {at: min(appended, now) for at, appended in self._appended.items()}
        while (start := limits.first_by_number(self.start_offset, self.record_count)) > self.start_offset:
            await self.trim(next((at for at in self._rows if at >= start), start))
        await self.trim(limits.first_by_groups(self.start_offset, committed))
        if (since := limits.kept_since(now)) is not None:
            ages = ((at, Oldest(row[1], self._appended[at])) for at, row in self._rows.items())
            await self.trim(next((at for at, age in ages if not age.is_past(since, now)), self.end_offset))
        excess = limits.excess_bytes(self.size_bytes)
        for at in list(self._rows)[:-1]:
            if excess <= 0:
                return
            excess -= self._size_bytes(at)
            await self.trim(at + 1)

    def close(self) -> None:
        self.closed = True
        self._growth.wake()

    def _check_open(self) -> None:
        if self.closed:
            raise UnknownTopicError(self.topic)

    def _out_of_range(self, offset: int) -> OffsetOutOfRangeError:
        return OffsetOutOfRangeError(self.topic, self.partition, offset, self.start_offset, self.end_offset)

    def _size_bytes(self, offset: int) -> int:
        _, _, key, value = self._rows[offset]
        return RECORD_OVERHEAD_BYTES + size_bytes([key], [value], [self._headers.get(offset, ())])


def _done(result: T) -> asyncio.Future[T]:
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future


def _refused(error: RefusedError) -> asyncio.Future[Appended]:
    future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    future.exception()  # nobody may wait for it
    return future
