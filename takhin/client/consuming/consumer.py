"""`Consumer`: the face of `takhin.client.consuming`. Owns the arguments, and what was committed last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping
from contextlib import suppress
from typing import Self

import grpc

from takhin.client.base import Client
from takhin.client.clock import monotonic
from takhin.client.connection import Tls
from takhin.client.consuming.assignment import Assignment
from takhin.client.consuming.fetcher import FetchOptions
from takhin.client.consuming.iterating import Records
from takhin.client.consuming.lookup import Lookup, raise_no_group
from takhin.client.consuming.positions import ReadRange
from takhin.client.consuming.prefetched import Prefetched
from takhin.client.consuming.scout import TAILS_MAX, Scout
from takhin.client.consuming.watch import Watch
from takhin.client.forks import forked
from takhin.client.model import START, CommittedOffset, Position, Record, RecordBatch, Span
from takhin.client.retry import Retry, retried
from takhin.limits import check_group_id, check_range
from takhin.model import Source, TopicPartition


class Consumer(Client):
    """Reads from one broker. For one event loop.

    `assign` or `assign_topics`, then `async for record in consumer`, or `batches()`. Reading goes on by
    itself after a restart of the broker, an aged connection or a stream gone silent, at the next offset:
    nothing is skipped or repeated. Offsets are kept between sessions only where `commit` is called.

    group_id: for `commit` and COMMITTED. uncommitted: where COMMITTED begins if nothing is committed.
    prefetch_bytes_max: of records that are read ahead, shared evenly by the partitions, each of which
    may pass its share by one response or record.
    silence_ms_max: a stream that is silent for so long is reopened; the broker sends something at least
    every `consume.heartbeat_ms` (5,000 by default).
    outage_timeout_ms: how long a partition's outage may last before iterating raises its error.
    """

    _kind = "Consumer"

    def __init__(
        self,
        server: str,
        *,
        group_id: str | None = None,
        uncommitted: Position = START,
        prefetch_bytes_max: int = 16 << 20,
        silence_ms_max: int = 15_000,
        outage_timeout_ms: int = 120_000,
        tls: Tls | grpc.ChannelCredentials | None = None,
        token: str | None = None,
        retry: Retry | None = None,
    ) -> None:
        if group_id is not None:
            check_group_id(group_id)
        check_range("prefetch_bytes_max", prefetch_bytes_max, 1)
        check_range("silence_ms_max", silence_ms_max, 1)
        check_range("outage_timeout_ms", outage_timeout_ms, 1)
        super().__init__(server, tls, token, retry)
        self._assigned = Assignment(self._calls)
        self._lookup = Lookup(self._calls, self._retry, group_id, uncommitted)
        self._group_id = group_id
        self._prefetch_bytes_max = prefetch_bytes_max
        self._silence_s_max = silence_ms_max / 1_000
        self._outage_s_max = outage_timeout_ms / 1_000
        self._committed: dict[TopicPartition, int] = {}
        self._records = Records(self._assigned)
        self._scout = Scout(self._calls)  # one for all, so that it bounds their streams together

    async def assign(self, partitions: Mapping[tuple[str, int], Position | Span]) -> None:
        """Read these partitions from now on instead of any before, each from its position, or over its span.

        An empty mapping: none. Raises UnknownTopicError, UnknownPartitionError, InvalidArgumentError for
        a bad position, PartitionUnavailableError at once if the broker does not serve one of them (then
        nothing has changed; `Admin.describe_topic` tells which are served), and UnavailableError after
        outage_timeout_ms without a broker.
        """
        spans = {
            TopicPartition(*at): where if isinstance(where, Span) else Span(where)
            for at, where in partitions.items()
        }
        ranges = await self._lookup.find(spans, self._deadline())
        self._committed.clear()
        await self._assigned.replace_all(ranges, self._fetch_options(len(ranges)))

    async def assign_topics(
        self, *topics: str, start: Position | Span = START, left_out: Collection[tuple[str, int]] = ()
    ) -> None:
        """`assign` all partitions of these topics, also, within seconds, those that they get later.

        left_out: (topic, partition) of those that are not read, such as some that the broker does not serve.

        Later ones are read from START, whatever `start` is, but for times and what the group has committed:
        all of their records are new. With a stop none are added.
        """
        found = await self._lookup.describe(topics, self._deadline())
        present = {(of.name, at.partition): start for of in found for at in of.partitions}
        await self.assign({at: where for at, where in present.items() if at not in left_out})
        begin, stop = start if isinstance(start, Span) else Span(start)
        if stop is None:
            lookup = Lookup(self._calls, self._retry, self._group_id, START)
            await self._assigned.watch(Watch(self._calls, lookup, found, begin, self._add))

    def _add(self, ranges: Mapping[TopicPartition, ReadRange]) -> None:
        partitions = len(self._assigned.partitions()) + len(ranges)
        self._assigned.add(ranges, self._fetch_options(partitions))

    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read."""
        return self._assigned.partitions()

    def __aiter__(self) -> AsyncIterator[Record]:
        return self._records

    def __anext__(self) -> Awaitable[Record]:
        """The next record, in each partition's order. Ends when all spans are read; without a stop, never.

        Iterating may be left and resumed, also where waiting was cancelled: the next record is the one after
        the last. Raises OffsetOutOfRangeError (its values say both ends), LogReplacedError, UnknownTopicError
        and, after outage_timeout_ms, an UnavailableError; ClosedError after `close`. After any of the others,
        `seek` or just iterating again goes on.
        """
        return self._records.__anext__()

    async def poll(self, timeout: float | None = None) -> Record | None:  # noqa: ASYNC109  as in the sync face
        """The next record; None if none comes within `timeout` seconds, or if all spans are read.

        timeout: 0 takes only what has been read already; None waits. Raises as iterating does.
        """
        with suppress(TimeoutError, StopAsyncIteration):
            async with asyncio.timeout(timeout):
                return await anext(self)
        return None

    def batches(self, max_records: int | None = None, timeout: float | None = None) -> Batches:
        """Like iterating over the consumer, but with all records of a response, or max_records, at once.

        timeout: iterating ends when none has come for so many seconds; it may be resumed.
        """
        if max_records is not None:
            check_range("max_records", max_records, 1)
        return Batches(self._assigned, max_records, timeout)

    def position(self, topic: str, partition: int) -> int:
        """The offset of the next record that iterating gives of the partition."""
        return self._assigned.prefetched(topic, partition).position

    def end_offset(self, topic: str, partition: int) -> int:
        """Where the partition's log ended when the broker last said; minus `position` it is the lag."""
        return self._assigned.prefetched(topic, partition).end_offset

    def pause(self, *partitions: tuple[str, int]) -> None:
        """Give no records of these partitions until `resume`; their positions stay."""
        self._assigned.pause(partitions, paused=True)

    def resume(self, *partitions: tuple[str, int]) -> None:
        """Give records of these partitions again."""
        self._assigned.pause(partitions, paused=False)

    async def seek(self, topic: str, partition: int, to: Position) -> None:
        """Go on at another position of an assigned partition, also in a log that was replaced.

        A span's stop stays. Raises as `assign` does.
        """
        at = self._assigned.prefetched(topic, partition).at
        ranges = await self._lookup.find({at: Span(to)}, self._deadline())
        await self._assigned.move(at, ranges[at])

    async def commit(self, offsets: Mapping[tuple[str, int], int | CommittedOffset] | None = None) -> None:
        """Store for the group which records it has read; durable on return.

        offsets: the next one to read for each partition; None: the positions of all assigned partitions
        that have changed since they were last committed. An offset of an assigned partition is one of the log
        that is read: LogReplacedError if another one has taken its place, and then nothing is committed.
        Raises InvalidArgumentError without a group_id.
        """
        group_id = self._group_id or raise_no_group()
        if offsets is None:
            now = self._assigned.positions()
            offsets = {at: offset for at, offset in now.items() if self._committed.get(at) != offset}
        given = dict(offsets)  # the caller may change its own while this waits
        logs = self._assigned.incarnation_ids(given)
        await retried(self._retry, self._deadline(), self._calls.commit_offset, group_id, given, logs)
        for at, commit in given.items():
            offset = commit.offset if isinstance(commit, CommittedOffset) else commit
            self._committed[TopicPartition(*at)] = offset

    def source(self, record: Record) -> Source:
        """The record as the source of those that are made of it, for `Producer.append`.

        Raises InvalidArgumentError without a group_id.
        """
        at = TopicPartition(record.topic, record.partition)
        incarnation_id = self._assigned.incarnation_ids([at]).get(at, "")
        return Source(self._group_id or raise_no_group(), *at, record.offset, incarnation_id)

    async def close(self) -> None:
        """Stop reading and give up the connection. Commits nothing by itself. May be called again.

        Does nothing in a forked process.
        """
        if forked():
            return
        await self._assigned.close()
        await super().close()

    def _fetch_options(self, partitions: int) -> FetchOptions:
        return FetchOptions(
            buffer_bytes_max=max(self._prefetch_bytes_max // max(partitions, 1), 1),
            silence_s_max=self._silence_s_max,
            outage_s_max=self._outage_s_max,
            retry=self._retry,
            scout=self._scout if partitions > TAILS_MAX else None,
        )

    def _deadline(self) -> float:
        return monotonic() + self._outage_s_max


class Batches:
    """Iterates over batches of records. It may be resumed after it has ended, or was cancelled."""

    def __init__(self, assigned: Assignment, records_max: int | None, seconds_max: float | None) -> None:
        self.records_max = records_max
        self._assigned = assigned
        self._seconds_max = seconds_max

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RecordBatch:
        loaded = await self.loaded()
        if loaded is None:
            raise StopAsyncIteration
        return loaded.take(self.records_max)

    async def loaded(self) -> Prefetched | None:
        """Where the next batch can be taken from; None at the end. Until it is taken it comes again."""
        with suppress(TimeoutError):
            return await self._assigned.next_loaded(self._seconds_max)
        return None


class ThreadedConsumer(Consumer):
    """A consumer that shows its inner interface, for takhin.client.sync: its user is on another thread."""

    @property
    def assigned(self) -> Assignment:
        return self._assigned
