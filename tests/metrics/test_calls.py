"""Calls are counted as go-grpc-prometheus counts them: started, handled by code, messages, seconds."""

import asyncio

import grpc
import pytest

from metrics.support import scrape, server
from takhin.rpc.call_meter import code_of
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

SERVICE = {"grpc_service": "takhin.v1.TakhinService"}
KINDS = {
    "CreateTopic": "unary",
    "ProduceMessage": "unary",
    "ProduceMessageStream": "bidi_stream",
    "ConsumeMessages": "server_stream",
}


REFUSED = {"grpc_method": "ProduceMessageStream", "error": "UNKNOWN_TOPIC"}


def of(method):
    return {**SERVICE, "grpc_method": method, "grpc_type": KINDS[method]}


def messages(found, method):
    """How many messages of a method have come and gone."""
    return tuple(found.value(f"grpc_server_msg_{way}_total", **of(method)) for way in ("received", "sent"))


def produce(value=b"x", topic="orders"):
    return pb.ProduceMessageRequest(topic=topic, partition=0, records=[pb.Record(value=value)])


async def test_unary_calls():
    """A call that succeeds, one that is refused in its answer, and one that ends with a status."""
    async with server() as running, grpc.aio.insecure_channel(running.address) as channel:
        stub = TakhinServiceStub(channel)
        await stub.CreateTopic(pb.CreateTopicRequest(name="orders"))
        await stub.CreateTopic(pb.CreateTopicRequest(name="orders"))
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/takhin.v1.TakhinService/ProduceMessage")(b"\xff")
        created, bad = of("CreateTopic"), of("ProduceMessage")
        ended = "grpc_server_handled_total", frozenset((bad | {"grpc_code": "InvalidArgument"}).items())
        async with asyncio.timeout(10):  # its client may know of its end before it is counted
            while ended not in (found := await scrape(running)).series:
                pass
    assert found.value("grpc_server_started_total", **created) == 2
    assert found.value("grpc_server_handled_total", **created, grpc_code="OK") == 2
    assert found.value("takhin_rpc_refused_total", grpc_method="CreateTopic", error="TOPIC_EXISTS") == 1
    assert messages(found, "CreateTopic") == (2, 2)
    assert found.value("grpc_server_handling_seconds_count", **created) == 2
    assert found.value("grpc_server_handling_seconds_sum", **created) > 0
    assert found.value("grpc_server_handled_total", **bad, grpc_code="InvalidArgument") == 1
    assert messages(found, "ProduceMessage") == (1, 0)


async def test_messages_of_a_stream_are_counted_while_it_runs():
    """Both ways of a produce stream, and the answers of a consume call, before and after they end."""
    async with server() as running, grpc.aio.insecure_channel(running.address) as channel:
        stub = TakhinServiceStub(channel)
        await stub.CreateTopic(pb.CreateTopicRequest(name="orders"))
        stream = stub.ProduceMessageStream()
        for _ in range(3):
            await stream.write(produce())
            await stream.read()
        reading = stub.ConsumeMessages(pb.ConsumeMessagesRequest(topic="orders", offset=0, max_bytes=1))
        for _ in range(3):
            await reading.read()
        found = await scrape(running)
        assert messages(found, "ProduceMessageStream") == (3, 3)
        assert messages(found, "ConsumeMessages") == (1, 3)
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK
        reading.cancel()
        key = "grpc_server_handled_total"
        async with asyncio.timeout(10):
            found = await scrape(running)
            while not any(each["grpc_code"] == "Canceled" for each in found.labels(key)):
                found = await scrape(running)
    assert found.value(key, **of("ProduceMessageStream"), grpc_code="OK") == 1
    assert found.value(key, **of("ConsumeMessages"), grpc_code="Canceled") == 1
    assert messages(found, "ProduceMessageStream") == (3, 3)


async def test_every_method_has_a_series_from_the_start():
    """So that the first call of a method is an increase; unknown methods get no series."""
    async with server() as running, grpc.aio.insecure_channel(running.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/takhin.v1.TakhinService/\x1b[0m")(b"")
        found = await scrape(running)
    methods = {each["grpc_method"] for each in found.labels("grpc_server_started_total")}
    ours = {method.name for method in pb.DESCRIPTOR.services_by_name["TakhinService"].methods}
    assert methods == {*ours, "Check", "List", "Watch"}


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_codes_have_their_names_in_go(code):
    """Each status has a name of its own; what ended a call without a status is Canceled or Unknown."""
    special = {"OK": "OK", "CANCELLED": "Canceled"}
    assert code_of(code.name) == special.get(code.name, code.name.title().replace("_", ""))
    assert code_of("CancelledError") == "Canceled"
    assert code_of("ZeroDivisionError") == "Unknown"


async def test_refusals_on_a_produce_stream():
    """Each is counted, while the stream runs and when it has ended."""
    async with server() as running, grpc.aio.insecure_channel(running.address) as channel:
        stream = TakhinServiceStub(channel).ProduceMessageStream()
        for count in (1, 2):
            await stream.write(produce())
            assert (await stream.read()).error_code == pb.ERROR_CODE_UNKNOWN_TOPIC
            found = await scrape(running)
            assert found.value("takhin_rpc_refused_total", **REFUSED) == count
        await stream.write(produce())
        await stream.done_writing()
        assert (await stream.read()).error_code == pb.ERROR_CODE_UNKNOWN_TOPIC
        assert await stream.read() is grpc.aio.EOF
        found = await scrape(running)
    assert found.value("takhin_rpc_refused_total", **REFUSED) == 3
