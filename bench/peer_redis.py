"""Carries out the loads against Redis Streams, with redis-py and hiredis, and starts the server for them.

It does as Redis recommends for throughput: pipelines without MULTI. They use one connection, which keeps the
order of the producer's records as Takhin's one stream does. As a system of its own they use four, each on
a thread, which is faster because one packs commands while the server works for another. A record is an
entry with the fields k and v.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import hiredis
import redis
import redis.asyncio

from bench.calls import concurrent
from bench.common import Payload, ended, free_port, latencies
from bench.loads import BATCHES, CONCURRENT, SERIAL, TAIL, Load, Results
from bench.stopwatch import Stopwatch

READ_COUNT = 1_000
START_SECONDS_MAX = 10
ARRIVAL_SECONDS_MAX = 10

OPTIONS = {
    "appendonly": "yes",
    "appendfsync": "always",
    # Snapshots and rewrites of the growing append-only file would cost it time as well.
    "save": "",
    "auto-aof-rewrite-percentage": "0",
}


@contextmanager
def serve(folder: Path, program: str) -> Iterator[str]:
    """Run a redis-server with its data in `folder`; yields its address."""
    port = free_port()
    options = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True) as process, ended(process):
        address = f"127.0.0.1:{port}"
        with _connection(address) as client:
            _wait_until_up(client)
            kept = {name: client.config_get(name)[name] for name in OPTIONS}
            if kept != OPTIONS:
                raise RuntimeError(f"redis-server runs with {kept}, not {OPTIONS}")
        yield address


def version(address: str) -> str:
    with _connection(address) as client:
        server = client.info("server")["redis_version"]
    return f"{server} (redis-py {redis.__version__}, hiredis {hiredis.__version__})"


def _wait_until_up(client: Any) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            client.ping()
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _connection(address: str) -> Any:
    """A client that uses a single connection."""
    host, port = address.split(":")
    return redis.Redis(host, int(port), single_connection_client=True)


def measure(address: str, load: Load) -> Results:
    """Run everything over one connection, except for concurrent calls: each has a connection of its own."""
    stream = f"bench-{uuid.uuid4().hex[:8]}"
    with _connection(address) as client:
        try:
            if load.kind == BATCHES:
                return _batches([client], stream, load)
            if load.kind == SERIAL:
                return _serial(client, stream, load)
            if load.kind == TAIL:
                with _connection(address) as consumer:
                    return _arrival(client, consumer, stream, load)
            if load.kind == CONCURRENT:
                return asyncio.run(_concurrent(address, stream, load))
        finally:
            client.delete(stream)
    return {}


def measure_four(address: str, load: Load) -> Results:
    """Send batches over four connections. That keeps no order between them, so only batches are measured."""
    if load.kind != BATCHES:
        return {}
    stream = f"bench-{uuid.uuid4().hex[:8]}"
    clients = [_connection(address) for _ in range(4)]
    try:
        return {"produce": _batches(clients, stream, load)["produce"]}
    finally:
        clients[0].delete(stream)
        for client in clients:
            client.close()


def _batches(clients: Sequence[Any], stream: str, load: Load) -> Results:
    """Send pipelines: the requests are divided among the clients, each on a thread of its own."""
    payload = load.payload()
    share = load.requests // len(clients)
    for client in clients:
        _pipelines(client, stream, payload, max(load.warm_up // len(clients), 1))
    with ThreadPoolExecutor(len(clients)) as pool:
        watch = Stopwatch()
        produced = list(pool.map(lambda client: _pipelines(client, stream, payload, share), clients))
        requests = share * len(clients)
        produce = watch.rate(requests * load.records, requests * payload.size_bytes)
    seconds = [of_pipeline for of_client in produced for of_pipeline in of_client]
    produce |= latencies(seconds)
    if not load.consume or len(clients) > 1:
        return {"produce": produce}
    return {"produce": produce, "consume": _consume(clients[0], stream, load)}


def _pipelines(client: Any, stream: str, payload: Payload, count: int) -> list[float]:
    """The seconds of each pipeline. execute() returns when all is answered, and raises if an XADD failed."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        pipeline = client.pipeline(transaction=False)
        for key, value in zip(payload.keys, payload.values, strict=True):
            pipeline.xadd(stream, {b"k": key, b"v": value})
        pipeline.execute()
        seconds.append(time.perf_counter() - began)
    return seconds


def _consume(client: Any, stream: str, load: Load) -> Any:
    payload = load.payload()
    expected = client.xlen(stream)
    records = value_bytes = 0
    last: Any = "0"
    watch = Stopwatch()
    while entries := _entries(client.xread({stream: last}, count=READ_COUNT)):
        value_bytes += sum([len(fields[b"v"]) for _, fields in entries])
        records += len(entries)
        last = entries[-1][0]
    figures = watch.rate(records, records // load.records * payload.size_bytes)
    if (records, value_bytes) != (expected, expected * load.value_bytes):
        raise RuntimeError(f"read {records} entries with {value_bytes} bytes, not all of {expected}")
    return figures


def _entries(answer: Any) -> Any:
    """The entries of the only stream in an XREAD reply, which is a map in RESP3 and a list in RESP2."""
    if not answer:
        return ()
    if isinstance(answer, dict):
        (entries,) = answer.values()
        return entries[0]
    return answer[0][1]


def measure_group(address: str, load: Load) -> float:
    """Records a second that one member of a group reads with XREADGROUP, and acknowledges with XACK."""
    stream, group = f"bench-{uuid.uuid4().hex[:8]}", "g"
    with _connection(address) as client:
        _pipelines(client, stream, load.payload(), load.requests)
        expected = client.xlen(stream)
        client.xgroup_create(stream, group, id="0")
        records = 0
        began = time.perf_counter()
        while entries := _entries(client.xreadgroup(group, "m", {stream: ">"}, count=READ_COUNT)):
            records += len(entries)
            client.xack(stream, group, *(number for number, _ in entries))
        took = time.perf_counter() - began
        client.delete(stream)
    if records != expected:
        raise RuntimeError(f"read {records} entries, not all of {expected}")
    return records / took


def _serial(client: Any, stream: str, load: Load) -> Results:
    payload = load.payload()
    seconds = []
    for _ in range(load.warm_up + load.requests):
        began = time.perf_counter()
        client.xadd(stream, {b"k": payload.keys[0], b"v": payload.values[0]})
        seconds.append(time.perf_counter() - began)
    return {"call": latencies(seconds[load.warm_up :])}


async def _concurrent(address: str, stream: str, load: Load) -> Results:
    payload = load.payload()
    fields: Any = {b"k": payload.keys[0], b"v": payload.values[0]}
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        f"redis://{address}", max_connections=load.in_flight, timeout=None
    )
    async with redis.asyncio.Redis.from_pool(pool) as client:
        return await concurrent(lambda: client.xadd(stream, fields), load)


def _arrival(producer: Any, consumer: Any, stream: str, load: Load) -> Results:
    """Measure arrivals with XREAD BLOCK, which waits on a thread of its own."""
    payload = load.payload()
    arrivals: SimpleQueue[float] = SimpleQueue()
    rounds = load.warm_up + load.requests

    def consume() -> None:
        last: Any = "0"
        for _ in range(rounds):
            ((last, fields),) = _entries(consumer.xread({stream: last}, block=ARRIVAL_SECONDS_MAX * 1_000))
            value, arrived = fields[b"v"], time.perf_counter()
            if value != payload.values[0]:
                raise RuntimeError("the consumer received another value")
            arrivals.put(arrived)

    seconds = []
    with ThreadPoolExecutor(1) as pool:
        consuming = pool.submit(consume)
        for _ in range(rounds):
            began = time.perf_counter()
            producer.xadd(stream, {b"k": payload.keys[0], b"v": payload.values[0]})
            try:
                seconds.append(arrivals.get(timeout=ARRIVAL_SECONDS_MAX) - began)
            except Empty:
                consuming.result()  # raises the thread's error, if there is one
                raise
    return {"arrival": latencies(seconds[load.warm_up :])}
