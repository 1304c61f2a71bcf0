"""The end of a member's stream: in order, which is a leave, or broken, which is none; and what is left."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from dataclasses import replace

import grpc
import pytest

from takhin.model import TopicConfig, TopicSpec
from takhin.server import Server
from takhin.settings import GroupSettings, Settings, StorageSettings
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

WAIT_SECONDS = 10.0
REJOIN_MS = 1_000
JOIN = pb.MemberRequest(join=pb.Join(group_id="g", topics=["orders"]))


@pytest.fixture
async def server():
    settings = replace(
        Settings(),
        listen=("127.0.0.1:0",),
        storage=StorageSettings(engine="memory"),
        groups=GroupSettings(rejoin_ms=REJOIN_MS, first_wait_ms=0),
    )
    server = Server(settings)
    await server.start()
    await server.engine.create_topic(TopicSpec("orders", 2, TopicConfig(max_message_bytes=1_000)))
    yield server
    await server.stop()


@pytest.fixture
async def stub(server):
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield TakhinServiceStub(channel)


async def count_members(stub):
    listed = await stub.ListConsumerGroups(pb.ListConsumerGroupsRequest())
    return sum(group.member_count for group in listed.groups)


async def until_left(stub):
    """How many seconds pass until the group has no member."""
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(WAIT_SECONDS):
        while await count_members(stub):  # noqa: ASYNC110  the broker tells nobody of it
            await asyncio.sleep(0.01)
    return asyncio.get_running_loop().time() - began


async def joined(stub):
    """The call of a member that has joined."""
    call = stub.JoinConsumerGroup()
    await call.write(JOIN)
    assert (await call.read()).joined.member_id
    return call


async def ended(call):
    """The status of a call, once all its responses are read."""
    async with asyncio.timeout(WAIT_SECONDS):
        with suppress(grpc.RpcError, asyncio.CancelledError):
            while await call.read() is not grpc.aio.EOF:
                pass
        return await call.code()


@pytest.mark.timed
async def test_an_end_in_order_is_a_leave(stub):
    """A member that ends its side of the stream leaves at once, and its stream ends with OK."""
    call = await joined(stub)
    await call.done_writing()
    assert await until_left(stub) < REJOIN_MS / 1_000
    assert await ended(call) is grpc.StatusCode.OK


@pytest.mark.timed
async def test_a_leave(stub):
    """So does one that says so."""
    call = await joined(stub)
    await call.write(pb.MemberRequest(leave=pb.Leave()))
    assert await until_left(stub) < REJOIN_MS / 1_000
    assert await ended(call) is grpc.StatusCode.OK


async def test_a_cancelled_stream_is_no_leave(stub):
    """The member has its time to come back, though to the server its requests end as in order."""
    for ended_first in (False, True):
        call = await joined(stub)
        if ended_first:
            await call.done_writing()
        call.cancel()
        assert await until_left(stub) >= REJOIN_MS / 1_000 - 0.05


async def test_a_closed_connection_is_no_leave(server, stub):
    """The same of a connection that goes away under the stream."""
    async with grpc.aio.insecure_channel(
        server.address, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        call = await joined(TakhinServiceStub(channel))
    assert await until_left(stub) >= REJOIN_MS / 1_000 - 0.05
    assert call.done()


async def test_no_task_is_left_of_a_stream(stub):
    """Neither of members that left, nor of those that were cancelled, refused or taken over."""
    for _ in range(20):
        calls = [await joined(stub) for _ in range(4)]
        await calls[0].done_writing()
        calls[1].cancel()
        await calls[2].write(JOIN)
        await calls[3].write(pb.MemberRequest(heartbeat=pb.Heartbeat(member_epoch=1)))
        for call in calls:
            await ended(call)
    await until_left(stub)
    gc.collect()
    names = [str(task.get_coro()) for task in asyncio.all_tasks()]
    assert not [name for name in names if "_listen" in name or "JoinConsumerGroup" in name]


async def test_a_stop_ends_streams_with_a_reason(server, stub):
    """Members learn that the broker stops."""
    calls = [await joined(stub) for _ in range(10)]
    stopping = asyncio.create_task(server.stop())
    for call in calls:
        assert await ended(call) is grpc.StatusCode.UNAVAILABLE
    await stopping
