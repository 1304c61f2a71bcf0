"""The storage contract in plain dicts: a test double for users, and the contract's shortest reading.

Owns nothing but memory: what an engine must answer is here, how answers survive a crash is not. It
works at once, so every future it returns is done already. Nothing outlives the engine.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from takhin.clock import Clock
from takhin.errors import OffsetOutOfRangeError, RefusedError, TopicExistsError, UnknownTopicError
from takhin.model import (
    Appended,
    Batch,
    CommittedOffset,
    Condition,
    Header,
    Records,
    Row,
    TopicConfig,
    TopicSpec,
)
from takhin.settings import StorageSettings
from takhin.sizes import RECORD_OVERHEAD_BYTES, size_bytes
from takhin.storage.conditions import BATCHES_REMEMBERED, Remembered, judge, to_forget, to_remember
from takhin.storage.engine import EndMoved, Topic

T = TypeVar("T")

PRODUCERS_MAX = StorageSettings().producers_max


class MemoryLog:
    """A `PartitionLog`: records and headers by offset, committed offsets by group."""

    def __init__(self, topic: str, partition: int, end_moved: EndMoved, producers_max: int) -> None:
        self.topic = topic
        self.partition = partition
        self.incarnation_id = uuid.uuid4().hex
        self.start_offset = 0
        self.end_offset = 0
        self.closed = False
        self._rows: dict[int, Row] = {}
        self._headers: dict[int, Sequence[Header]] = {}
        self._committed: dict[str, CommittedOffset] = {}
        self._producers: dict[bytes, deque[Remembered]] = {}  # the one silent for longest first
        self._producers_max = producers_max
        self._end_moved = end_moved

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
        self._headers.update({first + i: tuple(headers) for i, headers in batch.headers.items()})
        self.end_offset = end
        self._end_moved(self)
        return _done(Appended(self.partition, first, batch.timestamps[0], len(batch)))

    def _judge(self, batch: Batch, condition: Condition) -> Appended | None:
        """The answer to a repeat; None if the batch is to be appended, which is remembered."""
        producer_id, end = condition.producer_id, self.end_offset
        remembered = self._producers.get(producer_id, deque(maxlen=BATCHES_REMEMBERED))
        stored = judge(condition, len(batch), remembered, topic=self.topic, partition=self.partition, end=end)
        if stored is None and producer_id:
            if not remembered:
                silent = list(self._producers)[: to_forget(len(self._producers), self._producers_max)]
                for forgotten in silent:
                    del self._producers[forgotten]
            remembered.append(to_remember(batch, condition.sequence, remembered, end))
            self._producers.pop(producer_id, None)
            self._producers[producer_id] = remembered
        return stored

    async def read(self, offset: int, *, max_bytes: int, max_records: int) -> Records:
        self._check_open()
        if not self.start_offset <= offset <= self.end_offset:
            raise self._out_of_range(offset)
        rows: list[Row] = []
        room_bytes = max_bytes
        for at in range(offset, min(offset + max_records, self.end_offset)):
            room_bytes -= self._size_bytes(at)
            if rows and room_bytes < 0:
                break
            rows.append(self._rows[at])
        headers = {row[0]: self._headers[row[0]] for row in rows if row[0] in self._headers}
        return Records(rows, headers)

    async def offset_for_time(self, timestamp: int) -> int:
        self._check_open()
        # Dicts keep the order of insertion, and rows are inserted in the order of their offsets.
        later = (offset for offset, row in self._rows.items() if row[1] >= timestamp)
        return next(later, self.end_offset)

    async def trim(self, offset: int) -> None:
        self._check_open()
        if offset > self.end_offset:
            raise self._out_of_range(offset)
        for gone in range(self.start_offset, offset):
            del self._rows[gone]
            self._headers.pop(gone, None)
        self.start_offset = max(self.start_offset, offset)

    def commit_offset(self, group_id: str, committed: CommittedOffset) -> asyncio.Future[None]:
        self._check_open()
        self._committed[group_id] = committed
        return _done(None)

    def forget_group(self, group_id: str) -> asyncio.Future[None]:
        self._check_open()
        self._committed.pop(group_id, None)
        return _done(None)

    async def committed_offset(self, group_id: str) -> CommittedOffset | None:
        self._check_open()
        return self._committed.get(group_id)

    async def group_ids(self) -> Sequence[str]:
        self._check_open()
        return sorted(self._committed)

    def close(self) -> None:
        self.closed = True
        self._end_moved(self)

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


class MemoryEngine:
    """An `Engine` that forgets everything when it is dropped.

    clock: taken so that engines are made alike, and not asked: nothing here is stamped.
    end_moved: see `takhin.storage.engine.EndMoved`; called before append returns.
    producers_max: whose last batches a log remembers.
    """

    def __init__(self, *, clock: Clock, end_moved: EndMoved, producers_max: int = PRODUCERS_MAX) -> None:
        del clock
        self._end_moved = end_moved
        self._producers_max = producers_max
        self._topics: dict[str, MemoryTopic] = {}

    @property
    def topics(self) -> Mapping[str, MemoryTopic]:
        return self._topics

    @property
    def troubles(self) -> Sequence[str]:
        return ()

    async def open(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        for topic in self._topics.values():
            _close_logs(topic)

    async def room(self) -> None:
        """There is room at all times: nothing waits here."""

    async def create_topic(self, spec: TopicSpec) -> Topic:
        if spec.name in self._topics:
            raise TopicExistsError(spec.name)
        logs = tuple(
            MemoryLog(spec.name, n, self._end_moved, self._producers_max) for n in range(spec.num_partitions)
        )
        topic = MemoryTopic(spec.name, uuid.uuid4().hex, spec.config, logs)
        self._topics = {**self._topics, spec.name: topic}
        return topic

    async def delete_topic(self, name: str) -> None:
        if name not in self._topics:
            raise UnknownTopicError(name)
        topic = self._topics[name]
        self._topics = {of: other for of, other in self._topics.items() if of != name}
        _close_logs(topic)


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
