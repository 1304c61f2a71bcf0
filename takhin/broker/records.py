"""The verbs about records: produce, from the request to its answer, and the start of a consume call.

Whatever can be refused is refused before anything is queued. How a consume call goes on is in consumption.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import NamedTuple

from takhin import limits
from takhin.broker.consumption import consume
from takhin.broker.shared_reads import SharedReads
from takhin.broker.topics import (
    check_incarnation,
    check_topic_id,
    find_log,
    find_topic,
    log_of,
)
from takhin.broker.unsent import Unsent
from takhin.clock import Clock
from takhin.errors import (
    InvalidArgumentError,
    InvalidBatchError,
    OutcomeUnknownError,
    OverloadedError,
    ReadOnlyTopicError,
    ShuttingDownError,
)
from takhin.model import (
    CHOOSE_PARTITION,
    Appended,
    Batch,
    Chunk,
    Condition,
    ConsumeRequest,
    ProduceRequest,
    TimestampType,
    TopicConfig,
)
from takhin.packed import Later
from takhin.partitioner import partition_for_key
from takhin.settings import Settings
from takhin.storage.contract import Capability, Engine, PartitionLog, Topic


class PendingProduce(NamedTuple):
    """A produce request whose batch is queued.

    size_bytes: of the batch.
    appended: resolves when the batch is durable or was refused; with acks 0 it has resolved already.
    deadline: when the wait ends, in the loop's time; None: the wait has no bound.
    """

    size_bytes: int
    appended: asyncio.Future[Appended]
    deadline: float | None

    async def answer(self) -> Appended:
        """Wait until the request can be answered.

        Past the deadline raises OutcomeUnknownError: the batch stays queued and may still become durable.
        Raises what the engine's `append` raises.
        """
        if self.deadline is None:
            return await self.appended
        try:
            async with asyncio.timeout_at(self.deadline):
                return await self.appended
        except TimeoutError:
            raise OutcomeUnknownError(
                "the records were not durable within timeout_ms; whether they will be is unknown"
            ) from None


class RecordVerbs:
    """Produces and consumes records."""

    def __init__(self, engine: Engine, settings: Settings, clock: Clock) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._reads = SharedReads(
            bytes_max=settings.consume.shared_bytes_max, records_max=settings.consume.response_records_max
        )
        self._unsent = Unsent(settings.consume.unsent_bytes_max)
        self._turn = count()
        self._draining = False

    @property
    def packs(self) -> bool:
        """True if batches had better come packed."""
        return Capability.PACKED in self._engine.capabilities

    def drain(self) -> None:
        """Refuse produce requests from now on."""
        self._draining = True

    def check_counts(self, records: int, headers: Iterable[int]) -> None:
        """Refuse more records or headers than a batch may have. `produce` calls it, too.

        headers: how many each record has; records without any may be left out.
        """
        settings = self._settings.produce
        if records > settings.batch_records_max:
            raise InvalidArgumentError(
                f"a batch has at most {settings.batch_records_max} records, not {records}",
                field="records",
                value=records,
            )
        counts = list(headers)
        if not counts:
            return
        for found, most, whose in (
            (max(counts), settings.record_headers_max, "record"),
            (sum(counts), settings.batch_headers_max, "batch"),
        ):
            if found > most:
                raise InvalidArgumentError(
                    f"a {whose} has at most {most} headers, not {found}", field="headers", value=found
                )

    def produce(self, request: ProduceRequest) -> PendingProduce:
        """Queue the request's batch at once.

        Batches of one caller for one partition land in the order of the calls. Timestamps of 0 become
        the broker's clock. Raises a RefusedError or an UnavailableError for what cannot be queued. Whether
        the batch's condition holds is known only when the answer is.
        """
        return self._queue(request, *self._checked(request), _deadline(request))

    async def submit(self, request: ProduceRequest) -> PendingProduce:
        """Queue the request's batch as soon as the queue has room; the wait counts against timeout_ms.

        Raises what `produce` raises, refusals first; OverloadedError, StorageFullError.
        """
        deadline = _deadline(request)
        topics = self._engine.topics
        log, batch = self._checked(request)
        await self._room(request.timeout_ms, deadline)
        # From here to the end nothing may be awaited: others would take the room, or come in between.
        if self._engine.topics is not topics:  # a topic may be read only now, or have more partitions
            log, batch = self._checked(request)
        return self._queue(request, log, batch, deadline)

    async def _room(self, timeout_ms: int, deadline: float | None) -> None:
        """Return when the queue has room. deadline: as `_deadline` says."""
        if deadline is None:  # a timer for each call takes longer than to look
            return await self._engine.room()
        try:
            async with asyncio.timeout_at(deadline):
                await self._engine.room()
        except TimeoutError:
            raise OverloadedError(
                f"nothing was stored: the queue had no room within timeout_ms ({timeout_ms})",
                timeout_ms=timeout_ms,
            ) from None

    def _queue(
        self, request: ProduceRequest, log: PartitionLog, batch: Batch, deadline: float | None
    ) -> PendingProduce:
        if self._draining:
            raise ShuttingDownError
        appended = log.append(batch)
        if request.required_acks == 0:
            appended = asyncio.get_running_loop().create_future()
            appended.set_result(Appended(request.partition, -1, batch.first_timestamp, len(batch)))
        return PendingProduce(batch.size_bytes, appended, deadline)

    def _checked(self, request: ProduceRequest) -> tuple[PartitionLog, Batch]:
        """Where the batch belongs, and the batch with its timestamps; whatever can be refused is."""
        if self._draining:
            raise ShuttingDownError
        batch, acks = request.batch, request.required_acks
        if not batch.values:
            raise InvalidBatchError("a batch has at least one record")
        if batch.packed is None:  # else it was within all limits when it was looked at
            self.check_counts(len(batch.values), map(len, batch.headers.values()))
            limits.check_headers(batch, self._settings.produce.header_bytes_max)
        if acks is not None:
            limits.check_range("required_acks", acks, -1, 1)
        if request.timeout_ms:
            limits.check_range("timeout_ms", request.timeout_ms, 0)
        topic = check_topic_id(find_topic(self._engine, request.topic), request.topic_id)
        if not topic.described:  # its records would be judged by another config than it has
            self._choose_log(topic, request.partition, batch.keys).check_available()
        if topic.config.read_only:
            raise ReadOnlyTopicError(topic.name)
        now = self._clock()
        if batch.condition is not None:
            limits.check_condition(batch, batch.condition, request.partition)
            self._check_capabilities(batch.condition)
            batch = self._with_source(batch, batch.condition)
        stamped = _stamped(batch, topic.config, now)
        limits.check_batch(stamped, topic.config, now=now)
        return self._choose_log(topic, request.partition, stamped.keys), stamped

    def consume(self, request: ConsumeRequest) -> AsyncGenerator[Chunk, None]:
        """The log's records, then new ones as they arrive. consumption.py says what it yields and raises."""
        log = find_log(self._engine, request.topic, request.partition)
        check_incarnation(log, request.incarnation_id)
        return consume(log, request, self._reads, self._unsent, self._settings)

    def count_consumed(self, topic: str, *, records: int, size_bytes: int) -> None:
        """Count what a consume call is sent. size_bytes: of the response."""
        if topic in self._engine.topics:  # else it is being deleted, and its meter is gone
            meter = self._engine.meters.topic(topic)
            meter.consumed_records += records
            meter.consumed_bytes += size_bytes

    def _with_source(self, batch: Batch, condition: Condition) -> Batch:
        """The batch with its source, which names the log that the input record is from."""
        source = condition.source
        if source is None:
            return batch
        log = find_log(self._engine, source.topic, source.partition)
        check_incarnation(log, source.incarnation_id).check_available()
        limits.check_source(source, log.end_offset)
        source = source._replace(incarnation_id=log.incarnation_id)
        return replace(batch, condition=replace(condition, source=source))

    def _check_capabilities(self, condition: Condition) -> None:
        """Refuse a condition that the engine cannot judge."""
        capabilities = self._engine.capabilities
        if condition.producer_id and Capability.SEQUENCES not in capabilities:
            raise _lacking("producer_id", Capability.SEQUENCES)
        if condition.expected_offset is not None and Capability.EXPECTED_OFFSET not in capabilities:
            raise _lacking("expected_offset", Capability.EXPECTED_OFFSET)
        if condition.source is not None and Capability.SOURCES not in capabilities:
            raise _lacking("source", Capability.SOURCES)

    def _choose_log(self, topic: Topic, partition: int, keys: Sequence[bytes | None]) -> PartitionLog:
        """The log for a batch: the one named, the one its keys belong to, or the next one in turn."""
        if partition != CHOOSE_PARTITION:
            return log_of(topic, partition)
        partitions = topic.partitions
        if len(partitions) == 1:
            return partitions[0]
        chosen = {partition_for_key(key, len(partitions)) for key in set(keys) if key is not None}
        if len(chosen) > 1:
            raise InvalidBatchError(
                f"the keys of the batch belong to partitions {sorted(chosen)} of topic {topic.name!r}, but a "
                "batch goes to one: name it, or send the keys of each partition in a batch of their own"
            )
        return partitions[chosen.pop() if chosen else next(self._turn) % len(partitions)]


def _deadline(request: ProduceRequest) -> float | None:
    """When the wait for an answer ends, in the loop's time; None: it has no bound."""
    if request.timeout_ms <= 0:
        return None
    return asyncio.get_running_loop().time() + request.timeout_ms / 1_000


def _lacking(field: str, capability: Capability) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"this broker's storage engine does not take {field}: it lacks the capability {capability.value!r}",
        field=field,
    )


def _stamped(batch: Batch, config: TopicConfig, now: int) -> Batch:
    """The batch with the broker's clock (ms) where it belongs."""
    timestamps: Sequence[int]
    if (packed := batch.packed) is not None:
        every = config.timestamp_type is TimestampType.LOG_APPEND_TIME
        old, count = batch.timestamps, len(batch)
        later = Later(count, lambda: [now] * count if every else [timestamp or now for timestamp in old])
        return replace(batch, timestamps=later, packed=packed.stamped(now, every=every))
    if config.timestamp_type is TimestampType.LOG_APPEND_TIME or not any(batch.timestamps):
        timestamps = [now] * len(batch)
    elif 0 in batch.timestamps:
        timestamps = [timestamp or now for timestamp in batch.timestamps]
    else:
        return batch
    return Batch(batch.keys, batch.values, timestamps, batch.headers, batch.size_bytes, batch.condition)
