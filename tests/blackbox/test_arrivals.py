"""Requests that arrive at once take bounded memory, and those that do not arrive hold nobody up."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from blackbox.broker_process import Broker, resident_bytes
from blackbox.clients import (
    CALL_S_MAX,
    CHANNEL_OPTIONS,
    batch,
    connected,
    create_topic,
    end_offset,
    eventually,
    own_topic,
    produce,
    refusal,
)
from blackbox.foreign_lock import ForeignLock
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

PRODUCE = "/takhin.v1.TakhinService/ProduceMessage"
ARRIVALS_MAX = 4
RSS_MAX = 512 << 20
CALLS = 200
"""Of 4 MB: more than may be held at once."""
RSS_AFTER_MAX = 250 << 20
RSS_NAMES_AFTER_MAX = 300 << 20

SLOW_DISK = {"storage_queue_wait_ms_max": 100_000}
"""However slow the disk is, requests wait in the queue."""


@pytest.mark.parametrize("calls", [CALLS, pytest.param(1_000, marks=pytest.mark.soak)])
def test_many_large_requests(data_dir, figures, calls):
    """Calls of 4 MB at once all succeed, beside an honest client, within 512 MB; most are given back."""
    request = batch("flood", [bytes(1_000_000)] * 4)
    with Broker(data_dir, **SLOW_DISK) as broker, connected(broker.address) as honest:
        create_topic(honest, "flood")
        create_topic(honest, "honest")
        channels = [grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) for _ in range(8)]
        stubs = [TakhinServiceStub(channel) for channel in channels]
        futures = [stubs[n % 8].ProduceMessage.future(request, timeout=300) for n in range(calls)]
        sent, slowest = 0, 0.0
        while not all(future.done() for future in futures):
            begin = time.monotonic()
            produce(honest, "honest", [b"v"] * 10)
            sent, slowest = sent + 1, max(slowest, time.monotonic() - begin)
        outcomes = Counter(future.result().error for future in futures)
        for channel in channels:
            channel.close()
        assert outcomes == {"": calls}
        peak = resident_bytes(broker, "VmHWM")
        figures(f"{calls} x 4 MB: {peak >> 20} MiB; {sent} honest calls, the slowest took {slowest:.1f} s")
        assert peak <= RSS_MAX
        eventually(lambda: resident_bytes(broker) <= RSS_AFTER_MAX)
        honest.DeleteTopic(pb.DeleteTopicRequest(name="flood"), timeout=60)  # else all is verified


@pytest.mark.parametrize("streams", [64, pytest.param(200, marks=pytest.mark.soak)])
def test_large_requests_of_many_streams(data_dir, figures, streams):
    """They take turns to arrive as unary requests do: none is refused, and memory has the same bound."""
    settings = {"rpc_arrivals_max": 2, "storage_queue_bytes_max": 8 << 20} | SLOW_DISK
    requests = [batch("flood", [bytes(1_000_000)] * 4)] * 2
    with Broker(data_dir, **settings) as broker, connected(broker.address) as stub:
        create_topic(stub, "flood")
        create_topic(stub, "honest")
        with ThreadPoolExecutor(streams) as threads:
            calls = [
                threads.submit(lambda: list(stub.ProduceMessageStream(iter(requests), timeout=300)))
                for _ in range(streams)
            ]
            while not all(call.done() for call in calls):
                produce(stub, "honest", [b"v"])
        assert [answer.error for call in calls for answer in call.result()] == [""] * 2 * streams
        peak = resident_bytes(broker, "VmHWM")
        stub.DeleteTopic(pb.DeleteTopicRequest(name="flood"), timeout=60)  # else all is verified
    figures(f"{streams} streams of 4 MB requests: {peak >> 20} MiB")
    assert peak <= RSS_MAX


def test_a_stream_whose_answers_are_not_read_holds_no_place(data_dir):
    """Once its requests are durable others have their turn, whether or not its client reads."""
    with (
        Broker(data_dir, rpc_arrivals_max=1) as broker,
        connected(broker.address) as stub,
        connected(broker.address) as other,
    ):
        create_topic(stub, "t")
        large = batch("t", [bytes(100_000)] * 5)
        call = stub.ProduceMessageStream(iter([large] * 20), timeout=CALL_S_MAX)
        eventually(lambda: end_offset(other, "t") == 100)
        produce(other, "t", [bytes(100_000)] * 5)
        assert len(list(call)) == 20


def never(released):
    """The requests of a client that never sends one."""
    released.wait()
    yield from ()


def test_calls_without_a_request_hold_nobody_up(data_dir):
    """Calls that send no request, more than there are places, delay others by a moment, and are ended."""
    with (
        Broker(data_dir, rpc_arrivals_max=ARRIVALS_MAX, rpc_arrival_ms_max=2_000) as broker,
        connected(broker.address) as stub,
        grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel,
    ):
        create_topic(stub, "t")
        silent = Event()
        method = channel.stream_unary(PRODUCE)
        calls = [method.future(never(silent), timeout=CALL_S_MAX) for _ in range(4 * ARRIVALS_MAX)]
        try:
            begin = time.monotonic()
            for _ in range(20):
                produce(stub, "t", [b"v"])
            assert time.monotonic() - begin < 5
            for call in calls:
                failed = refusal(call.exception())
                assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        finally:
            silent.set()


def test_a_call_that_ends_without_a_request(stub, broker):
    """It is refused by name."""
    with grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel:
        with pytest.raises(grpc.RpcError) as failed:
            channel.stream_unary(PRODUCE)(iter(()), timeout=CALL_S_MAX)
        assert refusal(failed.value).reason == "INVALID_ARGUMENT"


def test_cancelled_calls_give_their_places_back(data_dir):
    """Clients that hang up before their request has arrived leave room for others."""
    with Broker(data_dir, rpc_arrivals_max=1) as broker, connected(broker.address) as stub:
        topic = own_topic(stub, "cancelled")
        for _ in range(5):
            with grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel:
                silent = Event()
                calls = [channel.stream_unary(PRODUCE).future(never(silent)) for _ in range(3)]
                produce(stub, topic, [b"v"])
                for call in calls:
                    call.cancel()
                silent.set()
        produce(stub, topic, [b"v"])


def test_a_locked_partition_holds_up_no_large_request_of_others(data_dir):
    """Large requests that wait for one partition's file give their places to those for another."""
    with (
        Broker(data_dir, rpc_arrivals_max=ARRIVALS_MAX, storage_busy_wait_ms_max=30_000) as broker,
        connected(broker.address) as stub,
    ):
        create_topic(stub, "locked")
        create_topic(stub, "free")
        with ForeignLock(broker.partition_file("locked")) as lock:
            waiting = [
                stub.ProduceMessage.future(batch("locked", [bytes(100_000)]), timeout=60)
                for _ in range(3 * ARRIVALS_MAX)
            ]
            for _ in range(3):
                assert not stub.ProduceMessage(batch("free", [bytes(100_000)]), timeout=CALL_S_MAX).error
                stream = stub.ProduceMessageStream(
                    iter([batch("free", [bytes(100_000)])]), timeout=CALL_S_MAX
                )
                assert [answer.error for answer in stream] == [""]
            assert not any(call.done() for call in waiting)
            lock.release()
        assert [call.result().error for call in waiting] == [""] * len(waiting)


def silent_calls(channel, method, number, released):
    """Calls that send no message."""
    call = channel.stream_unary(method)
    return [call.future(never(released), timeout=60) for _ in range(number)]


def test_silent_calls_slow_nobody_down(data_dir):
    """Beside many of them others are served, and health is told at once."""
    with (
        Broker(data_dir) as broker,
        connected(broker.address) as stub,
        grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS) as channel,
    ):
        create_topic(stub, "t")
        silent = Event()
        silent_calls(channel, PRODUCE, 60, silent)
        try:
            begin = time.monotonic()
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_S_MAX)
            stub.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_S_MAX)
            assert time.monotonic() - begin < 1
            for _ in range(200):
                produce(stub, "t", [b"v"])
            assert time.monotonic() - begin < 6
        finally:
            silent.set()


@pytest.mark.parametrize("method", [PRODUCE, "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
def test_silent_calls_do_not_hold_the_stop_up(data_dir, method):
    """They are refused when it begins: nothing has been done for them."""
    silent = Event()
    with Broker(data_dir) as broker:
        with connected(broker.address) as stub:
            create_topic(stub, "t")
            channel = grpc.insecure_channel(broker.address, options=CHANNEL_OPTIONS)
            grpc.channel_ready_future(channel).result(CALL_S_MAX)
            calls = silent_calls(channel, method, 10, silent)
            # A connection begins its calls in turn: when this one is answered, they have come.
            produce(TakhinServiceStub(channel), "t", [b"v"])
        begin = time.monotonic()
        broker.stop()
        assert time.monotonic() - begin < 4
        told = [refusal(call.exception()) for call in calls]
        # gRPC itself cancels one that crosses its GOAWAY: on a busy machine a few.
        others = [each for each in told if each.reason != "SHUTTING_DOWN"]
        assert {each.code.name for each in others} <= {"CANCELLED"}
        assert len(others) < len(calls) // 2
    silent.set()
    channel.close()


@pytest.mark.parametrize(
    ("method", "tag"),
    [
        ("/takhin.v1.TakhinService/GetTopic", b"\x0a"),
        ("/takhin.v1.TakhinService/ConsumeMessages", b"\x0a"),
        ("/grpc.health.v1.Health/Watch", b"\x0a"),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b"\x22"),
    ],
)
def test_large_requests_of_methods_that_need_none(data_dir, figures, method, tag):
    """They are refused by name, and many of 4 MB at once take bounded memory."""
    message = tag + b"\x80\x92\xf4\x01" + b"t" * 4_000_000
    with Broker(data_dir) as broker:
        channels = [
            grpc.insecure_channel(
                broker.address, options=[*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
            )
            for _ in range(8)
        ]
        calls = [channels[n % 8].stream_stream(method)(iter([message]), timeout=60) for n in range(CALLS)]
        for call in calls:
            with pytest.raises(grpc.RpcError, match="at most 65536 bytes"):
                next(call)
        for channel in channels:
            channel.close()
        peak = resident_bytes(broker, "VmHWM")
        figures(f"{CALLS} x 4 MB to {method}: {peak >> 20} MiB")
        assert peak <= RSS_MAX
        eventually(lambda: resident_bytes(broker) <= RSS_NAMES_AFTER_MAX)


def wide_commit(topic):
    """A commit that is large without any records."""
    request = pb.CommitOffsetRequest(group_id="g")
    for partition in range(20):
        request.offsets.add(topic=topic, partition=partition, offset=0, metadata="m" * 4_000)
    return request


def test_commits_to_a_locked_partition_hold_nobody_up(data_dir):
    """They give their places to others while they wait, and what may wait of them has a bound."""
    settings = {
        "rpc_arrivals_max": ARRIVALS_MAX,
        "storage_busy_wait_ms_max": 30_000,
        "groups_commit_bytes_max": 800_000,
    }
    with Broker(data_dir, **settings) as broker, connected(broker.address) as stub:
        create_topic(stub, "locked", 20)
        create_topic(stub, "free", 20)
        with ForeignLock(broker.partition_file("locked")) as lock:
            waiting = [stub.CommitOffset.future(wide_commit("locked"), timeout=60) for _ in range(8)]
            eventually(lambda: refused_commit(stub, "free") == "OVERLOADED")
            produce(stub, "free", [bytes(100_000)])
            assert stub.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_S_MAX).status == "healthy"
            lock.release()
        assert [call.result().error for call in waiting] == [""] * len(waiting)
        assert not refused_commit(stub, "free")


def refused_commit(stub, topic):
    """Why a wide commit is refused; nothing if it is not."""
    try:
        assert stub.CommitOffset(wide_commit(topic), timeout=CALL_S_MAX).success
    except grpc.RpcError as error:
        return refusal(error).reason
    return ""
