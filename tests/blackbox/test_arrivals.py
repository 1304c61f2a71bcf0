"""Requests that arrive at once take bounded memory, and those that do not arrive hold nobody up."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import grpc
import pytest

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
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

PRODUCE = "/takhin.v1.TakhinService/ProduceMessage"
ARRIVALS_MAX = 4
RSS_MAX = 512 << 20
RSS_AFTER_MAX = 250 << 20
RSS_STREAMS_MAX = 800 << 20
"""With a place for each of 64 streams it is 900 MiB and more. gRPC itself holds two messages of each."""


@pytest.mark.parametrize("calls", [200, pytest.param(1_000, marks=pytest.mark.soak)])
def test_many_large_requests(broker, figures, calls):
    """Calls of 4 MB at once all succeed, beside an honest client, within 512 MB; most are given back."""
    request = batch("flood", [bytes(1_000_000)] * 4)
    with connected(broker.address) as honest:
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


def test_large_requests_of_many_streams(data_dir, figures):
    """They take turns as unary requests do: none is refused, and few at a time are more than bytes."""
    settings = {"rpc_arrivals_max": 2, "storage_queue_bytes_max": 8 << 20}
    requests = [batch("flood", [bytes(1_000_000)] * 4)] * 2
    with Broker(data_dir, **settings) as broker, connected(broker.address) as stub:
        create_topic(stub, "flood")
        create_topic(stub, "honest")
        with ThreadPoolExecutor(64) as threads:
            streams = [
                threads.submit(lambda: list(stub.ProduceMessageStream(iter(requests), timeout=120)))
                for _ in range(64)
            ]
            while not all(stream.done() for stream in streams):
                produce(stub, "honest", [b"v"])
        assert [answer.error for stream in streams for answer in stream.result()] == [""] * 128
        peak = resident_bytes(broker, "VmHWM")
    figures(f"64 streams of 4 MB requests: {peak >> 20} MiB")
    assert peak <= RSS_STREAMS_MAX


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
