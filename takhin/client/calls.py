"""Every RPC of takhin.v1 that the client uses, once: our values in, our values and errors out.

With calls_access.py and streams.py the only file of the client that sees messages and stubs. Each method is
one attempt; `retry.retried` repeats it where its caller wants that. (ProduceMessageStream is missing: it
saves a client like ours nothing.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import grpc

from takhin.client.calls_access import AccessCalls
from takhin.client.connection import Connection
from takhin.client.model import (
    CommittedOffset,
    GroupDescription,
    GroupListing,
    GroupMember,
    GroupOffset,
    Health,
    PartitionDescription,
    PartitionOffsets,
    TopicConfigEntry,
    TopicDescription,
    TopicOutline,
)
from takhin.client.packing import Packing
from takhin.client.producing.records import RecordEncoder
from takhin.client.streams import ConsumeStream, MemberStream
from takhin.errors import InvalidBatchError
from takhin.model import OffsetAtTime, Source, TopicPartition
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import requests

SERVICE = pb.DESCRIPTOR.services_by_name["TakhinService"].full_name
CONSUME_MESSAGES = f"/{SERVICE}/ConsumeMessages"
JOIN_CONSUMER_GROUP = f"/{SERVICE}/JoinConsumerGroup"


class Calls(AccessCalls):
    """The RPCs, in the order of takhin.proto and under its names.

    deadline: of clock.monotonic(); until then an attempt may take. Every method may raise an
    UnavailableError, CallFailedError or ClosedError besides the errors that are named.
    """

    def __init__(self, connection: Connection, packing: Packing) -> None:
        super().__init__(connection)
        self._packing = packing

    @property
    def server(self) -> str:
        """HOST:PORT, for error texts."""
        return self._connection.server

    def check_here(self) -> None:
        """Raise ForkedError or OtherLoopError where no call could be made."""
        self._connection.check_here()

    def encoder(self, topic: str, max_message_bytes: int) -> RecordEncoder:
        """Makes the records of a topic for `produce_message`."""
        return RecordEncoder(topic, max_message_bytes)

    async def create_topic(
        self, deadline: float, name: str, partitions: int, configs: Mapping[str, str]
    ) -> list[str]:
        """Make a topic; returns warnings.

        Raises TopicExistsError, InvalidTopicNameError, InvalidConfigError.
        """
        request = pb.CreateTopicRequest(name=name, num_partitions=partitions, configs=configs)
        return list((await self._connection.unary(self._stub.CreateTopic, request, deadline)).warnings)

    async def delete_topic(self, deadline: float, name: str) -> None:
        """Remove a topic with its records. Raises UnknownTopicError."""
        request = pb.DeleteTopicRequest(name=name)
        await self._connection.unary(self._stub.DeleteTopic, request, deadline)

    async def compact_topic(self, deadline: float, name: str) -> int:
        """Compact a topic; how many records were removed. Raises UnknownTopicError, InvalidArgumentError."""
        request = pb.CompactTopicRequest(name=name)
        return (await self._connection.unary(self._stub.CompactTopic, request, deadline)).removed

    async def alter_topic(
        self, deadline: float, name: str, configs: Mapping[str, str], reset: Iterable[str], partitions: int
    ) -> list[str]:
        """Change a topic; 0 partitions: as many as there are. Returns warnings. Raises UnknownTopicError."""
        request = pb.AlterTopicRequest(name=name, set=configs, reset=reset, num_partitions=partitions)
        return list((await self._connection.unary(self._stub.AlterTopic, request, deadline)).warnings)

    async def describe_topic_configs(self, deadline: float, name: str) -> list[TopicConfigEntry]:
        """Every config of a topic. Raises UnknownTopicError."""
        request = pb.DescribeTopicConfigsRequest(name=name)
        response = await self._connection.unary(self._stub.DescribeTopicConfigs, request, deadline)
        return [TopicConfigEntry(of.name, of.value, of.origin, of.doc) for of in response.configs]

    async def list_topics(self, deadline: float) -> list[str]:
        response = await self._connection.unary(self._stub.ListTopics, pb.ListTopicsRequest(), deadline)
        return list(response.topics)

    async def get_topic(self, deadline: float, name: str) -> TopicDescription:
        """A topic's partitions and configs. Raises UnknownTopicError."""
        request = pb.GetTopicRequest(name=name)
        response = await self._connection.unary(self._stub.GetTopic, request, deadline)
        return _description(response.topic)

    async def describe_topics(
        self, deadline: float, names: Iterable[str], *, sizes: bool = True
    ) -> list[TopicDescription]:
        """Descriptions of those of `names` that exist. Without sizes they cost a third as much."""
        request = pb.DescribeTopicsRequest(topics=names, without_sizes=not sizes)
        response = await self._connection.unary(self._stub.DescribeTopics, request, deadline)
        return [_description(info) for info in response.topics]

    async def outline_topics(self, deadline: float, names: Iterable[str]) -> dict[str, TopicOutline]:
        """Outlines of those of `names` that exist. They cost less than descriptions."""
        request = pb.DescribeTopicsRequest(topics=names, without_partitions=True)
        response = await self._connection.unary(self._stub.DescribeTopics, request, deadline)
        return {
            info.name: TopicOutline(info.topic_id, dict(info.configs), info.num_partitions)
            for info in response.topics
        }

    async def produce_message(
        self,
        deadline: float,
        at: TopicPartition,
        records: Sequence[bytes],
        *,
        producer_id: bytes = b"",
        sequence: int = 0,
        expected_offset: int | None = None,
        topic_id: str = "",
        maybe_stored_from: int | None = None,
        source: Source | None = None,
    ) -> Produced:
        """Store a batch. records: as `takhin.wire.requests.record` makes them.

        maybe_stored_from: an earlier attempt may have been stored, there or behind it.
        Raises LogReplacedError if the topic has another id than topic_id, unless that is empty.
        """
        request = partial(
            requests.produce,
            at.topic,
            at.partition,
            producer_id=producer_id,
            sequence=sequence,
            expected_offset=expected_offset,
            topic_id=topic_id,
            maybe_stored_from=maybe_stored_from,
            source=source,
        )
        rpc, call = self._produce_message, self._connection.unary
        packed = await self._packing.packed(records)
        try:
            response = await call(rpc, request(records=packed), deadline)
        except InvalidBatchError:
            if packed is records:
                raise
            response = await call(rpc, request(records=records), deadline)
            self._packing.is_not_understood(self.server)
        return Produced(response.offset, response.num_partitions)

    @asynccontextmanager
    async def consume_messages(
        self,
        deadline: float,
        at: TopicPartition,
        *,
        offset: int,
        stop_offset: int | None,
        stop_at_end: bool,
        incarnation_id: str,
        response_bytes_max: int,
    ) -> AsyncIterator[ConsumeStream]:
        """A stream of records from `offset` up to, without, `stop_offset`, or to the end as of now.

        deadline: for connecting. Reading raises LogReplacedError if the log has another incarnation id.
        """
        request = pb.ConsumeMessagesRequest(
            topic=at.topic,
            partition=at.partition,
            offset=offset,
            stop_offset=stop_offset,
            stop_at_end=stop_at_end,
            incarnation_id=incarnation_id,
            max_bytes=response_bytes_max,
            accept=self._packing.accepted,
        )
        async with self._connection.stream(CONSUME_MESSAGES, request.SerializeToString(), deadline) as call:
            yield ConsumeStream(call, self.server, at)

    async def get_partition_offsets(self, deadline: float, at: TopicPartition) -> PartitionOffsets:
        request = pb.GetPartitionOffsetsRequest(topic=at.topic, partition=at.partition)
        response = await self._connection.unary(self._stub.GetPartitionOffsets, request, deadline)
        return PartitionOffsets(response.beginning_offset, response.end_offset)

    async def get_offsets_for_times(
        self, deadline: float, times: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAtTime]:
        """The first record at or after a time (ms since 1970), for each partition with a time of its own."""
        request = pb.GetOffsetsForTimesRequest()
        for (topic, partition), timestamp in times.items():
            request.queries.add(topic=topic, partition=partition, timestamp=timestamp)
        response = await self._connection.unary(self._stub.GetOffsetsForTimes, request, deadline)
        return {
            TopicPartition(of.topic, of.partition): OffsetAtTime(of.offset, of.timestamp)
            for of in response.offsets
        }

    async def delete_records(self, deadline: float, at: TopicPartition, before_offset: int) -> int:
        """Remove the records below an offset; returns where the log begins now.

        Raises OffsetOutOfRangeError for an offset behind the end.
        """
        request = pb.DeleteRecordsRequest(topic=at.topic, partition=at.partition, before_offset=before_offset)
        return (await self._connection.unary(self._stub.DeleteRecords, request, deadline)).beginning_offset

    @asynccontextmanager
    async def join_consumer_group(self, deadline: float) -> AsyncIterator[MemberStream]:
        """The stream of one member of a group. deadline: for connecting."""
        stream = self._connection.duplex(
            JOIN_CONSUMER_GROUP,
            pb.MemberRequest.SerializeToString,
            pb.MemberResponse.FromString,
            deadline,
        )
        async with stream as call:
            yield MemberStream(call, self.server)

    async def commit_offset(
        self,
        deadline: float,
        group_id: str,
        offsets: Mapping[tuple[str, int], int | CommittedOffset],
        incarnation_ids: Mapping[tuple[str, int], str] = MappingProxyType({}),
        member: MemberAt | None = None,
    ) -> None:
        """Set what a group committed. Without offsets there is no call.

        incarnation_ids: of the logs that the offsets are about, as far as they are known.
        member: who commits, in a group with members.
        Raises OffsetOutOfRangeError for an offset beyond the end of its log, LogReplacedError for another
        log, FencedMemberError for what the member does not own; then nothing is written.
        """
        request = pb.CommitOffsetRequest(group_id=group_id)
        if member is not None:
            request.member_id, request.member_epoch = member
        for (topic, partition), commit in offsets.items():
            offset, metadata = commit if isinstance(commit, CommittedOffset) else (commit, "")
            request.offsets.add(
                topic=topic,
                partition=partition,
                offset=offset,
                metadata=metadata,
                incarnation_id=incarnation_ids.get((topic, partition), ""),
            )
        if request.offsets:
            await self._connection.unary(self._stub.CommitOffset, request, deadline)

    async def get_committed_offsets(
        self, deadline: float, group_id: str, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, CommittedOffset]:
        """What the group committed in these partitions, or in all there are if none is named."""
        asked = [pb.TopicPartition(topic=topic, partition=partition) for topic, partition in partitions]
        request = pb.GetCommittedOffsetsRequest(group_id=group_id, partitions=asked)
        response = await self._connection.unary(self._stub.GetCommittedOffsets, request, deadline)
        return {
            TopicPartition(of.topic, of.partition): CommittedOffset(of.offset, of.metadata)
            for of in response.offsets
            if of.offset >= 0
        }

    async def list_consumer_groups(self, deadline: float) -> list[GroupListing]:
        request = pb.ListConsumerGroupsRequest()
        response = await self._connection.unary(self._stub.ListConsumerGroups, request, deadline)
        return [GroupListing(of.group_id, of.state, of.member_count, of.lag) for of in response.groups]

    async def describe_consumer_group(self, deadline: float, group_id: str) -> GroupDescription:
        """A group with its members and all that it committed. Raises UnknownGroupError."""
        request = pb.DescribeConsumerGroupRequest(group_id=group_id)
        response = await self._connection.unary(self._stub.DescribeConsumerGroup, request, deadline)
        offsets = [
            GroupOffset(*(getattr(of, field) for field in GroupOffset._fields)) for of in response.offsets
        ]
        members = [_member(of) for of in response.members]
        return GroupDescription(
            response.group_id, response.state, offsets, response.epoch, response.assignor, members
        )

    async def delete_consumer_group(self, deadline: float, group_id: str) -> None:
        """Drop all that a group committed. Raises GroupNotEmptyError, UnknownGroupError."""
        request = pb.DeleteConsumerGroupRequest(group_id=group_id)
        await self._connection.unary(self._stub.DeleteConsumerGroup, request, deadline)

    async def delete_offsets(self, deadline: float, group_id: str, topics: Iterable[str]) -> None:
        """Drop what a group committed in some topics. Raises GroupNotEmptyError, UnknownGroupError."""
        request = pb.DeleteOffsetsRequest(group_id=group_id, topics=topics)
        await self._connection.unary(self._stub.DeleteOffsets, request, deadline)

    async def health_check(self, deadline: float) -> Health:
        response = await self._connection.unary(self._stub.HealthCheck, pb.HealthCheckRequest(), deadline)
        return Health(response.status, response.version, response.uptime_seconds, list(response.reasons))

    # Records are carried as bytes: wire/requests.py and wire/columns.py do what the stub would, but faster.

    @property
    def _produce_message(self) -> grpc.aio.UnaryUnaryMultiCallable[bytes, pb.ProduceMessageResponse]:
        return self._connection.made(_produce_message)


def _produce_message(
    channel: grpc.aio.Channel,
) -> grpc.aio.UnaryUnaryMultiCallable[bytes, pb.ProduceMessageResponse]:
    return channel.unary_unary(f"/{SERVICE}/ProduceMessage", None, pb.ProduceMessageResponse.FromString)


class MemberAt(NamedTuple):
    """A member of a group as a commit names it."""

    member_id: str
    epoch: int


class Produced(NamedTuple):
    """Where a batch begins (-1: its source was taken before), and how many partitions its topic has now.

    num_partitions: 0 if an older broker does not say.
    """

    offset: int
    num_partitions: int


def _member(of: pb.ConsumerGroupMember) -> GroupMember:
    return GroupMember(
        of.member_id,
        of.client_id,
        of.client_host,
        of.instance_id,
        of.member_epoch,
        of.state,
        list(of.topics),
        [TopicPartition(at.topic, at.partition) for at in of.assignments],
        of.joined_at,
        of.last_commit_at,
    )


def _description(info: pb.TopicInfo) -> TopicDescription:
    partitions = [
        PartitionDescription(
            number,
            of.beginning_offset,
            of.end_offset,
            of.incarnation_id,
            of.size_bytes,
            of.first_timestamp,
            of.last_timestamp,
            of.record_count,
            of.unavailable_reason,
        )
        for number, of in sorted(info.partitions.items())
    ]
    return TopicDescription(info.name, info.topic_id, dict(info.configs), partitions)
