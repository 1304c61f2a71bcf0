"""`Consumer`: the face of `takhin.client.consuming`. Owns the arguments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Literal, Self

import grpc

from takhin.client.base import Client
from takhin.client.clock import monotonic
from takhin.client.connection import Connection
from takhin.client.consuming.assignment import Assignment
from takhin.client.consuming.callbacks import Callback, Callbacks, in_callback
from takhin.client.consuming.commits import Commits, Given
from takhin.client.consuming.fetcher import FetchPlan
from takhin.client.consuming.iterating import records_of
from takhin.client.consuming.lookup import NO_GROUP, Lookup, raise_no_group
from takhin.client.consuming.options import GroupOptions, Habits, Places, Reset, check_subscribed
from takhin.client.consuming.prefetched import Prefetched
from takhin.client.consuming.scout import Scout
from takhin.client.consuming.sharing import Share
from takhin.client.consuming.starts import Starts
from takhin.client.consuming.watch import Watch
from takhin.client.forks import forked
from takhin.client.model import START, Position, Record, Span
from takhin.client.record_batch import RecordBatch
from takhin.client.retry import Retry
from takhin.client.streams import Subscription
from takhin.client.tls import Tls, TlsFiles
from takhin.errors import InvalidArgumentError
from takhin.limits import check_group_id, check_range
from takhin.model import Source, TopicPartition


class Consumer(Client):
    """Reads from one broker. For one event loop.

    Then `async for record in consumer`, `batches()` or `poll()`. What is read says either the program
    itself, by `assign` or `assign_topics`, or its group, if `topics` or `pattern` is given: then the
    consumer joins the group when it is first iterated, shares the partitions of these topics with the
    group's other members, and leaves at `close`. Reading goes on by itself after a restart of the broker, an
    aged connection or a stream gone silent, at the next offset: nothing is skipped or repeated.

    group_id: for `commit`, COMMITTED, and to join. uncommitted: where COMMITTED begins if nothing is
    committed; None: where `reset` says, else at START.
    topics: that are read as a member; they need not exist yet. pattern: or all whose whole name it matches
    (RE2).
    auto_commit: commit what is processed, which is what was iterated past, every commit_interval_ms, when a
    partition goes to another member, and at `close`.
    reset: "earliest" or "latest": where a member goes on if its position is lost, as by retention. "error":
    it raises OffsetOutOfRangeError or LogReplacedError.
    on_assigned, on_revoked, on_lost: plain or async functions of a list of TopicPartition; see
    docs/client.md.
    instance_id: makes it a static member: with keep_for_restart its partitions wait, after `close`, for
    a consumer of the same instance_id, for the time of a session.
    client_id: a name for people. assignor: "uniform" or "range".
    session_timeout_ms: a member that gives no sign of life for so long is removed. It gives them by itself,
    however slowly records are processed, as long as the event loop runs.
    revoke_timeout_ms: how long it may take until what was handed out of a partition that goes to another
    member is processed, and on_revoked has returned.
    prefetch_bytes_max: of records that are read ahead, shared evenly by the partitions, each of which
    may pass its share by one response or record.
    silence_ms_max: a stream that is silent for so long is reopened; the broker sends something at least
    every `consume.heartbeat_ms` (5,000 by default).
    outage_timeout_ms: how long a partition's outage may last before iterating raises its error.
    compression: "zstd" lets the broker compress records on their way (the extra `zstd`).
    traces: make spans by OpenTelemetry, if the program has set it up (the extra `otel`); see docs/tracing.md.
    """

    _kind = "Consumer"
    _threaded = False
    _share: Share | None = None

    def __init__(
        self,
        server: str,
        *,
        group_id: str | None = None,
        topics: Iterable[str] | None = None,
        pattern: str | None = None,
        uncommitted: Position | None = None,
        reset: Literal["earliest", "latest", "error"] = "error",
        auto_commit: bool = True,
        commit_interval_ms: int = 5_000,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        instance_id: str = "",
        keep_for_restart: bool = True,
        client_id: str = "",
        assignor: str = "",
        session_timeout_ms: int = 45_000,
        revoke_timeout_ms: int = 300_000,
        prefetch_bytes_max: int = 16 << 20,
        silence_ms_max: int = 15_000,
        outage_timeout_ms: int = 120_000,
        compression: Literal["zstd"] | None = None,
        traces: bool = False,
        tls: Tls | TlsFiles | grpc.ChannelCredentials | None = None,
        token: str | None = None,
        retry: Retry | None = None,
    ) -> None:
        check_range("outage_timeout_ms", outage_timeout_ms, 1)
        check_range("commit_interval_ms", commit_interval_ms, 1)
        super().__init__(server, tls, token, retry, compression, traces=traces)
        self._outage_s_max = outage_timeout_ms / 1_000
        plan = self._plan(prefetch_bytes_max, silence_ms_max)
        self._group_id = None if group_id is None else check_group_id(group_id)
        self._assigned = Assignment(self._calls, plan)
        self._records = records_of(self._assigned)
        self._commits = Commits(self._calls, self._retry, group_id or "", self._assigned)
        places = Places(Reset.named(reset), uncommitted)
        self._lookup = Lookup(self._calls, self._retry, group_id, places.first)
        if topics is not None or pattern is not None:
            subscription = Subscription(
                group_id=group_id or raise_no_group(NO_GROUP),
                topics=check_subscribed(topics, pattern),
                pattern=pattern or "",
                client_id=client_id,
                instance_id=instance_id,
                assignor=assignor,
                session_timeout_ms=session_timeout_ms,
                revoke_timeout_ms=revoke_timeout_ms,
            )
            callbacks = Callbacks(on_assigned, on_revoked, on_lost, threaded=self._threaded)
            habits = Habits(auto_commit, commit_interval_ms, keep_for_restart)
            self._join_as(GroupOptions(subscription, callbacks, habits, places, plan))

    def _plan(self, prefetch_bytes_max: int, silence_ms_max: int) -> FetchPlan:
        return FetchPlan(
            prefetch_bytes_max=check_range("prefetch_bytes_max", prefetch_bytes_max, 1),
            silence_s_max=check_range("silence_ms_max", silence_ms_max, 1) / 1_000,
            outage_s_max=self._outage_s_max,
            retry=self._retry,
            scout=Scout(self._calls),  # one for all, so that it bounds their streams together
        )

    def _join_as(self, options: GroupOptions) -> None:
        starts = Starts(self._calls, self._lookup, options)
        self._share = Share(self._calls, options, self._assigned, self._commits, starts)
        self._assigned.source = self._share

    async def assign(self, partitions: Mapping[tuple[str, int], Position | Span]) -> None:
        """Read these partitions from now on instead of any before, each from its position, or over its span.

        An empty mapping: none. Raises UnknownTopicError, UnknownPartitionError, InvalidArgumentError for
        a bad position, PartitionUnavailableError at once if the broker does not serve one of them (then
        nothing has changed; `Admin.describe_topic` tells which are served), and UnavailableError after
        outage_timeout_ms without a broker.
        """
        if self._share is not None:
            raise InvalidArgumentError(
                "this consumer reads what its group gives it; one that is to `assign` has no topics"
            )
        spans = {
            TopicPartition(*at): where if isinstance(where, Span) else Span(where)
            for at, where in partitions.items()
        }
        ranges = await self._lookup.find(spans, self._deadline())
        self._commits.forget()
        await self._assigned.replace_all(ranges)

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
            watch = Watch(self._calls, lookup, found, begin, self._assigned.add)
            await self._assigned.follow(watch)
            watch.start()

    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read."""
        return self._assigned.partitions()

    def __aiter__(self) -> AsyncIterator[Record]:
        self._records.owner = self
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

        timeout: 0 takes only what has been read already; None waits. Raises as iterating does, and
        ClosedError to whoever goes on after the None that `stop` led to.
        """
        await self._assigned.breathe()
        with suppress(TimeoutError, StopAsyncIteration):
            async with asyncio.timeout(timeout):
                return await anext(self)
        self._assigned.tell_of_end()
        return None

    def batches(self, max_records: int | None = None, timeout: float | None = None) -> Batches:
        """Like iterating over the consumer, but with all records of a response, or max_records, at once.

        timeout: iterating ends when none has come for so many seconds; it may be resumed.
        """
        if max_records is not None:
            check_range("max_records", max_records, 1)
        return Batches(self, self._assigned, max_records, timeout)

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
        self._commits.sought(at, ranges[at].position)

    async def commit(self, offsets: Given | None = None) -> None:
        """Store for the group what is processed; durable on return.

        offsets: a record or a batch: all of its partition up to it; or the next offset to read for each
        partition; None: all that was handed out, or in a callback all that is processed, of the assigned
        partitions that have changed since they were last committed. An offset of an assigned partition is one
        of the log that is read: LogReplacedError if another one has taken its place, and then nothing is
        committed. Raises FencedMemberError for what another member of the group has been given meanwhile,
        InvalidArgumentError without a group_id.
        """
        _ = self._group_id or raise_no_group()
        if offsets is not None:
            return await self._commits.store(offsets, self._deadline())
        done = self._assigned.processed() if in_callback() else self._assigned.positions()
        due = self._commits.due(done)
        if self._share is None:
            return await self._commits.store(dict(due.items()), self._deadline())
        for error in await self._commits.store_each(due, self._deadline()):
            raise error
        return None

    def stop(self) -> None:
        """Let iterating end, as soon as what was handed out is processed. `close` then commits that.

        May be called from a signal handler and from any thread. What waits for a record ends, too.
        """
        loop = self._connection.loop
        if loop is None:
            self._assigned.end()
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._assigned.end)

    def source(self, record: Record) -> Source:
        """The record as the source of those that are made of it, for `Producer.append`.

        Raises InvalidArgumentError without a group_id.
        """
        at = TopicPartition(record.topic, record.partition)
        incarnation_id = self._assigned.incarnation_ids([at]).get(at, "")
        return Source(self._group_id or raise_no_group(), *at, record.offset, incarnation_id)

    async def close(self) -> None:
        """Stop reading and give up the connection. May be called again.

        A member gives up what it holds, commits what is processed, unless `auto_commit` is off, and leaves
        its group. What is assigned otherwise is not committed. Does nothing in a forked process. Raises
        InCallbackError in a callback of the consumer.
        """
        if forked():
            return
        if self._share is not None:
            self._share.check_outside_callbacks()
        try:
            if self._share is not None and self._connection.is_open:
                await self._share.leave()
        finally:
            self._records.owner = None
            await self._assigned.close()
            await super().close()

    def _deadline(self) -> float:
        return monotonic() + self._outage_s_max

    def __del__(self) -> None:
        """End what reads for a consumer that nobody refers to any more, on its own loop."""
        connection = getattr(self, "_connection", None)
        if connection is not None and connection.is_open and not connection.loop.is_closed():
            loop = connection.loop
            loop.call_soon_threadsafe(
                _begin, loop, partial(_give_up, self._share, self._assigned, connection)
            )
        super().__del__()


_giving_up: set[asyncio.Task[None]] = set()


def _begin(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[object, object, None]]) -> None:
    task = loop.create_task(work())
    _giving_up.add(task)
    task.add_done_callback(_giving_up.discard)


async def _give_up(share: Share | None, assigned: Assignment, connection: Connection) -> None:
    """End what a consumer has left behind that was not closed. A member leaves, and commits nothing."""
    if share is not None:
        await share.depart()
    await assigned.close()
    await connection.close()


class Batches:
    """Iterates over batches of records. It may be resumed after it has ended, or was cancelled."""

    def __init__(
        self, owner: Consumer, assigned: Assignment, records_max: int | None, seconds_max: float | None
    ) -> None:
        self.records_max = records_max
        self._owner = owner  # it ends what reads for it when nobody refers to it any more
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

    _threaded = True

    @property
    def assigned(self) -> Assignment:
        return self._assigned

    def check_outside_callbacks(self) -> None:
        """Raise InCallbackError in a callback of the consumer."""
        if self._share is not None:
            self._share.check_outside_callbacks()
