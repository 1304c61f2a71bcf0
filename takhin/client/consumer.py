"""`Consumer`: records of any number of partitions, one by one or in batches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import replace

import grpc

from takhin.client.base import Client
from takhin.client.connection import Connection, Tls
from takhin.client.errors import ClosedError
from takhin.client.model import START, CommittedOffset, Position, Record, RecordBatch, Span
from takhin.client.positions import Positions, Start, commit_offsets, describe
from takhin.client.retry import Retry
from takhin.client.tail import Tail, TailLimits
from takhin.errors import InvalidArgumentError
from takhin.limits import check_group_id, check_range
from takhin.model import TopicPartition


class Consumer(Client):
    """Reads from one broker. For one event loop.

    `assign` or `assign_topics`, then `async for record in consumer`, or `batches()`. Reading goes on by
    itself after a restart of the broker, an aged connection or a stream gone silent, at the next offset:
    nothing is passed over or repeated. Offsets are kept between sessions only where `commit` is called.

    group_id: for `commit` and COMMITTED. uncommitted: where COMMITTED begins if nothing is committed.
    prefetch_bytes_max: of records that are read ahead, shared evenly by the partitions, each of which
    may pass its share by one response or record.
    silence_ms_max: after so long without a word a stream is taken up anew; the broker says at least
    every `consume.heartbeat_ms` (5,000 by default) that it is alive.
    outage_timeout_ms: how long a partition's outage may last before iterating raises its error.
    """

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
        super().__init__(Connection(server, tls=tls, token=token, retry=retry))
        self._group_id = group_id
        self._positions = Positions(self._connection, group_id, uncommitted)
        self._prefetch_bytes_max = prefetch_bytes_max
        self._silence_s_max = silence_ms_max / 1_000
        self._outage_s_max = outage_timeout_ms / 1_000
        self._tails: dict[TopicPartition, Tail] = {}
        self._turns: deque[Tail] = deque()
        self._arrived = asyncio.Event()
        self._committed: dict[TopicPartition, int] = {}

    async def assign(self, partitions: Mapping[tuple[str, int], Position | Span]) -> None:
        """Read these partitions from now on instead of any before, each from its position, or over its span.

        An empty mapping: none. Raises UnknownTopicError, UnknownPartitionError, InvalidArgumentError for
        a bad position, and UnavailableError after outage_timeout_ms without a broker.
        """
        spans = {
            TopicPartition(*at): where if isinstance(where, Span) else Span(where)
            for at, where in partitions.items()
        }
        starts = await self._positions.find(spans, self._deadline())
        limits = TailLimits(
            buffer_bytes_max=max(self._prefetch_bytes_max // max(len(starts), 1), 1),
            silence_s_max=self._silence_s_max,
            outage_s_max=self._outage_s_max,
        )
        old = list(self._tails.values())
        self._tails = {at: self._tail(at, start, limits) for at, start in starts.items()}
        self._turns = deque(self._tails.values())
        self._committed.clear()
        await self._begin(old)

    async def assign_topics(self, *topics: str, start: Position | Span = START) -> None:
        """The same for all partitions of these topics."""
        found = await asyncio.gather(*(describe(self._connection, name, self._deadline()) for name in topics))
        await self.assign({(of.name, at.partition): start for of in found for at in of.partitions})

    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read."""
        return list(self._tails)

    def __aiter__(self) -> AsyncIterator[Record]:
        return self._records()

    async def _records(self) -> AsyncGenerator[Record, None]:
        """Records in each partition's order. Ends when all spans are read; without a stop, never.

        Iterating may be left and taken up again; the next record is then the one after the last. Raises
        OffsetOutOfRangeError (its values say both ends), LogReplacedError, UnknownTopicError and, after
        outage_timeout_ms, an UnavailableError. After any of them `seek` or just iterating again goes on.
        """
        while (tail := await self._next_tail()) is not None:
            for record in tail.hand_out():
                yield record

    async def batches(self) -> AsyncGenerator[RecordBatch, None]:
        """The same, as many records at once as came in a response."""
        while (tail := await self._next_tail()) is not None:
            yield tail.take()

    def position(self, topic: str, partition: int) -> int:
        """The offset of the next record that iterating gives of the partition."""
        return self._tail_of(topic, partition).position

    def end_offset(self, topic: str, partition: int) -> int:
        """Where the partition's log ended when the broker last said; minus `position` it is the lag."""
        return self._tail_of(topic, partition).end_offset

    def pause(self, *partitions: tuple[str, int]) -> None:
        """Give no records of these until `resume`; their positions stay."""
        for tail in self._tails_of(partitions):
            tail.paused = True

    def resume(self, *partitions: tuple[str, int]) -> None:
        for tail in self._tails_of(partitions):
            tail.paused = False
        self._arrived.set()

    async def seek(self, topic: str, partition: int, to: Position) -> None:
        """Go on at another position of an assigned partition, also in a log that was replaced.

        A span's stop stays. Raises as `assign` does.
        """
        old = self._tail_of(topic, partition)
        starts = await self._positions.find({old.at: Span(to)}, self._deadline())
        new = self._tail(old.at, replace(starts[old.at], stop_offset=old.stop_offset), old.limits)
        new.paused = old.paused
        self._tails[old.at] = new
        self._turns[self._turns.index(old)] = new
        await self._begin([old])

    async def commit(self, offsets: Mapping[tuple[str, int], int | CommittedOffset] | None = None) -> None:
        """Remember for the group how far it has come; durable on return.

        offsets: the next one to read for each partition; None: the positions of all assigned partitions
        that have changed since they were last committed. Raises InvalidArgumentError without a group_id.
        """
        if offsets is None:
            now = {at: tail.position for at, tail in self._tails.items()}
            offsets = {at: offset for at, offset in now.items() if self._committed.get(at) != offset}
        await commit_offsets(self._connection, self._group_id, offsets, self._deadline())
        for at, commit in offsets.items():
            offset = commit.offset if isinstance(commit, CommittedOffset) else commit
            self._committed[TopicPartition(*at)] = offset

    async def close(self) -> None:
        """Stop reading and give up the connection. Commits nothing by itself. May be called again."""
        await asyncio.gather(*(tail.stop() for tail in self._tails.values()))
        await super().close()
        self._arrived.set()

    async def _next_tail(self) -> Tail | None:
        """A partition with records to hand out, each in turn; None when all is read."""
        if not self._tails:
            raise InvalidArgumentError("nothing is assigned to this consumer; see `assign`")
        while True:
            if not self._connection.is_open:
                raise ClosedError("the consumer is closed")
            self._arrived.clear()
            for _ in range(len(self._turns)):
                tail = self._turns[0]
                self._turns.rotate(-1)
                if tail.load():
                    return tail
                if tail.error is not None and not tail.paused:
                    error, tail.error = tail.error, None
                    raise error
                tail.start()
            if all(tail.finished for tail in self._turns):
                return None
            await self._arrived.wait()

    def _tail(self, at: TopicPartition, start: Start, limits: TailLimits) -> Tail:
        return Tail(self._connection, at, start, limits, self._arrived.set)

    async def _begin(self, instead_of: Iterable[Tail]) -> None:
        """Read what is assigned now and not what was before; whoever iterates looks anew."""
        await asyncio.gather(*(tail.stop() for tail in instead_of))
        for tail in self._turns:
            tail.start()
        self._arrived.set()

    def _tail_of(self, topic: str, partition: int) -> Tail:
        tail = self._tails.get(TopicPartition(topic, partition))
        if tail is None:
            raise InvalidArgumentError(
                f"topic {topic!r} partition {partition} is not assigned to this consumer"
            )
        return tail

    def _tails_of(self, partitions: tuple[tuple[str, int], ...]) -> list[Tail]:
        return [self._tail_of(*at) for at in partitions]

    def _deadline(self) -> float:
        return time.monotonic() + self._outage_s_max
