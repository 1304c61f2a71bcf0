"""A broker that is restarted under load: clients with default timeouts notice nothing but a pause."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import pytest

from blackbox.broker_process import Broker
from takhin.client import START, Admin, Consumer, Producer
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceServicer, add_TakhinServiceServicer_to_server

SENT_AT_ONCE = 20


class Load:
    """Calls that are repeated until `stop`; an error of one ends the test. done: how often each succeeded."""

    def __init__(self, calls):
        self.done = Counter()
        self._calls = calls
        self._stopping = False
        self._done_once_more = asyncio.Event()

    def start(self, group):
        for name, call in self._calls.items():
            group.create_task(self._repeated(name, call))

    async def _repeated(self, name, call):
        while not self._stopping:
            await call()
            self.done[name] += 1
            self._done_once_more.set()
            await asyncio.sleep(0)

    async def at_work(self):
        """Return when every call has succeeded once more."""
        before = self.done.copy()
        async with asyncio.timeout(60):
            while any(self.done[name] == before[name] for name in self._calls):
                self._done_once_more.clear()
                await self._done_once_more.wait()

    def stop(self):
        self._stopping = True


@pytest.mark.parametrize("restarts", [3, pytest.param(20, marks=pytest.mark.soak)])
async def test_restarts_go_unnoticed(data_dir, restarts):
    """No call of a producer, a consumer or an admin raises, and every record is stored and read once."""
    broker = Broker(data_dir)
    address, read = broker.address, []
    async with (
        Admin(address) as admin,
        Producer(address) as producer,
        Consumer(address, group_id="g") as consumer,
    ):
        await admin.create_topic("t", partitions=3)
        await consumer.assign_topics("t", start=START)

        async def send():
            for delivery in [await producer.send("t", b"") for _ in range(SENT_AT_ONCE)]:
                await delivery

        async def receive():
            if (record := await consumer.poll(0.1)) is not None:
                read.append((record.partition, record.offset))

        load = Load(
            {
                "send": send,
                "append": lambda: producer.append("t", [b""] * SENT_AT_ONCE, partition=1),
                "receive": receive,
                "commit": consumer.commit,
                "health": admin.health,
                "describe": lambda: admin.describe_topic("t"),
                "committed": lambda: admin.committed_offsets("g"),
            }
        )
        async with asyncio.TaskGroup() as group:
            load.start(group)
            for _ in range(restarts):
                await load.at_work()
                await asyncio.to_thread(broker.stop)
                broker.close()
                broker = await asyncio.to_thread(Broker, data_dir, listen=address)
            load.stop()
        sent = SENT_AT_ONCE * (load.done["send"] + load.done["append"])
        async with asyncio.timeout(60):
            while len(read) < sent:
                await receive()
    assert len(set(read)) == len(read) == sent
    broker.stop()
    broker.close()


class CancellingOnce(TakhinServiceServicer):
    """Ends the first call of each method with CANCELLED, as gRPC does with calls that cross its GOAWAY."""

    def __init__(self):
        self.calls = Counter()

    async def _cancelled_once(self, method, context):
        self.calls[method] += 1
        if self.calls[method] == 1:
            await context.abort(grpc.StatusCode.CANCELLED, "")

    async def GetTopic(self, request, context):  # noqa: N802
        await self._cancelled_once("GetTopic", context)
        partitions = {0: pb.PartitionInfo(end_offset=1)}
        return pb.GetTopicResponse(
            topic=pb.TopicInfo(name=request.name, num_partitions=1, partitions=partitions)
        )

    async def ListTopics(self, request, context):  # noqa: N802
        await self._cancelled_once("ListTopics", context)
        return pb.ListTopicsResponse(topics=["t"])

    async def ProduceMessage(self, request, context):  # noqa: N802
        await self._cancelled_once("ProduceMessage", context)
        return pb.ProduceMessageResponse(offset=7)

    async def CommitOffset(self, request, context):  # noqa: N802
        await self._cancelled_once("CommitOffset", context)
        return pb.CommitOffsetResponse()


async def test_a_call_that_the_server_cancels_is_repeated():
    """CANCELLED from the other side is a lost call to producer, consumer and admin."""
    service = CancellingOnce()
    server = grpc.aio.server()
    add_TakhinServiceServicer_to_server(service, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with (
        Admin(address) as admin,
        Producer(address) as producer,
        Consumer(address, group_id="g") as consumer,
        asyncio.timeout(20),
    ):
        assert await admin.list_topics() == ["t"]
        assert (await (await producer.send("t", b""))).offset == 7
        await consumer.commit({("t", 0): 1})
        await server.stop(None)
    assert service.calls == dict.fromkeys(["GetTopic", "ListTopics", "ProduceMessage", "CommitOffset"], 2)
