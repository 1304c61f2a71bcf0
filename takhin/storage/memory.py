"""The storage contract in plain dicts: a test double for users, and the contract's shortest reading.

Owns nothing but memory: what an engine must answer is here, how answers survive a crash is not. It
works at once, so every future it returns is done already. Nothing outlives the engine.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from takhin.clock import Clock, system_clock
from takhin.errors import (
    OffsetOutOfRangeError,
    RefusedError,
    TopicExistsError,
    UnknownPartitionError,
    UnknownTopicError,
)
from takhin.model import (
    NO_TIMESTAMP,
    Appended,
    Batch,
    CommittedOffset,
    Condition,
    Header,
    OffsetAtTime,
    Records,
    Row,
    TopicConfig,
    TopicPartition,
    TopicSpec,
)
from takhin.settings import StorageSettings
from takhin.sizes import RECORD_OVERHEAD_BYTES, size_bytes
from takhin.storage.compaction import Bounds, Gaps, History, is_due, passes_after, plan
from takhin.storage.conditions import (
    BATCHES_REMEMBERED,
    Remembered,
    fewer_partitions,
    judge,
    may_have_forgotten,
    to_forget,
    to_remember,
)
from takhin.storage.contract import Capability, Topic
from takhin.storage.retention import Limits, Oldest, limits_of
from takhin.storage.waiters import Waiters

T = TypeVar("T")

PRODUCERS_MAX = StorageSettings().producers_max
RETAIN_SECONDS = 0.1
"""How often an engine removes what retention lets go."""


class MemoryLog:
    """A `PartitionLog`: records and headers by offset."""

    def __init__(self, topic: str, partition: int, producers_max: int, clock: Clock) -> None:
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
        self._producers_max = producers_max
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
        return _done(Appended(self.partition, first, batch.timestamps[0], len(batch)))

    def _judge(self, batch: Batch, condition: Condition) -> Appended | None:
        """The answer to a repeat; None if the batch is to be appended, which is remembered."""
        producer_id, end = condition.producer_id, self.end_offset
        remembered = self._producers.get(producer_id, deque(maxlen=BATCHES_REMEMBERED))
        stored = judge(
            condition,
            len(batch),
            remembered,
            topic=self.topic,
            partition=self.partition,
            end=end,
            forgotten_before=self._forgotten_before,
        )
        if stored is None and producer_id:
            if not remembered:
                silent = list(self._producers)[: to_forget(len(self._producers), self._producers_max)]
                for forgotten in silent:
                    del self._producers[forgotten]
            remembered.append(to_remember(batch, condition.sequence, remembered, end))
            self._producers.pop(producer_id, None)
            self._producers[producer_id] = remembered
        return stored

    def _forgotten_before(self) -> int:
        """Producers whose last batch is at this offset or behind it are all remembered."""
        if not may_have_forgotten(len(self._producers), self._producers_max):
            return 0
        return max(next(iter(self._producers.values()))).offset

    async def read(self, offset: int, *, max_bytes: int, max_records: int) -> Records:
        self._check_open()
        if not self.start_offset <= offset <= self.end_offset:
            raise self._out_of_range(offset)
        rows: list[Row] = []
        room_bytes = max_bytes
        next_offset = self.end_offset
        for at in (at for at in range(offset, self.end_offset) if at in self._rows):
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
        tombstones = sum(1 for offset in kept if self._rows[offset][3] is None)
        passes = passes_after(self._history.passes, begun)
        self._history = History(Gaps(begun.end_offset, len(kept)), passes, tombstones)
        return len(below) - len(kept)

    async def _bounds(self, config: TopicConfig, now: int) -> Bounds:
        young = self.end_offset
        if config.min_compaction_lag_ms:
            young = (await self.offset_for_time(now - config.min_compaction_lag_ms + 1)).offset
        return Bounds(self.start_offset, self._last_group, young, self.end_offset)

    async def trim(self, offset: int) -> None:
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

    async def retain(self, limits: Limits, committed: int | None) -> None:
        """Remove what the limits let go. committed: the lowest offset of a group; None: there is none."""
        now = self._clock()
        if self._latest > now:  # the clock was ahead: what was appended then counts from now on
            self._latest = now
            self._appended = {at: min(appended, now) for at, appended in self._appended.items()}
        while (start := limits.first_by_number(self.start_offset, self.record_count)) > self.start_offset:
            await self.trim(start)
        await self.trim(limits.first_by_groups(self.start_offset, committed))
        if (since := limits.kept_since(now)) is not None:
            ages = ((at, Oldest(row[1], self._appended[at])) for at, row in self._rows.items())
            await self.trim(next((at for at, age in ages if not age.is_past(since, now)), self.end_offset))
        if limits.size_bytes is None:
            return
        size = self.size_bytes
        for at in list(self._rows):
            if limits.first_by_size(self.start_offset, self.end_offset, size) == self.start_offset:
                return
            size -= self._size_bytes(at)
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


@dataclass(frozen=True, slots=True)
class MemoryTopic:
    """A `Topic`."""

    name: str
    topic_id: str
    config: TopicConfig
    partitions: Sequence[MemoryLog]


class MemoryOffsets:
    """An `Offsets`: committed offsets by group, then by partition. A group without any is not there."""

    def __init__(self) -> None:
        self._committed: dict[str, dict[TopicPartition, CommittedOffset]] = {}
        self._engine_topics: Mapping[str, MemoryTopic] = {}

    async def commit(self, group_id: str, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        for topic, partition in offsets:
            found = self._engine_topics.get(topic)
            if found is None:
                raise UnknownTopicError(topic)
            if not 0 <= partition < len(found.partitions):
                raise UnknownPartitionError(topic, partition, len(found.partitions))
        if offsets:
            self._committed.setdefault(group_id, {}).update(offsets)

    def of(self, group_id: str) -> Mapping[TopicPartition, CommittedOffset]:
        return dict(self._committed.get(group_id, {}))

    def groups(self) -> Sequence[str]:
        return sorted(self._committed)

    def lowest(self, at: TopicPartition) -> int | None:
        """The lowest offset that a group has committed in a partition; None where none has."""
        return min((of[at].offset for of in self._committed.values() if at in of), default=None)

    async def forget(self, group_id: str) -> None:
        self._committed.pop(group_id, None)

    def catalogue_changed(self, topics: Mapping[str, MemoryTopic]) -> None:
        """Know these topics from now on, and nothing about others any more."""
        self._engine_topics = topics
        for group_id, offsets in list(self._committed.items()):
            for gone in [at for at in offsets if at.topic not in topics]:
                del offsets[gone]
            if not offsets:
                del self._committed[group_id]


class MemoryEngine:
    """An `Engine` that forgets everything when it is dropped.

    producers_max: whose last batches a log remembers.
    """

    capabilities = frozenset(Capability) - {Capability.DURABLE}
    troubles: Sequence[str] = ()

    def __init__(self, *, producers_max: int = PRODUCERS_MAX, clock: Clock = system_clock) -> None:
        self.topics: Mapping[str, MemoryTopic] = {}
        self.offsets = MemoryOffsets()
        self._producers_max = producers_max
        self._clock = clock
        self._retaining: asyncio.Task[None] | None = None

    def stats(self) -> Mapping[str, int]:
        logs = [log for topic in self.topics.values() for log in topic.partitions]
        return {"partitions": len(logs), "queued_bytes": 0}

    async def open(self) -> None:
        """Nothing to load."""
        self._retaining = asyncio.create_task(self._retain_for_ever())

    async def close(self) -> None:
        if self._retaining is not None:
            self._retaining.cancel()
            await asyncio.gather(self._retaining, return_exceptions=True)
        for topic in self.topics.values():
            _close_logs(topic)

    async def room(self) -> None:
        """There is room at all times: nothing waits here."""

    async def create_topic(self, spec: TopicSpec) -> MemoryTopic:
        if spec.name in self.topics:
            raise TopicExistsError(spec.name)
        return self._put(spec, uuid.uuid4().hex, ())

    async def alter_topic(self, name: str, wanted: Callable[[Topic], TopicSpec]) -> MemoryTopic:
        former = self._existing(name)
        spec = wanted(former)
        if spec.num_partitions < len(former.partitions):
            raise fewer_partitions(spec, len(former.partitions))
        return self._put(spec, former.topic_id, former.partitions)

    async def retain(self) -> None:
        for topic in self.topics.values():
            if (limits := limits_of(topic.config)) is not None:
                for log in topic.partitions:
                    at = TopicPartition(log.topic, log.partition)
                    await log.retain(limits, self.offsets.lowest(at))

    async def _retain_for_ever(self) -> None:
        while True:
            await self.retain()
            await asyncio.sleep(RETAIN_SECONDS)

    async def delete_topic(self, name: str) -> None:
        topic = self._existing(name)
        self._change({of: other for of, other in self.topics.items() if of != name})
        _close_logs(topic)

    def _existing(self, name: str) -> MemoryTopic:
        if name not in self.topics:
            raise UnknownTopicError(name)
        return self.topics[name]

    def _put(self, spec: TopicSpec, topic_id: str, logs: Sequence[MemoryLog]) -> MemoryTopic:
        new = (
            MemoryLog(spec.name, n, self._producers_max, self._clock)
            for n in range(len(logs), spec.num_partitions)
        )
        topic = MemoryTopic(spec.name, topic_id, spec.config, (*logs, *new))
        self._change({**self.topics, spec.name: topic})
        return topic

    def _change(self, topics: Mapping[str, MemoryTopic]) -> None:
        self.topics = topics
        self.offsets.catalogue_changed(topics)


def _close_logs(topic: MemoryTopic) -> None:
    for log in topic.partitions:
        log.close()


def _done(result: T) -> asyncio.Future[T]:
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future


def _refused(error: RefusedError) -> asyncio.Future[Appended]:
    future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    future.exception()  # nobody may wait for it
    return future
