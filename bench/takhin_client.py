"""Carries out the loads over gRPC, against a Takhin or the echo, and starts a broker for them.

The client is grpc.aio with the generated code; it uses nothing of the server's code.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import grpc

from bench import takhin_library
from bench.calls import concurrent, serial
from bench.common import Figures, Payload, broker, latencies
from bench.loads import BATCHES, CONCURRENT, READS, SENDS, SERIAL, SINGLES, TAIL, Load, Results
from bench.stopwatch import Stopwatch
from takhin.v1 import takhin_pb2 as pb
from takhin.v1.takhin_pb2_grpc import TakhinServiceStub

CHANNEL_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # otherwise all channels of the process share one connection
]
ECHO_TOPIC = "echo"


def serve(folder: Path, _program: str) -> AbstractContextManager[str]:
    """Run a broker with its default settings; yields its address."""
    return broker(folder)


def version(_address: str) -> str:
    return (
        f"{importlib.metadata.version('takhin')} (grpcio {grpc.__version__}, apsw {apsw.apsw_version()}, "
        f"SQLite {apsw.sqlite_lib_version()})"
    )


@dataclass(frozen=True, slots=True)
class Dial:
    """How to connect. credentials: None for plain traffic. metadata: sent with every call: a token."""

    credentials: grpc.ChannelCredentials | None = None
    metadata: tuple[tuple[str, str], ...] = ()

    def channel(self, address: str) -> grpc.aio.Channel:
        target = f"dns:///{address}"
        if self.credentials is None:
            return grpc.aio.insecure_channel(target, CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(target, self.credentials, CHANNEL_OPTIONS)


PLAIN = Dial()


class _WithMetadata:
    """A stub whose calls all carry the same metadata."""

    def __init__(self, stub: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub = stub
        self._metadata = metadata

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(self._stub, name), metadata=self._metadata)


def measure(address: str, load: Load, dial: Dial = PLAIN) -> Results:
    """Run the load against a Takhin, in its own topic with one partition, which is deleted afterwards."""
    if load.kind in (SENDS, READS):
        return takhin_library.measure(address, load)
    return asyncio.run(_measure(address, load, dial))


def measure_echo(address: str, load: Load) -> Results:
    """Run the load against the echo. It has no log: what is consumed is made beforehand."""
    return {} if load.kind in (SENDS, READS) else asyncio.run(_measure_echo(address, load))


async def _measure(address: str, load: Load, dial: Dial) -> Results:
    async with client(address, dial) as stub, new_topic(stub) as topic:
        if load.kind == TAIL:
            async with client(address, dial) as consumer:
                return {"arrival": await _arrival(stub, consumer, topic, load)}
        results = await _produce(stub, topic, load)
        if load.consume:
            results["consume"] = await _consume(stub, topic, load)
        return results


async def _measure_echo(address: str, load: Load) -> Results:
    async with client(address) as stub:
        if load.kind == TAIL:  # one way and back: the least that an arrival can take
            return {"arrival": (await _produce(stub, ECHO_TOPIC, replace(load, kind=SERIAL)))["call"]}
        results = await _produce(stub, ECHO_TOPIC, load)
        if load.consume:
            results["consume"] = await _consume(stub, f"{ECHO_TOPIC}-{load.value_bytes}", load)
        return results


@asynccontextmanager
async def client(address: str, dial: Dial = PLAIN) -> AsyncIterator[Any]:
    async with dial.channel(address) as channel:
        await channel.channel_ready()
        stub = TakhinServiceStub(channel)
        yield _WithMetadata(stub, dial.metadata) if dial.metadata else stub


@asynccontextmanager
async def new_topic(stub: Any) -> AsyncIterator[str]:
    name = f"bench-{uuid.uuid4().hex[:8]}"
    checked(await stub.CreateTopic(pb.CreateTopicRequest(name=name)))
    yield name
    checked(await stub.DeleteTopic(pb.DeleteTopicRequest(name=name)))


def checked(response: Any) -> Any:
    """The response unchanged; a refusal or the end of the stream ends the bench."""
    if response is grpc.aio.EOF:
        raise RuntimeError("the stream ended before everything was answered")
    if response.error:
        raise RuntimeError(response.error)
    return response


def batch_request(topic: str, payload: Payload, partition: int = 0) -> pb.ProduceMessageRequest:
    request = pb.ProduceMessageRequest(topic=topic, partition=partition)
    add = request.records.add
    for key, value in zip(payload.keys, payload.values, strict=True):
        record = add()
        record.key = key
        record.value = value
    return request


def _single(topic: str, payload: Payload) -> pb.ProduceMessageRequest:
    return pb.ProduceMessageRequest(
        topic=topic, record=pb.Record(key=payload.keys[0], value=payload.values[0])
    )


async def _produce(stub: Any, topic: str, load: Load) -> Results:
    """The part of the load that a server without a log can answer, too."""
    if load.kind in (BATCHES, SINGLES):
        return await _stream(stub, topic, load)
    payload = load.payload()

    async def call() -> None:
        checked(await stub.ProduceMessage(_single(topic, payload)))

    return await {SERIAL: serial, CONCURRENT: concurrent}[load.kind](call, load)


async def _stream(stub: Any, topic: str, load: Load) -> Results:
    """Send batches or singles over one ProduceMessageStream."""
    payload = load.payload()
    call = stub.ProduceMessageStream()
    await _send(call, topic, payload, load, load.warm_up)
    watch = Stopwatch()
    seconds = await _send(call, topic, payload, load, load.requests)
    records = load.requests * load.records
    figures = watch.rate(records, load.requests * payload.size_bytes) | latencies(seconds)
    await call.done_writing()
    if await call.read() is not grpc.aio.EOF:
        raise RuntimeError("there are more responses than requests")
    return {"produce": figures}


async def _send(call: Any, topic: str, payload: Payload, load: Load, requests: int) -> list[float]:
    """Send this many requests and read their answers; returns the seconds that each took."""
    build = _single if load.kind == SINGLES else batch_request
    window = asyncio.Semaphore(load.in_flight)
    sent: deque[float] = deque()
    seconds = []

    async def write() -> None:
        for _ in range(requests):
            await window.acquire()
            request = build(topic, payload)
            sent.append(time.perf_counter())
            await call.write(request)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        for _ in range(requests):
            checked(await call.read())
            seconds.append(time.perf_counter() - sent.popleft())
            window.release()
    return seconds


async def flood(
    stub: Any, requests: Iterable[pb.ProduceMessageRequest], *, in_flight: int, answered: list[float]
) -> None:
    """Send all requests over a stream of their own, with so many of them unanswered.

    answered: called with the seconds that an answer took, as each one comes.
    """
    call = stub.ProduceMessageStream()
    window = asyncio.Semaphore(in_flight)
    sent: deque[float] = deque()

    async def write() -> None:
        await window.acquire()
        for request in requests:
            sent.append(time.perf_counter())
            await call.write(request)
            await window.acquire()
        await call.done_writing()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        while (response := await call.read()) is not grpc.aio.EOF or sent:
            checked(response)
            answered.append(time.perf_counter() - sent.popleft())
            window.release()


async def _consume(stub: Any, topic: str, load: Load) -> Figures:
    """Read every value that `_stream` left in the topic."""
    payload = load.payload()
    records = (load.warm_up + load.requests) * load.records
    watch = Stopwatch()
    await read_values(stub, topic, -1, records, load.value_bytes)
    return watch.rate(records, records // load.records * payload.size_bytes)


async def read_values(stub: Any, topic: str, offset: int, records: int, value_bytes: int) -> float:
    """Read this many records of partition 0, every value of them; returns the seconds it took."""
    read_bytes = 0
    began = time.perf_counter()
    request = pb.ConsumeMessagesRequest(topic=topic, offset=offset, max_records=records)
    async for response in stub.ConsumeMessages(request):
        read_bytes += sum([len(record.value) for record in response.records])
    took = time.perf_counter() - began
    if read_bytes != records * value_bytes:
        raise RuntimeError(f"consumed {read_bytes} bytes of values, not {records * value_bytes}")
    return took


async def _arrival(producer: Any, consumer: Any, topic: str, load: Load) -> Figures:
    """Measure from before the produce call until the consumer has the value; each uses its own connection."""
    payload = load.payload()
    tail = consumer.ConsumeMessages(pb.ConsumeMessagesRequest(topic=topic, offset=-1))
    seconds = []
    for _ in range(load.warm_up + load.requests):
        began = time.perf_counter()
        acknowledged = producer.ProduceMessage(_single(topic, payload))
        value = await _next_value(tail)
        seconds.append(time.perf_counter() - began)
        if value != payload.values[0]:
            raise RuntimeError("the consumer received another value")
        checked(await acknowledged)
    tail.cancel()
    return latencies(seconds[load.warm_up :])


async def _next_value(tail: Any) -> bytes:
    while True:
        response = checked(await tail.read())
        if response.records:  # an empty response only says that the idle stream is alive
            return response.records[0].value
