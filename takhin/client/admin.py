"""`Admin`: topics, offsets, consumer groups and the broker's health."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import grpc

from takhin.client.base import Client
from takhin.client.connection import Connection, Tls
from takhin.client.errors import NoAnswerError
from takhin.client.model import (
    CommittedOffset,
    GroupDescription,
    GroupListing,
    GroupOffset,
    Health,
    PartitionOffsets,
    TopicDescription,
    ms_of,
)
from takhin.client.positions import (
    commit_offsets,
    committed_offsets,
    describe,
    description,
    offset_for_time,
)
from takhin.client.retry import Retry
from takhin.errors import TopicExistsError, UnknownGroupError, UnknownTopicError
from takhin.limits import check_range
from takhin.model import TopicPartition
from takhin.v1 import takhin_pb2 as pb


class Admin(Client):
    """Manages one broker. For one event loop.

    timeout_ms: of each call here, with all its attempts; then it raises an UnavailableError. All may raise
    that; what else they raise is a RefusedError, named where it matters.
    """

    def __init__(
        self,
        server: str,
        *,
        timeout_ms: int = 30_000,
        tls: Tls | grpc.ChannelCredentials | None = None,
        token: str | None = None,
        retry: Retry | None = None,
    ) -> None:
        check_range("timeout_ms", timeout_ms, 1)
        super().__init__(Connection(server, tls=tls, token=token, retry=retry))
        self._timeout_s = timeout_ms / 1_000

    async def create_topic(
        self, name: str, *, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> None:
        """Make a topic; durable on return. configs: max.message.bytes, message.timestamp.type.

        Raises TopicExistsError, unless an attempt of this call went unanswered and may have made it.
        """
        check_range("partitions", partitions, 1)
        request = pb.CreateTopicRequest(name=name, num_partitions=partitions, configs=configs or {})
        await self._change("CreateTopic", request, done=TopicExistsError)

    async def list_topics(self) -> list[str]:
        """Names, sorted."""
        return list((await self._call("ListTopics", pb.ListTopicsRequest())).topics)

    async def describe_topic(self, name: str) -> TopicDescription:
        """Raises UnknownTopicError."""
        return await describe(self._connection, name, self._deadline())

    async def describe_topics(self, names: Iterable[str]) -> list[TopicDescription]:
        """Those of `names` that are there."""
        response = await self._call("DescribeTopics", pb.DescribeTopicsRequest(topics=names))
        return [description(info) for info in response.topics]

    async def delete_topic(self, name: str) -> None:
        """Remove a topic with its records and committed offsets; durable on return.

        Raises UnknownTopicError, unless an attempt of this call went unanswered and may have removed it.
        """
        await self._change("DeleteTopic", pb.DeleteTopicRequest(name=name), done=UnknownTopicError)

    async def partition_offsets(self, topic: str, partition: int) -> PartitionOffsets:
        """Both ends of a log."""
        request = pb.GetPartitionOffsetsRequest(topic=topic, partition=partition)
        response = await self._call("GetPartitionOffsets", request)
        return PartitionOffsets(response.beginning_offset, response.end_offset)

    async def offset_for_time(self, topic: str, partition: int, time: datetime | int) -> int:
        """The offset of the first record at or after a time (aware, or ms since 1970); the end if none is."""
        return await offset_for_time(
            self._connection, topic, partition, ms_of(time, up=True), self._deadline()
        )

    async def list_groups(self) -> list[GroupListing]:
        """Every consumer group, sorted by id."""
        response = await self._call("ListConsumerGroups", pb.ListConsumerGroupsRequest())
        return [GroupListing(of.group_id, of.state, of.member_count) for of in response.groups]

    async def describe_group(self, group_id: str) -> GroupDescription:
        """Raises UnknownGroupError."""
        request = pb.DescribeConsumerGroupRequest(group_id=group_id)
        response = await self._call("DescribeConsumerGroup", request)
        offsets = [
            GroupOffset(*(getattr(of, field) for field in GroupOffset._fields)) for of in response.offsets
        ]
        return GroupDescription(response.group_id, response.state, offsets)

    async def delete_group(self, group_id: str) -> None:
        """Drop all that a group committed; durable on return.

        Raises GroupNotEmptyError, and UnknownGroupError as `delete_topic` does for topics.
        """
        request = pb.DeleteConsumerGroupRequest(group_id=group_id)
        await self._change("DeleteConsumerGroup", request, done=UnknownGroupError)

    async def committed_offsets(
        self, group_id: str, partitions: Iterable[tuple[str, int]] = ()
    ) -> dict[TopicPartition, CommittedOffset]:
        """What a group committed, in these partitions or in all; where it committed nothing is left out."""
        asked = [TopicPartition(*at) for at in partitions]
        return await committed_offsets(self._connection, group_id, asked, self._deadline())

    async def commit_offsets(
        self, group_id: str, offsets: Mapping[tuple[str, int], int | CommittedOffset]
    ) -> None:
        """Set what a group committed, the next offset to read for each partition; durable on return."""
        await commit_offsets(self._connection, group_id, offsets, self._deadline())

    async def health(self) -> Health:
        response = await self._call("HealthCheck", pb.HealthCheckRequest())
        return Health(response.status, response.version, response.uptime_seconds, list(response.reasons))

    async def _call(self, name: str, request: Any) -> Any:
        return await self._connection.call(name, request, self._deadline())

    async def _change(self, name: str, request: Any, *, done: type[Exception]) -> None:
        """A call that changes something. done: what it raises where it has been done already."""
        maybe_done = False

        async def attempt() -> None:
            nonlocal maybe_done
            try:
                await self._connection.attempt(getattr(self._connection.stub, name), request, deadline)
            except NoAnswerError:
                maybe_done = True
                raise
            except done:
                if not maybe_done:
                    raise

        deadline = self._deadline()
        await self._connection.retried(attempt, deadline)

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout_s
