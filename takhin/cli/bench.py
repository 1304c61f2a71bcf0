"""`takhin bench`: measures how fast a broker stores and returns records through the client."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click

from takhin.cli.connection import admin, run, server_option
from takhin.cli.output import Progress, json_option, print_json, progress_bar
from takhin.cli.rows import print_table
from takhin.client import Consumer, Producer
from takhin.client.contexts import Endpoint
from takhin.model import INT64_MAX
from takhin.sentences import sized

SHOW_RECORDS = 2_000
"""Records between two updates of the progress bar: often enough for the eye, too rarely to cost time."""

LATENCY_RECORDS = 200
"""Records sent one by one for the latencies: enough for a 99th percentile."""

LATENCIES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


@click.command(short_help="Measure a broker.")
@click.option(
    "-n",
    "--records",
    type=click.IntRange(1, INT64_MAX),
    default=500_000,
    metavar="N",
    help="[default: 500000]",
)
@click.option(
    "--bytes",
    "size",
    type=click.IntRange(0, 1 << 20),
    default=100,
    metavar="N",
    help="Bytes of each value.  [default: 100]",
)
@click.option("--partitions", type=click.IntRange(1, 1_000), default=1, metavar="N", help="[default: 1]")
@json_option
@server_option
def bench(*, records: int, size: int, partitions: int, as_json: bool, server: Endpoint) -> None:
    """Measure producing, consuming and latency, in a topic that is deleted afterwards.

    produce: records sent one by one, from the first send until all are acknowledged, that is, durable.
    consume: the same records read one by one. latency: one record at a time, from send to acknowledgement.
    """
    found = run(_measured(server, records, size, partitions))
    if as_json:
        print_json({"records": records, "bytes": size, "partitions": partitions} | found)
        return
    rows = [
        (name, f"{records / found[name]:,.0f} records/s", f"{sized(records * size / found[name])}/s")
        for name in ("produce_s", "consume_s")
    ]
    print_table(["", "rate", "of values"], [(name.removesuffix("_s"), *cells) for name, *cells in rows])
    waits = "  ".join(f"{name} {found[f'latency_{name}_ms']:.2f} ms" for name in LATENCIES)
    click.echo(f"acknowledged, one at a time: {waits}")


async def _measured(server: Endpoint, records: int, size: int, partitions: int) -> dict[str, float]:
    """Seconds that producing and consuming took, and latencies in ms, by their names in the output."""
    value = os.urandom(size)
    async with _topic(server, partitions) as topic:
        with progress_bar("produce", "records") as progress:
            produce_s = await _produce(server, topic, value, records, progress)
        with progress_bar("consume", "records") as progress:
            consume_s = await _consume(server, topic, records, progress)
        latencies = sorted(await _latencies(server, topic, value))
    found = {"produce_s": produce_s, "consume_s": consume_s}
    for name, share in LATENCIES.items():
        found[f"latency_{name}_ms"] = latencies[min(int(len(latencies) * share), len(latencies) - 1)]
    return found


@asynccontextmanager
async def _topic(server: Endpoint, partitions: int) -> AsyncIterator[str]:
    name = f"bench-{uuid.uuid4().hex[:12]}"
    async with admin(server) as broker:
        await broker.create_topic(name, partitions=partitions)
        try:
            yield name
        finally:
            await broker.delete_topic(name)


async def _produce(server: Endpoint, topic: str, value: bytes, records: int, progress: Progress) -> float:
    async with Producer(server.server, **server.credentials) as producer:
        began = time.perf_counter()
        for number in range(records):
            await producer.send(topic, value)
            if number % SHOW_RECORDS == 0:
                progress(number, records)
        await producer.flush()
        return time.perf_counter() - began


async def _consume(server: Endpoint, topic: str, records: int, progress: Progress) -> float:
    async with Consumer(server.server, **server.credentials) as consumer:
        began = time.perf_counter()
        await consumer.assign_topics(topic)
        number = 0
        async for record in consumer:
            number += record.value is not None
            if number % SHOW_RECORDS == 0:
                progress(number, records)
            if number == records:
                break
        return time.perf_counter() - began


async def _latencies(server: Endpoint, topic: str, value: bytes) -> list[float]:
    async with Producer(server.server, **server.credentials) as producer:
        waits = []
        for _ in range(LATENCY_RECORDS):
            began = time.perf_counter()
            await (await producer.send(topic, value, partition=0))
            waits.append((time.perf_counter() - began) * 1_000)
            await asyncio.sleep(0)
        return waits
