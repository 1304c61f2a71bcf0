"""takhin.v1.TakhinService: each method decodes, asks the broker, encodes. Errors are raised through.

Produce streams are here in full, because their order and their bounds are a matter of the transport.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from takhin import limits
from takhin.broker import Broker
from takhin.errors import ShuttingDownError
from takhin.model import Appended, Batch, GroupState, Records
from takhin.rpc.interceptors import Context, Malformed, known
from takhin.settings import ProduceSettings
from takhin.storage.contract import Topic
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc
from takhin.wire import convert, encode
from takhin.wire.status import TABLE


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is kept of a produce request whose records are queued, or were refused, until it is answered."""

    topic: str
    partition: int
    size_bytes: int
    outcome: asyncio.Future[Appended] | Exception
    deadline: float | None = None


class Unanswered:
    """A produce stream's requests between reading and answering, bounded in number and in bytes."""

    def __init__(self, settings: ProduceSettings) -> None:
        self._settings = settings
        self._queue: asyncio.Queue[Waiting | None] = asyncio.Queue()
        self._requests = self._bytes = 0
        self._room = asyncio.Event()

    def put(self, waiting: Waiting | None) -> None:
        """The next in order; None: there are no more."""
        if waiting is not None:
            self._requests += 1
            self._bytes += waiting.size_bytes
        self._queue.put_nowait(waiting)

    async def get(self) -> Waiting | None:
        return await self._queue.get()

    def answered(self, waiting: Waiting) -> None:
        self._requests -= 1
        self._bytes -= waiting.size_bytes
        self._room.set()

    async def room(self) -> None:
        """Return when another request may be read; the bounds are passed by one request at most."""
        while (
            self._requests >= self._settings.stream_requests_max
            or self._bytes >= self._settings.stream_bytes_max
        ):
            self._room.clear()
            await self._room.wait()


class TakhinService(takhin_pb2_grpc.TakhinServiceServicer):
    """The fifteen calls."""

    def __init__(self, broker: Broker, settings: ProduceSettings, *, version: str) -> None:
        self._broker = broker
        self._settings = settings
        self._version = version
        self._started = time.monotonic()
        self._encodings: WeakKeyDictionary[Records, bytes] = WeakKeyDictionary()
        self._readers: set[asyncio.Task[None]] = set()
        self._draining = False
        self._listed_topics: Mapping[str, Topic] | None = None
        self._list = pb.ListTopicsResponse()

    def drain(self) -> None:
        """Let produce streams read no further; each ends when all it has read is answered."""
        self._draining = True
        for reader in self._readers:
            reader.cancel()

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
        topics = self._broker.topics
        if topics is not self._listed_topics:  # another snapshot: the catalogue has changed
            self._listed_topics = topics
            self._list = pb.ListTopicsResponse(topics=sorted(topics))
        return self._list

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
        appended = self._submit(request, self._batch(request))
        return convert.produced(request.topic, await self._broker.durable(appended, _deadline(request)))

    async def ProduceMessageStream(
        self, requests: AsyncIterator[pb.ProduceMessageRequest], context: Context
    ) -> AsyncIterator[pb.ProduceMessageResponse]:
        if self._draining:
            raise ShuttingDownError
        waiting = Unanswered(self._settings)
        reader = asyncio.create_task(self._read(requests, waiting))
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        try:
            while (queued := await waiting.get()) is not None:
                yield await self._answer(queued)
                waiting.answered(queued)
        finally:
            reader.cancel()
            await asyncio.wait({reader})
        if reader.cancelled():  # by drain
            raise ShuttingDownError
        reader.result()

    async def _read(
        self, requests: AsyncIterator[pb.ProduceMessageRequest | Malformed], waiting: Unanswered
    ) -> None:
        """Queue each request's records as it comes, in order; a bounded amount ahead of the answers.

        Cancelled by `drain`, it leaves nothing submitted without an answer: there is no await between.
        """
        try:
            async for request in requests:
                waiting.put(await self._queue(request))
                await waiting.room()
        finally:
            waiting.put(None)

    async def _queue(self, request: pb.ProduceMessageRequest | Malformed) -> Waiting:
        if isinstance(request, Malformed):
            return Waiting("", 0, 0, request.error)
        outcome: asyncio.Future[Appended] | Exception
        try:
            await self._broker.room()
            batch = self._batch(request)
            outcome = self._submit(request, batch)
            size_bytes = batch.size_bytes
        except Exception as error:  # noqa: BLE001  a refused request never ends the stream
            outcome = error
            size_bytes = request.ByteSize()
        return Waiting(request.topic, request.partition, size_bytes, outcome, _deadline(request))

    async def _answer(self, queued: Waiting) -> pb.ProduceMessageResponse:
        try:
            if isinstance(queued.outcome, Exception):
                raise queued.outcome  # refused at once or later: one answer for both
            appended = await self._broker.durable(queued.outcome, queued.deadline)
        except Exception as raised:  # noqa: BLE001  a refused request never ends the stream
            error = known(raised, "ProduceMessageStream")
            return convert.refusal(pb.ProduceMessageResponse(), queued, error, TABLE[type(error)].code)
        return convert.produced(queued.topic, appended)

    def _batch(self, request: pb.ProduceMessageRequest) -> Batch:
        """The request's records, counted before they are converted."""
        limits.check_range("records", len(request.records), 0, self._settings.batch_records_max)
        return convert.batch(request)

    def _submit(self, request: pb.ProduceMessageRequest, batch: Batch) -> asyncio.Future[Appended]:
        """Queue the request's records; with required_acks=0 the answer is there at once."""
        acks = limits.check_range("required_acks", request.required_acks, -1, 1)
        limits.check_range("timeout_ms", request.timeout_ms, 0)
        appended = self._broker.produce(request.topic, request.partition, batch)
        if acks == 0 and request.HasField("required_acks"):
            queued: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
            queued.set_result(Appended(request.partition, -1, batch.timestamps[0], len(batch)))
            return queued
        return appended

    async def ConsumeMessages(  # type: ignore[override]  # serialised already, see wire/encode.py
        self, request: pb.ConsumeMessagesRequest, context: Context
    ) -> AsyncIterator[bytes]:
        topic, partition = request.topic, request.partition
        async with aclosing(self._broker.consume(convert.consume_request(request))) as chunks:
            async for chunk in chunks:
                yield encode.consumed(
                    topic, partition, chunk.end_offset, self._encoded(partition, chunk.records)
                )

    def _encoded(self, partition: int, records: Records) -> bytes:
        """The records as bytes, made once for all consumers that were given the same."""
        encoded = self._encodings.get(records)
        if encoded is None:
            encoded = self._encodings[records] = encode.encoded(partition, records)
        return encoded

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
        reasons = self._broker.troubles
        return pb.HealthCheckResponse(
            status="degraded" if reasons else "healthy",
            version=self._version,
            uptime_seconds=uptime,
            reasons=reasons,
        )


def _deadline(request: pb.ProduceMessageRequest) -> float | None:
    """When the wait for durability ends, in the loop's time; None: with the call."""
    if not request.timeout_ms:
        return None
    return asyncio.get_running_loop().time() + request.timeout_ms / 1_000
