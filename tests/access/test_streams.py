"""Open streams: they end within a second when a token, a rule or a time takes their right away."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from access.support import EVERYTHING, Keeper, bearer, channel_to
from takhin.client import Admin, Consumer, Producer
from takhin.clock import system_clock
from takhin.errors import PermissionDeniedError, UnauthenticatedError
from takhin.rpc.gate import UNREAD_SECONDS
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

STATUS = grpc.StatusCode
SECOND = 1.0
HOUR_MS = 3_600_000


@pytest.fixture
async def keeper(tmp_path):
    return Keeper(tmp_path)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  seen from outside only
            await asyncio.sleep(0.01)


def consume(stub, token):
    return stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="orders"), metadata=bearer(token))


def watch(channel, token):
    rpc = channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)
    return rpc(b"", metadata=bearer(token))


async def opened(channel, token):
    """Streams of every kind, each after its first response."""
    stub = TakhinServiceStub(channel)
    member, producing = (
        stub.JoinConsumerGroup(metadata=bearer(token)),
        stub.ProduceMessageStream(metadata=bearer(token)),
    )
    await member.write(pb.MemberRequest(join=pb.Join(group_id="billing", topics=["orders"])))
    await producing.write(pb.ProduceMessageRequest(topic="orders", record=pb.Record(value=b"1")))
    streams = {
        "consume": consume(stub, token),
        "produce": producing,
        "member": member,
        "watch": watch(channel, token),
    }
    for stream in streams.values():
        assert await stream.read() is not grpc.aio.EOF
    return streams


async def end_of(stream):
    """The status that a stream ends with."""
    async with asyncio.timeout(5):
        while True:
            try:
                if await stream.read() is grpc.aio.EOF:
                    return await stream.code()
            except grpc.aio.AioRpcError as error:
                return error.code()


async def create_orders(server, token):
    async with Admin(server.address, token=token) as admin:
        await admin.create_topic("orders")


@pytest.mark.timed
@pytest.mark.parametrize("how", ["revoked", "expired", "file gone"])
async def test_streams_end_with_their_token(serving, keeper, tmp_path, how):
    """All kinds of open streams end within a second once the token does not hold."""
    boss = keeper.token("boss")
    keeper.rules(*EVERYTHING, principal="boss")
    now = [system_clock()]
    token = keeper.token(expires_at=now[0] + HOUR_MS)
    keeper.rules(*EVERYTHING)
    async with serving(clock=lambda: now[0]) as server, channel_to(server) as channel:
        await create_orders(server, boss)
        streams = await opened(channel, token)
        begun = time.time()
        if how == "revoked":
            keeper.revoke("me")
        elif how == "file gone":
            (tmp_path / "access.db").unlink()
        else:
            now[0] += HOUR_MS
        ends = [await end_of(stream) for stream in streams.values()]
        assert time.time() - begun < SECOND
    assert set(ends) == {STATUS.UNAVAILABLE if how == "file gone" else STATUS.UNAUTHENTICATED}


@pytest.mark.timed
async def test_streams_end_with_their_right(serving, keeper):
    """A consumer and a member end when their right on the topic goes; what needs another right goes on."""
    token = keeper.token()
    keeper.rules(*EVERYTHING)
    async with serving() as server, channel_to(server) as channel:
        await create_orders(server, token)
        streams = await opened(channel, token)
        keeper.rule("deny read topic orders")
        begun = time.time()
        assert await end_of(streams["consume"]) is STATUS.PERMISSION_DENIED
        assert await end_of(streams["member"]) is STATUS.PERMISSION_DENIED
        assert time.time() - begun < SECOND
        producing = streams["produce"]
        await producing.write(pb.ProduceMessageRequest(topic="orders", record=pb.Record(value=b"2")))
        assert (await producing.read()).offset == 1
        keeper.rule("deny write topic orders")
        while True:  # until it is in force
            await producing.write(pb.ProduceMessageRequest(topic="orders", record=pb.Record(value=b"3")))
            if (response := await producing.read()).error_code:
                break
        assert response.error_code == pb.ERROR_CODE_PERMISSION_DENIED
        keeper.rule("deny write topic *")
        assert await end_of(producing) is STATUS.PERMISSION_DENIED


async def test_a_reader_who_does_not_read_is_ended(serving, keeper):
    """A stream whose client does not read ends, too, with all that is still being written to it."""
    token = keeper.token()
    keeper.rules(*EVERYTHING)
    async with serving() as server, channel_to(server) as channel:
        await create_orders(server, token)
        async with Producer(server.address, token=token) as producer:
            await producer.append("orders", [b"x" * 500_000] * 10, partition=0)
        stream = consume(TakhinServiceStub(channel), token)
        await stream.read()
        await asyncio.sleep(0.1)  # until windows are full
        keeper.revoke("me")
        await until(lambda: not server._broker.access.token(token))
        begun = time.time()
        await until(lambda: not server._listener._interceptor._streams)
        assert time.time() - begun < SECOND


NARROW = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 16),
]
"""A client whose windows are full after 64 KiB."""


@pytest.mark.parametrize("first_read", [True, False])
async def test_a_reader_who_reads_on_learns_why(serving, keeper, first_read):
    """When it reads again, whichever response was on its way, the status comes after that one."""
    token = keeper.token()
    keeper.rules(*EVERYTHING)
    async with serving() as server, grpc.aio.insecure_channel(server.address, NARROW) as channel:
        await create_orders(server, token)
        async with Producer(server.address, token=token) as producer:
            await producer.append("orders", [b"x" * 500_000] * 8, partition=0)
        request = pb.ConsumeMessagesRequest(topic="orders", offset=-1)
        stream = TakhinServiceStub(channel).ConsumeMessages(request, metadata=bearer(token))
        if first_read:
            assert (await stream.read()).records
        await until(lambda: server._listener._interceptor._writing)
        keeper.revoke("me")
        await until(lambda: not server._broker.access.token(token))
        await asyncio.sleep(2 * UNREAD_SECONDS)  # until the broker has given up waiting
        assert await end_of(stream) is STATUS.UNAUTHENTICATED


async def test_a_pattern_finds_what_may_be_read(serving, keeper):
    """A pattern finds what its member may read, also after that has changed, and no topic of the broker."""
    boss, token = keeper.token("boss"), keeper.token()
    keeper.rules(*EVERYTHING, principal="boss")
    keeper.rules("allow group group g", "allow read topic a*")
    async with serving() as server:
        async with Admin(server.address, token=boss) as admin:
            for name in ("a1", "b1"):
                await admin.create_topic(name)
        async with (
            Consumer(server.address, token=token, pattern=".*", group_id="g") as mine,
            Consumer(server.address, token=boss, pattern=".*", group_id="h") as other,
        ):
            reading = [asyncio.ensure_future(anext(consumer)) for consumer in (mine, other)]

            async def owned(consumer, *names):
                await until(lambda: {at.topic for at in consumer.assignment()} == set(names))

            await owned(mine, "a1")
            await owned(other, "a1", "b1")
            keeper.rule("allow read topic b*")
            await owned(mine, "a1", "b1")
            keeper.rule("drop read topic a*")
            await owned(mine, "b1")
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)


async def test_clients_raise_typed_errors(serving, keeper):
    """Clients raise what the broker says, and do not try again."""
    token = keeper.token()
    keeper.rule("allow read topic a")
    async with serving() as server:
        for wrong, kind in ((None, UnauthenticatedError), ("tkn_0", UnauthenticatedError)):
            async with Admin(server.address, token=wrong) as admin:
                with pytest.raises(kind):
                    await admin.create_topic("b")
        async with Admin(server.address, token=token) as admin:
            with pytest.raises(PermissionDeniedError, match="'me' may not administer topic 'b'"):
                await admin.create_topic("b")
            assert await admin.list_topics() == []
        async with Producer(server.address, token=token) as producer:
            with pytest.raises(PermissionDeniedError):
                await (await producer.send("b", b"1"))


async def first_of(consumer, *, assigned):
    if assigned:
        await consumer.assign_topics("orders")
    return await anext(consumer)


async def test_consumers_raise_what_ends_them(serving, keeper):
    """A consumer that may not read, or not any more, raises that and does not try again; so does a member."""
    boss, token = keeper.token("boss"), keeper.token()
    keeper.rules(*EVERYTHING, principal="boss")
    keeper.rules("allow write topic orders", "allow group group mine")
    async with serving() as server:
        await create_orders(server, boss)
        for options in (
            {},
            {"group_id": "other", "topics": ["orders"]},
            {"group_id": "mine", "topics": ["orders"]},
        ):
            async with Consumer(server.address, token=token, **options) as consumer, asyncio.timeout(5):
                with pytest.raises(PermissionDeniedError):
                    await first_of(consumer, assigned=not options)
        keeper.rule("allow read topic orders")
        await until(lambda: len(server._broker.access.list_rules("me")) == 3)
        for options in ({}, {"group_id": "mine", "topics": ["orders"]}):
            async with Consumer(server.address, token=token, **options) as consumer, asyncio.timeout(5):
                if not options:
                    await consumer.assign_topics("orders")
                reading = asyncio.ensure_future(anext(consumer))
                await until(lambda: server._listener._interceptor._streams)
                if options:
                    keeper.revoke("me")
                else:
                    keeper.rule("deny read topic orders")
                with pytest.raises(UnauthenticatedError if options else PermissionDeniedError):
                    await reading
                keeper.rule("allow read topic orders")
                await until(lambda: all(rule.allow for rule in server._broker.access.list_rules("me")))


@pytest.mark.parametrize(
    "value",
    ["Bearer " + "x" * 5_000, "Bearer", "Bearer  ", "tkn_0", ",", "Bearer a b c"],
)
async def test_hostile_metadata(serving, value):
    """Whatever stands in the metadata, the answer is UNAUTHENTICATED."""
    async with serving() as server, channel_to(server) as channel:
        call = TakhinServiceStub(channel).ListTopics(
            pb.ListTopicsRequest(), metadata=[("authorization", value)], timeout=5
        )
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() is STATUS.UNAUTHENTICATED
