"""Records that travel compressed: they arrive as they were, and take less of the link."""

from __future__ import annotations

import json
import logging
import os
from contextlib import asynccontextmanager

import grpc
import pytest

from client.relay import Relay
from client.support import ALL, values
from takhin.client import Admin, Consumer, NewRecord, Producer, sync
from takhin.client.clock import monotonic
from takhin.client.connection import Connection
from takhin.client.errors import CallFailedError
from takhin.client.packing import Packing
from takhin.client.streams import ConsumeStream
from takhin.errors import EndOffsetMismatchError, InvalidArgumentError
from takhin.model import Source, TopicPartition
from takhin.testing import MemoryBroker
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub
from takhin.wire import compression

LINES = [json.dumps({"number": number, "name": f"user {number % 7}"}).encode() for number in range(2_000)]


def record(number):
    """One of every shape in turn."""
    key = None if number % 3 else b"key"
    headers = [("name", b"value"), ("name", os.urandom(4))] if number % 5 == 0 else []
    return NewRecord(None if number % 11 == 0 else LINES[number], key, headers, 1_000 + number)


@pytest.fixture(scope="module")
def memory_broker():
    with MemoryBroker() as broker:
        yield broker.address


@asynccontextmanager
async def older_broker(server):
    """A broker that does not know the fields of compression: they do not reach the one that stands for it."""
    seen = []

    async def produce(request, _context):
        seen.append(bool(request.compressed_records))
        for name in ("compression", "compressed_records"):
            request.ClearField(name)
        return await stub.ProduceMessage(request)

    async def get_topic(request, _context):
        return await stub.GetTopic(request)

    handlers = {
        "ProduceMessage": grpc.unary_unary_rpc_method_handler(
            produce, pb.ProduceMessageRequest.FromString, pb.ProduceMessageResponse.SerializeToString
        ),
        "GetTopic": grpc.unary_unary_rpc_method_handler(
            get_topic, pb.GetTopicRequest.FromString, pb.GetTopicResponse.SerializeToString
        ),
    }
    async with grpc.aio.insecure_channel(server) as channel:
        stub = TakhinServiceStub(channel)
        older = grpc.aio.server()
        older.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("takhin.v1.TakhinService", handlers)]
        )
        address = f"127.0.0.1:{older.add_insecure_port('127.0.0.1:0')}"
        await older.start()
        yield address, seen
        await older.stop(None)


def as_stored(records):
    return [(of.value, of.key, list(of.headers), of.timestamp) for of in records]


@pytest.mark.parametrize("on", ["server", "memory_broker"])
async def test_records_arrive_as_they_were(request, on, name):
    """Keys, values, headers and times, whichever side compresses, on either engine."""
    server = request.getfixturevalue(on)
    async with Admin(server) as admin:
        await admin.create_topic(name)
    sent = [record(number) for number in range(len(LINES))]
    async with Producer(server, compression="zstd") as producer:
        for of in sent:
            await producer.send(name, of.value, key=of.key, headers=of.headers, timestamp=of.timestamp)
        await producer.flush()
        appended = await producer.append(name, sent, partition=0, expected_offset=len(sent))
        with pytest.raises(EndOffsetMismatchError):
            await producer.append(name, sent, partition=0, expected_offset=0)
        source = Source("group", name, 0, 0)
        assert not (await producer.append(name, sent[1:100], partition=0, source=source)).duplicate
        assert (await producer.append(name, sent[1:100], partition=0, source=source)).duplicate
    assert appended.offset == len(sent)
    expected = as_stored([*sent, *sent, *sent[1:100]])
    for accepts in ("zstd", None):
        async with Consumer(server, compression=accepts) as consumer:
            await consumer.assign_topics(name, start=ALL)
            read = [of async for of in consumer]
        assert [of.offset for of in read] == list(range(len(expected)))
        assert as_stored(read) == expected


def test_the_blocking_face(memory_broker, name):
    """The blocking clients have the same argument."""
    with sync.Admin(memory_broker) as admin:
        admin.create_topic(name)
    with sync.Producer(memory_broker, compression="zstd") as producer:
        for line in LINES:
            producer.send(name, line)
    with sync.Consumer(memory_broker, compression="zstd") as consumer:
        consumer.assign_topics(name, start=ALL)
        assert [of.value for of in consumer] == LINES


async def test_they_take_less_of_the_link(server, topic):
    """Both ways; and bytes that no compression makes smaller are not sent compressed."""
    sizes = {}
    for how in ("zstd", None):
        async with Relay(server) as relay:
            async with Producer(relay.address, compression=how) as producer:
                await producer.append(topic, LINES, partition=0)
            async with Consumer(relay.address, compression=how) as consumer:
                await consumer.assign_topics(topic, start=ALL)
                assert len([of async for of in consumer]) % len(LINES) == 0
            sizes[how] = relay.asked_bytes, relay.answered_bytes / (1 if how == "zstd" else 2)
    assert sizes["zstd"][0] < sizes[None][0] / 4
    assert sizes["zstd"][1] < sizes[None][1] / 3
    random = [os.urandom(2_000)]
    async with Producer(server, compression="zstd") as producer:
        assert (await producer.append(topic, random, partition=0)).offset == 2 * len(LINES)
    packing = Packing("zstd")
    assert await packing.packed(random) is random
    assert await packing.packed([b"x" * 900]) == [b"x" * 900]  # small


async def test_an_older_broker_gets_plain_records(server, topic, caplog):
    """It refuses the first batch; that one and all others are sent as they are, and a line says so."""
    async with older_broker(server) as (address, seen), Producer(address, compression="zstd") as producer:
        with caplog.at_level(logging.WARNING, "takhin.client"):
            for line in LINES[:50]:
                await producer.append(topic, [line * 40], partition=0)
    assert seen == [True, False] + [False] * 49
    assert await values(server, topic) == [line * 40 for line in LINES[:50]]
    (message,) = caplog.messages
    assert "too old for compressed records" in message


async def test_more_than_a_message_may_have(name):
    """A batch that is too large when it is decompressed is split, like any other that is refused."""
    with MemoryBroker({"rpc.message_bytes_max": 200_000, "topics.max_message_bytes": 50_000}) as broker:
        async with Admin(broker.address) as admin:
            await admin.create_topic(name)
        async with Producer(broker.address, compression="zstd", linger_ms=50) as producer:
            for number in range(40):
                await producer.send(name, b"%d" % number + bytes(40_000))
        read = await values(broker.address, name)
    assert [value.rstrip(b"\0") for value in read] == [b"%d" % number for number in range(40)]


def test_an_unknown_compression():
    """It is refused where the client is made."""
    for client in (Producer, Consumer, sync.Producer):
        with pytest.raises(InvalidArgumentError, match="compression is 'zstd' or None, not 'lz4'"):
            client("127.0.0.1:1", compression="lz4")


def test_without_the_library(monkeypatch):
    """A client that is to compress says what to install."""
    monkeypatch.setattr(compression, "import_module", _missing)
    compression.zstd.cache_clear()
    try:
        with pytest.raises(InvalidArgumentError, match=r"pip install '\.\[zstd\]'"):
            Producer("127.0.0.1:1", compression="zstd")
        Consumer("127.0.0.1:1")
    finally:
        compression.zstd.cache_clear()


def _missing(name):
    raise ModuleNotFoundError(name)


@asynccontextmanager
async def responding(*responses):
    """A stream of the client, on which these responses come."""

    async def consume(_request, context):
        for response in responses:
            await context.write(response.SerializeToString())

    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(consume)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("s", {"Consume": handler})])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    connection = Connection(address)
    connection.open()
    async with connection.stream("/s/Consume", b"", monotonic() + 10) as call:
        yield ConsumeStream(call, address, TopicPartition("t", 0))
    await connection.close()
    await server.stop(None)


async def test_a_response_that_does_not_decompress():
    """The consumer raises what it is, and does not wait for ever."""
    response = pb.ConsumeMessagesResponse(compression=pb.COMPRESSION_ZSTD, compressed_records=b"nothing")
    async with responding(response) as stream:
        with pytest.raises(CallFailedError, match="compressed records whose bytes are no frame"):
            await stream.read()


async def test_gzip_of_grpc(server, topic):
    """A client of another make compresses by gRPC's gzip, and gets gzip where it asks for it."""
    asks = (("takhin-accept-encoding", "gzip"),)
    request = pb.ProduceMessageRequest(topic=topic, records=[pb.Record(value=line) for line in LINES])
    read = pb.ConsumeMessagesRequest(topic=topic, offset=-1, stop_at_end=True, accept=[])
    sizes = []
    for how in (grpc.Compression.Gzip, grpc.Compression.Deflate, None):
        async with (
            Relay(server) as relay,
            grpc.aio.insecure_channel(relay.address, compression=how) as channel,
        ):
            stub = TakhinServiceStub(channel)
            assert (await stub.ProduceMessage(request)).record_count == len(LINES)
            produced = relay.asked_bytes
            answers = stub.ProduceMessageStream(iter([request]))
            assert [of.record_count async for of in answers] == [len(LINES)]
            before = relay.answered_bytes
            responses = [of async for of in stub.ConsumeMessages(read, metadata=asks if how else None)]
            found = [of.value for response in responses for of in response.records]
            assert found == LINES * (len(found) // len(LINES))
            sizes.append((produced, (relay.answered_bytes - before) / len(found)))
            listed = await stub.DescribeTopicConfigs(
                pb.DescribeTopicConfigsRequest(name=topic), metadata=asks
            )
            assert len(listed.configs) > 10
    (gzip, gzip_read), (deflate, deflate_read), (plain, plain_read) = sizes
    assert max(gzip, deflate) < plain / 4
    assert max(gzip_read, deflate_read) < plain_read / 3


async def test_zstd_is_not_compressed_once_more(server, topic):
    """A call that asks for both gets zstd, whose responses say so."""
    async with grpc.aio.insecure_channel(server) as channel:
        stub = TakhinServiceStub(channel)
        await stub.ProduceMessage(
            pb.ProduceMessageRequest(topic=topic, records=[pb.Record(value=line) for line in LINES])
        )
        read = pb.ConsumeMessagesRequest(
            topic=topic, offset=-1, stop_at_end=True, accept=[9, pb.COMPRESSION_ZSTD]
        )
        responses = stub.ConsumeMessages(read, metadata=(("takhin-accept-encoding", "br, gzip"),))
        (response,) = [of async for of in responses]
        assert response.compression == pb.COMPRESSION_ZSTD
        assert (response.high_watermark, len(response.records)) == (len(LINES), 0)
        plain = compression.zstd().decompress(response.compressed_records)
        assert [of.value for of in pb.ConsumeMessagesResponse.FromString(plain).records] == LINES
