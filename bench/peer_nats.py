"""Carries out the loads against NATS JetStream, with nats-py, and starts the server for them.

It follows the documentation: streams in files, asynchronous publishing with a bound on what is pending, and
the ordered consumer with a callback, which was the fastest of its ways to read. The key of a record is the
last token of its subject, the value is the payload. By default JetStream acknowledges before it syncs, so a
power failure can lose what it acknowledged last; newer servers can be told to sync always.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import nats.errors
from nats.js.api import StorageType

from bench.calls import concurrent, serial
from bench.common import Figures, ended, free_port, latencies
from bench.loads import CONCURRENT, READS, SENDS, SERIAL, TAIL, Load, Results
from bench.stopwatch import Stopwatch

STREAM = "bench"
START_SECONDS_MAX = 10


@contextmanager
def serve(folder: Path, program: str) -> Iterator[str]:
    """Run a nats-server with its data in `folder` and its own defaults; yields its address."""
    with _serve(folder, program, "2m") as address:
        yield address


@contextmanager
def serve_synced(folder: Path, program: str) -> Iterator[str]:
    """The same; it syncs before it acknowledges."""
    with _serve(folder, program, "always") as address:
        yield address


@contextmanager
def _serve(folder: Path, program: str, sync_interval: str) -> Iterator[str]:
    port = free_port()
    config = folder / "nats.conf"
    config.write_text(f'jetstream {{ store_dir: "{folder}", sync_interval: "{sync_interval}" }}\n')
    command = [program, "--addr", "127.0.0.1", "--port", str(port), "--config", str(config)]
    command += ["--log", str(folder / "log")]
    with subprocess.Popen(command, text=True) as process, ended(process):
        address = f"127.0.0.1:{port}"
        asyncio.run(_wait_until_up(address))
        yield address


def version(address: str) -> str:
    return asyncio.run(_version(address))


async def _version(address: str) -> str:
    async with _client(address) as client:
        server, client_version = client.connected_server_version, importlib.metadata.version("nats-py")
        return f"{server.major}.{server.minor}.{server.patch} (nats-py {client_version})"


async def _wait_until_up(address: str) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            async with _client(address) as client:
                await client.jetstream().account_info()
        except (OSError, nats.errors.Error):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)
        else:
            return


@asynccontextmanager
async def _client(address: str) -> AsyncIterator[Any]:
    client = await nats.connect(f"nats://{address}", allow_reconnect=False, error_cb=_silent)
    try:
        yield client
    finally:
        await client.close()


async def _silent(error: Exception) -> None:
    """Ignore the error: the call that it concerns raises it."""


def measure(address: str, load: Load) -> Results:
    """Run the load in a stream of its own."""
    if load.kind in (SENDS, READS):  # bench.client compares the clients of NATS and Redis
        return {}
    return asyncio.run(_measure(address, load))


async def _measure(address: str, load: Load) -> Results:
    async with _client(address) as client:
        streams = client.jetstream(publish_async_max_pending=load.in_flight * load.records)
        await streams.add_stream(name=STREAM, subjects=[f"{STREAM}.>"], storage=StorageType.FILE)
        try:
            if load.kind == TAIL:
                async with _client(address) as consumer:
                    return {"arrival": await _arrival(streams, consumer.jetstream(), load)}
            return await _produce(streams, load)
        finally:
            await streams.delete_stream(STREAM)


async def _produce(streams: Any, load: Load) -> Results:
    if load.kind in (SERIAL, CONCURRENT):
        payload = load.payload()
        subject = _subject(payload.keys[0])
        call = {SERIAL: serial, CONCURRENT: concurrent}[load.kind]
        return await call(lambda: streams.publish(subject, payload.values[0]), load)
    await _publish(streams, replace(load, requests=load.warm_up))
    results = {"produce": await _publish(streams, load)}
    if load.consume:
        results["consume"] = await _consume(streams, load)
    return results


def _subject(key: bytes) -> str:
    return f"{STREAM}.{key.decode()}"


async def _publish(streams: Any, load: Load) -> Figures:
    """Publish every record of every request; at most in_flight requests' worth are unacknowledged."""
    payload = load.payload()
    subjects = [_subject(key) for key in payload.keys]
    acks = []
    watch = Stopwatch()
    for _ in range(load.requests):
        for subject, value in zip(subjects, payload.values, strict=True):
            acks.append(await streams.publish_async(subject, value))
    await streams.publish_async_completed()
    figures = watch.rate(len(acks), load.requests * payload.size_bytes)
    for ack in acks:
        ack.result()  # raises if it was refused
    return figures


async def _consume(streams: Any, load: Load) -> Figures:
    payload = load.payload()
    expected = (load.warm_up + load.requests) * load.records
    records = value_bytes = 0
    everything = asyncio.Event()

    async def received(message: Any) -> None:
        nonlocal records, value_bytes
        records += 1
        value_bytes += len(message.data)
        if records == expected:
            everything.set()

    watch = Stopwatch()
    subscription = await streams.subscribe(f"{STREAM}.>", stream=STREAM, ordered_consumer=True, cb=received)
    await everything.wait()
    figures = watch.rate(records, records // load.records * payload.size_bytes)
    await subscription.unsubscribe()
    if (records, value_bytes) != (expected, expected * load.value_bytes):
        raise RuntimeError(f"received {records} messages with {value_bytes} bytes, not {expected}")
    return figures


async def _arrival(producer: Any, consumer: Any, load: Load) -> Figures:
    """Measure with an ordered consumer's callback, on a connection of its own."""
    payload = load.payload()
    arrivals: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def received(message: Any) -> None:
        arrivals.put_nowait((time.perf_counter(), message.data))

    subscription = await consumer.subscribe(f"{STREAM}.>", stream=STREAM, ordered_consumer=True, cb=received)
    seconds = []
    for _ in range(load.warm_up + load.requests):
        began = time.perf_counter()
        ack = asyncio.ensure_future(producer.publish(_subject(payload.keys[0]), payload.values[0]))
        arrived, value = await arrivals.get()
        seconds.append(arrived - began)
        if value != payload.values[0]:
            raise RuntimeError("the consumer received another value")
        await ack
    await subscription.unsubscribe()
    return latencies(seconds[load.warm_up :])
