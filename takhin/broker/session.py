"""What a caller can ask of a broker: one method for each verb, and the only way in for adapters such as rpc.

Every verb comes by here with its caller at hand. So rules of access, quotas and notes of activity belong in
these methods, before the call. Today every caller may do everything.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence

from takhin.broker.broker import Broker
from takhin.broker.records import PendingProduce
from takhin.broker.throttling import throttled, within_quota
from takhin.group_views import DescribedGroup, ListedGroup
from takhin.groups.membership import Membership
from takhin.members import NOBODY, Committer, JoinGroup
from takhin.model import (
    BrokerHealth,
    Caller,
    Chunk,
    CommittedOffset,
    ConsumeRequest,
    OffsetAtTime,
    OffsetCommit,
    PartitionInfo,
    ProduceRequest,
    TopicInfo,
    TopicPartition,
)
from takhin.quotas import Allowance
from takhin.topic_configs import ConfigEntry


class Session:
    """A broker as one caller sees it. Made for each call, so it holds these two values and nothing else."""

    __slots__ = ("_broker", "caller")

    def __init__(self, broker: Broker, caller: Caller) -> None:
        self._broker = broker
        self.caller = caller

    # Topics

    async def create_topic(
        self, name: str, *, num_partitions: int, replication_factor: int, configs: Mapping[str, str]
    ) -> list[str]:
        """Make a topic; durable on return. Returns warnings. num_partitions: 0 and below mean 1."""
        return await self._broker.topics.create(
            name, num_partitions=num_partitions, replication_factor=replication_factor, configs=configs
        )

    async def delete_topic(self, name: str) -> None:
        """Remove a topic with its records and committed offsets; durable on return."""
        await self._broker.topics.delete(name)

    async def compact_topic(self, name: str) -> int:
        """Remove records that later ones with their keys supersede; returns how many. Durable on return."""
        return await self._broker.compaction.compact(name)

    async def alter_topic(
        self, name: str, *, configs: Mapping[str, str], reset: Collection[str], num_partitions: int
    ) -> list[str]:
        """Change a topic's configs and give it more partitions; durable on return. Returns warnings.

        configs: what the topic says itself from now on. reset: what follows the broker's settings again.
        num_partitions: 0 leaves them as they are.
        """
        return await self._broker.topics.alter(
            name, configs=configs, reset=reset, num_partitions=num_partitions
        )

    def describe_configs(self, name: str) -> list[ConfigEntry]:
        """Every config of a topic, with its value in force and who says so."""
        return self._broker.topics.configs(name)

    def count_partitions(self, topic: str) -> int:
        """How many partitions a topic has now; 0 if there is no such topic."""
        return self._broker.topics.count_partitions(topic)

    def list_topics(self) -> Sequence[str]:
        """The names of all topics, sorted. The same object until the catalogue changes."""
        return self._broker.topics.names()

    async def describe_topic(self, name: str) -> TopicInfo:
        """A topic's config, and its partitions as they are now."""
        return await self._broker.topics.describe(name)

    def describe_topics(
        self, names: Sequence[str], *, without_partitions: bool = False, without_sizes: bool = False
    ) -> AsyncIterator[TopicInfo]:
        """Those of `names` that exist, each once."""
        return self._broker.topics.describe_known(
            names, without_partitions=without_partitions, without_sizes=without_sizes
        )

    def describe_partition(self, topic: str, partition: int) -> PartitionInfo:
        """The ends of one partition now."""
        return self._broker.topics.describe_partition(topic, partition)

    # Records

    def check_counts(self, records: int, headers: Iterable[int]) -> None:
        """Refuse more records or headers than a batch may have. headers: how many each record has.

        `produce` refuses them as well. An adapter that has to convert records calls this before, so that a
        request that is too large costs nothing.
        """
        self._broker.records.check_counts(records, headers)

    def produce(self, request: ProduceRequest) -> PendingProduce:
        """Queue the request's batch at once; `answer` of what is returned waits until it is durable.

        Raises a RefusedError or an UnavailableError for what cannot be queued.
        """
        return self._broker.records.produce(request)

    async def submit(self, request: ProduceRequest) -> PendingProduce:
        """Like `produce`, once the queue has room. Raises OverloadedError, StorageFullError, too."""
        return await self._broker.records.submit(request)

    def take_produce(self, records: int, size_bytes: int) -> None:
        """Count a produce request against the caller's quotas. Raises OverloadedError if it is over them."""
        if (allowance := self._allowance()) is not None:
            allowance.produce(records=records, size_bytes=size_bytes, now=time.monotonic())

    def take_stream_produce(self, records: int, size_bytes: int) -> float:
        """Count a request of a produce stream; returns for how many seconds it is to be held back."""
        if (allowance := self._allowance()) is None:
            return 0.0
        return allowance.stream_produce(records=records, size_bytes=size_bytes, now=time.monotonic())

    def consume(self, request: ConsumeRequest) -> AsyncGenerator[Chunk, None]:
        """The log's records, then new ones as they arrive, within the caller's quotas.

        consumption.py says what it yields and raises.
        """
        records, settings = self._broker.records, self._broker.settings.consume
        if (allowance := self._allowance()) is None:
            return records.consume(request)
        return throttled(records.consume(within_quota(request, allowance, settings)), allowance, settings)

    def count_consumed(self, topic: str, *, records: int, size_bytes: int) -> None:
        """Count what a consume call is sent. size_bytes: of the response."""
        self._broker.records.count_consumed(topic, records=records, size_bytes=size_bytes)

    async def delete_records(self, topic: str, partition: int, before_offset: int) -> int:
        """Remove the records below an offset (-1: all up to the end as of now); durable on return.

        Returns where the log begins now.
        """
        return await self._broker.ends.delete_records(topic, partition, before_offset)

    async def offsets_for_times(
        self, queries: Sequence[tuple[TopicPartition, int]]
    ) -> list[tuple[TopicPartition, OffsetAtTime]]:
        """For each (partition, time in ms) the first record at or after the time."""
        return await self._broker.ends.offsets_for_times(queries)

    # Consumer groups

    async def join_group(self, request: JoinGroup) -> Membership:
        """Become a member of a group, or come back to it. coordinator.py says what it raises."""
        return await self._broker.coordinator.join(request, self.caller.address)

    async def commit_offsets(
        self,
        group_id: str,
        offsets: Collection[OffsetCommit],
        committer: Committer = NOBODY,
        *,
        size_bytes: int = 0,
    ) -> None:
        """Remember (partition, next offset to read, metadata) for a group; durable on return.

        committer: the member that commits. size_bytes: what the offsets take in memory meanwhile.
        """
        await self._broker.group_offsets.commit(group_id, offsets, committer, size_bytes)

    async def committed_offsets(
        self, group_id: str, partitions: Sequence[TopicPartition]
    ) -> list[tuple[TopicPartition, CommittedOffset | None]]:
        """What the group committed in `partitions` (None: nothing); without any, everywhere."""
        return await self._broker.group_offsets.committed(group_id, partitions)

    async def list_groups(self) -> list[ListedGroup]:
        """Every group that has committed an offset or has members, sorted."""
        return await self._broker.group_views.list_groups()

    async def describe_group(self, group_id: str) -> DescribedGroup:
        """A group with its members and all that it has committed. Raises UnknownGroupError."""
        return await self._broker.group_views.describe_group(group_id)

    async def delete_group(self, group_id: str) -> None:
        """Drop all that the group committed; durable. Raises UnknownGroupError, GroupNotEmptyError."""
        await self._broker.group_offsets.delete_group(group_id)

    async def delete_offsets(self, group_id: str, topics: Collection[str]) -> None:
        """Drop what the group committed in some topics. Raises UnknownGroupError, GroupNotEmptyError."""
        await self._broker.group_offsets.delete_offsets(group_id, topics)

    # The broker itself

    def _allowance(self) -> Allowance | None:
        """What the caller's records are counted with; None: they are not limited."""
        quotas = self._broker.quotas
        return None if quotas.off else quotas.of(self.caller, time.monotonic())

    def health(self) -> BrokerHealth:
        """The broker's version, its uptime, and what is wrong now."""
        return self._broker.health()
