"""takhin.v1.TakhinService: each method decodes, asks the broker, encodes. Errors are raised through.

Produce streams are here in full, because their order and their bounds are a matter of the transport.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from takhin import limits
from takhin.broker import Broker
from takhin.errors import ShuttingDownError
from takhin.model import Appended, GroupState
from takhin.rpc.interceptors import Context, known
from takhin.settings import ProduceSettings
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc
from takhin.wire import convert
from takhin.wire.status import TABLE


@dataclass(frozen=True, slots=True)
class Waiting:
    """A produce request whose records are queued, or were refused."""

    request: pb.ProduceMessageRequest
    outcome: asyncio.Future[Appended] | Exception
    deadline: float | None


class TakhinService(takhin_pb2_grpc.TakhinServiceServicer):
    """The fifteen calls."""

    def __init__(self, broker: Broker, settings: ProduceSettings, *, version: str) -> None:
        self._broker = broker
        self._settings = settings
        self._version = version
        self._started = time.monotonic()
        self._readers: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.Task[Any]] = set()
        self._draining = False

    def drain(self) -> None:
        """Let produce streams read no further; each ends when all it has read is answered."""
        self._draining = True
        for reader in self._readers:
            reader.cancel()

    async def drained(self, seconds: float) -> None:
        """Return when all produce streams have ended, or after `seconds`: a client may not be reading."""
        if self._streams:
            await asyncio.wait(self._streams, timeout=seconds)

    # Topics

    async def CreateTopic(self, request: pb.CreateTopicRequest, context: Context) -> pb.CreateTopicResponse:
        await self._broker.create_topic(
            request.name,
            num_partitions=request.num_partitions,
            replication_factor=request.replication_factor,
            configs=request.configs,
        )
        return pb.CreateTopicResponse(success=True)

    async def DeleteTopic(self, request: pb.DeleteTopicRequest, context: Context) -> pb.DeleteTopicResponse:
        await self._broker.delete_topic(request.name)
        return pb.DeleteTopicResponse(success=True)

    async def ListTopics(self, request: pb.ListTopicsRequest, context: Context) -> pb.ListTopicsResponse:
        return pb.ListTopicsResponse(topics=self._broker.topic_names())

    async def GetTopic(self, request: pb.GetTopicRequest, context: Context) -> pb.GetTopicResponse:
        return pb.GetTopicResponse(topic=convert.topic_info(self._broker.describe_topic(request.name)))

    async def DescribeTopics(
        self, request: pb.DescribeTopicsRequest, context: Context
    ) -> pb.DescribeTopicsResponse:
        infos = self._broker.describe_topics(request.topics)
        return pb.DescribeTopicsResponse(topics=[convert.topic_info(info) for info in infos])

    async def GetPartitionOffsets(
        self, request: pb.GetPartitionOffsetsRequest, context: Context
    ) -> pb.GetPartitionOffsetsResponse:
        info = self._broker.partition_info(request.topic, request.partition)
        return pb.GetPartitionOffsetsResponse(
            topic=request.topic,
            partition=request.partition,
            beginning_offset=info.start_offset,
            end_offset=info.end_offset,
        )

    # Records

    async def ProduceMessage(
        self, request: pb.ProduceMessageRequest, context: Context
    ) -> pb.ProduceMessageResponse:
        await self._broker.room()
        appended = self._submit(request)
        return convert.produced(request.topic, await self._broker.durable(appended, _deadline(request)))

    async def ProduceMessageStream(
        self, requests: AsyncIterator[pb.ProduceMessageRequest], context: Context
    ) -> AsyncIterator[pb.ProduceMessageResponse]:
        waiting: asyncio.Queue[Waiting | None] = asyncio.Queue(self._settings.stream_requests_max)
        with _registered(self._streams, asyncio.current_task()):
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(self._read(requests, waiting))
                with _registered(self._readers, reader):
                    while (queued := await waiting.get()) is not None:
                        yield await self._answer(queued)
        if self._draining:
            raise ShuttingDownError

    async def _read(
        self, requests: AsyncIterator[pb.ProduceMessageRequest], waiting: asyncio.Queue[Waiting | None]
    ) -> None:
        """Queue each request's records as it comes, in order; a bounded number ahead of the answers."""
        unanswered_bytes = 0
        try:
            async for request in requests:
                queued = await self._queue(request)
                await waiting.put(queued)
                unanswered_bytes += request.ByteSize()
                if unanswered_bytes > self._settings.stream_bytes_max:
                    if isinstance(queued.outcome, asyncio.Future):  # the last to be durable of all so far
                        await asyncio.wait({queued.outcome})
                    unanswered_bytes = 0
        except asyncio.CancelledError:
            if not self._draining:
                raise
        await waiting.put(None)

    async def _queue(self, request: pb.ProduceMessageRequest) -> Waiting:
        try:
            await self._broker.room()
            return Waiting(request, self._submit(request), _deadline(request))
        except Exception as error:  # noqa: BLE001  a refused request never ends the stream
            return Waiting(request, error, None)

    async def _answer(self, queued: Waiting) -> pb.ProduceMessageResponse:
        try:
            if isinstance(queued.outcome, Exception):
                raise queued.outcome  # refused at once or later: one answer for both
            appended = await self._broker.durable(queued.outcome, queued.deadline)
        except Exception as raised:  # noqa: BLE001  a refused request never ends the stream
            error = known(raised, "ProduceMessageStream")
            code = TABLE[type(error)].code
            return convert.refusal(pb.ProduceMessageResponse(), queued.request, str(error), code)
        return convert.produced(queued.request.topic, appended)

    def _submit(self, request: pb.ProduceMessageRequest) -> asyncio.Future[Appended]:
        """Queue the request's records; with required_acks=0 the answer is there at once."""
        acks = limits.check_range("required_acks", request.required_acks, -1, 1)
        limits.check_range("timeout_ms", request.timeout_ms, 0)
        batch = convert.batch(request)
        appended = self._broker.produce(request.topic, request.partition, batch)
        if acks == 0 and request.HasField("required_acks"):
            queued: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
            queued.set_result(Appended(request.partition, -1, batch.timestamps[0], len(batch)))
            return queued
        return appended

    async def ConsumeMessages(
        self, request: pb.ConsumeMessagesRequest, context: Context
    ) -> AsyncIterator[pb.ConsumeMessagesResponse]:
        async for chunk in self._broker.consume(convert.consume_request(request)):
            yield convert.consumed(request.topic, request.partition, chunk)

    # Consumer groups

    async def CommitOffset(
        self, request: pb.CommitOffsetRequest, context: Context
    ) -> pb.CommitOffsetResponse:
        await self._broker.commit_offsets(request.group_id, convert.commits(request))
        return pb.CommitOffsetResponse(success=True)

    async def GetCommittedOffsets(
        self, request: pb.GetCommittedOffsetsRequest, context: Context
    ) -> pb.GetCommittedOffsetsResponse:
        partitions = convert.topic_partitions(request)
        return convert.committed(await self._broker.committed_offsets(request.group_id, partitions))

    async def ListConsumerGroups(
        self, request: pb.ListConsumerGroupsRequest, context: Context
    ) -> pb.ListConsumerGroupsResponse:
        response = pb.ListConsumerGroupsResponse()
        for group_id in await self._broker.group_ids():
            response.groups.add(
                group_id=group_id, state=GroupState.EMPTY.value, protocol_type=convert.PROTOCOL_TYPE
            )
        return response

    async def DescribeConsumerGroup(
        self, request: pb.DescribeConsumerGroupRequest, context: Context
    ) -> pb.DescribeConsumerGroupResponse:
        return convert.group(await self._broker.describe_group(request.group_id))

    async def DeleteConsumerGroup(
        self, request: pb.DeleteConsumerGroupRequest, context: Context
    ) -> pb.DeleteConsumerGroupResponse:
        await self._broker.delete_group(request.group_id)
        return pb.DeleteConsumerGroupResponse(success=True)

    async def HealthCheck(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        uptime = int(time.monotonic() - self._started)
        return pb.HealthCheckResponse(status="healthy", version=self._version, uptime_seconds=uptime)


@contextmanager
def _registered(tasks: set[asyncio.Task[Any]], task: asyncio.Task[Any] | None) -> Iterator[None]:
    """Keep a task in a set for as long as it runs."""
    assert task is not None  # noqa: S101  grpc.aio runs every handler in a task
    tasks.add(task)
    try:
        yield
    finally:
        tasks.discard(task)


def _deadline(request: pb.ProduceMessageRequest) -> float | None:
    """When the wait for durability ends, in the loop's time; None: with the call."""
    if not request.timeout_ms:
        return None
    return asyncio.get_running_loop().time() + request.timeout_ms / 1_000
