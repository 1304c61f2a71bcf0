"""What a broker does, one method per verb. Knows neither messages nor SQL.

Each verb refuses whatever can be refused before anything is queued or written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import count

from takhin import limits, topic_configs
from takhin.clock import Clock
from takhin.consumption import consume
from takhin.errors import (
    InvalidArgumentError,
    InvalidBatchError,
    OutcomeUnknownError,
    ShuttingDownError,
    UnknownGroupError,
    UnknownPartitionError,
    UnknownTopicError,
)
from takhin.model import (
    CHOOSE_PARTITION,
    Appended,
    Batch,
    Chunk,
    CommittedOffset,
    ConsumeRequest,
    Group,
    GroupOffset,
    GroupState,
    PartitionInfo,
    TimestampType,
    TopicConfig,
    TopicInfo,
    TopicPartition,
    TopicSpec,
)
from takhin.partitioner import partition_for_key
from takhin.settings import Settings
from takhin.shared_reads import SharedReads
from takhin.signals import Signals
from takhin.storage.engine import Engine, PartitionLog, Topic


class Broker:
    """The verbs, over one engine."""

    def __init__(self, engine: Engine, settings: Settings, *, clock: Clock, signals: Signals) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._signals = signals
        self._reads = SharedReads(
            bytes_max=settings.consume.shared_bytes_max, records_max=settings.consume.response_records_max
        )
        self._turn = count()
        self._draining = False

    def drain(self) -> None:
        """Refuse produce from now on; what is queued will be committed."""
        self._draining = True

    @property
    def troubles(self) -> Sequence[str]:
        """A sentence for each thing that is wrong now, which the broker goes on without."""
        return self._engine.troubles

    # Topics

    async def create_topic(
        self, name: str, *, num_partitions: int, replication_factor: int, configs: Mapping[str, str]
    ) -> None:
        """Make a topic; durable on return. num_partitions: 0 and below means 1."""
        topics = self._settings.topics
        limits.check_topic_name(name)
        limits.check_replication(replication_factor)
        num_partitions = max(num_partitions, 1)
        limits.check_range("num_partitions", num_partitions, 1, topics.partitions_per_topic_max)
        config = topic_configs.parse(configs, self._settings)
        there = sum(len(topic.partitions) for topic in self._engine.topics.values())
        if there + num_partitions > topics.partitions_max:
            raise InvalidArgumentError(
                f"{num_partitions} more partitions are too many: the broker has {there} and its limit is "
                f"{topics.partitions_max} (topics.partitions_max)",
                field="num_partitions",
                value=num_partitions,
            )
        await self._engine.create_topic(TopicSpec(name, num_partitions, config))

    async def delete_topic(self, name: str) -> None:
        """Remove a topic with its records and committed offsets; durable on return."""
        limits.check_topic_name(name)
        await self._engine.delete_topic(name)

    @property
    def topics(self) -> Mapping[str, Topic]:
        """A snapshot of the catalogue; another one after each change."""
        return self._engine.topics

    def describe_topic(self, name: str) -> TopicInfo:
        topic = self._topic(name)
        return TopicInfo(
            topic.name,
            topic.topic_id,
            topic.config,
            [
                PartitionInfo(log.partition, log.start_offset, log.end_offset, log.incarnation_id)
                for log in topic.partitions
            ],
        )

    def describe_topics(self, names: Sequence[str]) -> list[TopicInfo]:
        """Those of `names` that are there, each once."""
        return [self.describe_topic(name) for name in dict.fromkeys(names) if name in self._engine.topics]

    def partition_info(self, topic: str, partition: int) -> PartitionInfo:
        log = self._log(topic, partition)
        return PartitionInfo(partition, log.start_offset, log.end_offset, log.incarnation_id)

    # Records

    async def room(self) -> None:
        """To be awaited right before `produce`: the bound on what is queued. Raises OverloadedError."""
        await self._engine.room()

    def produce(self, topic: str, partition: int, batch: Batch) -> asyncio.Future[Appended]:
        """Queue a batch; the future resolves when it is durable.

        Batches of one caller for one partition land in the order of the calls. Timestamps of 0 become
        the broker's clock. Raises a RefusedError or an UnavailableError at once for what cannot be
        queued. What a batch's condition comes to is told by the future.
        """
        if self._draining:
            raise ShuttingDownError
        found = self._topic(topic)
        now = self._clock()
        if batch.condition is not None:
            limits.check_condition(batch, batch.condition, partition)
        stamped = _stamped(batch, found.config, now)
        limits.check_batch(
            stamped,
            max_message_bytes=found.config.max_message_bytes,
            now=now,
            ahead_ms_max=self._settings.produce.timestamp_ahead_ms_max,
        )
        return self._choose_log(found, partition, stamped.keys).append(stamped)

    async def durable(self, appended: asyncio.Future[Appended], deadline: float | None) -> Appended:
        """Wait for what `produce` queued.

        deadline: in the loop's time, None for no bound. Past it OutcomeUnknownError: the batch stays
        queued and may still become durable.
        """
        if deadline is None:
            return await appended
        try:
            async with asyncio.timeout_at(deadline):
                return await appended
        except TimeoutError:
            raise OutcomeUnknownError(
                "the records were not durable within timeout_ms; whether they will be is unknown"
            ) from None

    def consume(self, request: ConsumeRequest) -> AsyncGenerator[Chunk, None]:
        """Records as they are and as they come; see consumption.py for what it yields and raises."""
        log = self._log(request.topic, request.partition)
        return consume(log, request, self._signals, self._reads, self._settings)

    # Consumer groups

    async def commit_offsets(self, group_id: str, offsets: Sequence[tuple[TopicPartition, int, str]]) -> None:
        """Remember (partition, next offset to read, metadata) for a group; durable on return.

        All are checked before any is written. Across partitions they are separate transactions: after
        an UnavailableError some may have been remembered, and committing again is right.
        """
        limits.check_group_id(group_id)
        limits.check_range("offsets", len(offsets), 0, self._settings.groups.commit_offsets_max)
        now = self._clock()
        logs: dict[PartitionLog, CommittedOffset] = {}
        for (topic, partition), offset, metadata in offsets:
            log = self._log(topic, partition)
            if log in logs:
                raise InvalidArgumentError(
                    f"topic {topic!r} partition {partition} stands twice in the commit", field="offsets"
                )
            limits.check_commit_offset(topic, partition, offset, log.end_offset)
            logs[log] = CommittedOffset(offset, limits.check_metadata(metadata), now)
        await _all_durable([log.commit_offset(group_id, committed) for log, committed in logs.items()])

    async def committed_offsets(
        self, group_id: str, partitions: Sequence[TopicPartition]
    ) -> list[tuple[TopicPartition, CommittedOffset | None]]:
        """What the group committed in the partitions asked for (None: nothing), or everywhere if none is."""
        limits.check_group_id(group_id)
        limits.check_range("partitions", len(partitions), 0, self._settings.groups.commit_offsets_max)
        if not partitions:
            offsets = await self._group_offsets(group_id)
            return [(TopicPartition(o.topic, o.partition), o.committed) for o in offsets]
        logs = [(asked, self._log(*asked)) for asked in partitions]
        return [(asked, await log.committed_offset(group_id)) for asked, log in logs]

    async def group_ids(self) -> list[str]:
        """Every group that has committed an offset, sorted."""
        found: set[str] = set()
        for log in self._logs():
            found.update(await log.group_ids())
        return sorted(found)

    async def describe_group(self, group_id: str) -> Group:
        limits.check_group_id(group_id)
        offsets = await self._group_offsets(group_id)
        if not offsets:
            raise UnknownGroupError(group_id)
        return Group(group_id, GroupState.EMPTY, offsets)

    async def delete_group(self, group_id: str) -> None:
        """Drop all that the group committed; durable on return."""
        await self.describe_group(group_id)  # refuses an unknown one
        logs = [log for log in self._logs() if await log.committed_offset(group_id)]
        await _all_durable([log.forget_group(group_id) for log in logs])

    async def _group_offsets(self, group_id: str) -> list[GroupOffset]:
        offsets = []
        for log in self._logs():
            committed = await log.committed_offset(group_id)
            if committed is not None:
                offsets.append(GroupOffset(log.topic, log.partition, committed, log.end_offset))
        return offsets

    # Finding things

    def _topic(self, name: str) -> Topic:
        topic = self._engine.topics.get(name)
        if topic is None:
            limits.check_topic_name(name)  # an impossible name deserves the better sentence
            raise UnknownTopicError(name)
        return topic

    def _log(self, topic: str, partition: int) -> PartitionLog:
        partitions = self._topic(topic).partitions
        if not 0 <= partition < len(partitions):
            raise UnknownPartitionError(topic, partition, len(partitions))
        return partitions[partition]

    def _logs(self) -> list[PartitionLog]:
        """Every log, by topic and partition; a snapshot of the catalogue."""
        return [log for _, topic in sorted(self._engine.topics.items()) for log in topic.partitions]

    def _choose_log(self, topic: Topic, partition: int, keys: Sequence[bytes | None]) -> PartitionLog:
        """The log for a batch: the one named, the one its keys belong to, or the next one in turn."""
        partitions = topic.partitions
        if partition != CHOOSE_PARTITION:
            if not 0 <= partition < len(partitions):
                raise UnknownPartitionError(topic.name, partition, len(partitions))
            return partitions[partition]
        if len(partitions) == 1:
            return partitions[0]
        chosen = {partition_for_key(key, len(partitions)) for key in set(keys) if key is not None}
        if len(chosen) > 1:
            raise InvalidBatchError(
                f"the keys of the batch belong to partitions {sorted(chosen)} of topic {topic.name!r}, but a "
                "batch goes to one: name it, or send the keys of each partition in a batch of their own"
            )
        return partitions[chosen.pop() if chosen else next(self._turn) % len(partitions)]


def _stamped(batch: Batch, config: TopicConfig, now: int) -> Batch:
    """The batch with the broker's clock (ms) where it belongs."""
    timestamps: Sequence[int]
    if config.timestamp_type is TimestampType.LOG_APPEND_TIME or not any(batch.timestamps):
        timestamps = [now] * len(batch)
    elif 0 in batch.timestamps:
        timestamps = [timestamp or now for timestamp in batch.timestamps]
    else:
        return batch
    return Batch(batch.keys, batch.values, timestamps, batch.headers, batch.size_bytes, batch.condition)


async def _all_durable(futures: Sequence[asyncio.Future[None]]) -> None:
    """Wait for every one, then raise the first error if there is any."""
    for outcome in await asyncio.gather(*futures, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
