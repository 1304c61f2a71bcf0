"""Carries out the loads that are about our own client library: `sends` and `reads`, each as its docs say."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from bench.common import Figures
from bench.loads import SENDS, Amount, Load, Results
from bench.stopwatch import Stopwatch
from takhin.client import END, START, Admin, Consumer, Delivery, NewRecord, Producer, Span


def measure(address: str, load: Load) -> Results:
    """Run the load in a topic of its own with one partition, which is deleted afterwards."""
    return asyncio.run(_measure(address, load))


async def _measure(address: str, load: Load) -> Results:
    async with _topic(address) as topic:
        if load.kind == SENDS:
            return await _sends(address, topic, load)
        return await _reads(address, topic, load)


@asynccontextmanager
async def _topic(address: str) -> AsyncIterator[str]:
    async with Admin(address) as admin:
        topic = f"bench-{uuid.uuid4().hex[:8]}"
        await admin.create_topic(topic)
        yield topic
        await admin.delete_topic(topic)


async def _sends(address: str, topic: str, load: Load) -> Results:
    ways = {"flushed": _flushed, "callbacks": _callbacks, "awaited": _awaited}
    results = {}
    async with Producer(address) as producer:
        for name, way in ways.items():
            await way(producer, topic, replace(load, requests=load.warm_up))
            results[name] = await way(producer, topic, load)
    return results


async def _flushed(producer: Producer, topic: str, load: Load) -> Figures:
    values, records = load.payload().values, load.requests * load.records
    watch = Stopwatch()
    for _ in range(load.requests):
        for value in values:
            await producer.send(topic, value)
    await producer.flush()  # raises if anything was not stored
    return watch.rate(records, records * load.value_bytes)


async def _callbacks(producer: Producer, topic: str, load: Load) -> Figures:
    values, records = load.payload().values, load.requests * load.records
    stored = 0

    def told(delivery: Delivery) -> None:
        nonlocal stored
        delivery.result()
        stored += 1

    watch = Stopwatch()
    for _ in range(load.requests):
        for value in values:
            (await producer.send(topic, value)).add_done_callback(told)
    await producer.flush()
    figures = watch.rate(records, records * load.value_bytes)
    if stored != records:
        raise RuntimeError(f"{stored} callbacks came, not {records}")
    return figures


async def _awaited(producer: Producer, topic: str, load: Load) -> Figures:
    values, records = load.payload().values, load.requests * load.records
    deliveries = []
    watch = Stopwatch()
    for _ in range(load.requests):
        for value in values:
            deliveries.append(await producer.send(topic, value))  # noqa: PERF401  as a program does
    for delivery in deliveries:
        await delivery
    return watch.rate(records, records * load.value_bytes)


async def _reads(address: str, topic: str, load: Load) -> Results:
    payload = load.payload()
    batch = [NewRecord(value, key) for key, value in zip(payload.keys, payload.values, strict=True)]
    async with Producer(address, in_flight_max=load.in_flight) as producer:
        for _ in range(load.requests):
            await producer.append(topic, batch, partition=0)
    records = load.requests * load.records
    amount = Amount(records, records * load.value_bytes)
    size_bytes = load.requests * payload.size_bytes
    ways = {"one": _one_by_one, "together": _together}
    return {name: await _read(address, topic, partial(way, amount), size_bytes) for name, way in ways.items()}


async def _read(address: str, topic: str, way: partial, size_bytes: int) -> Figures:
    async with Consumer(address) as consumer:
        watch = Stopwatch()
        await consumer.assign_topics(topic, start=Span(START, END))
        return watch.rate(await way(consumer), size_bytes)


async def _one_by_one(amount: Amount, consumer: Consumer) -> int:
    records = value_bytes = 0
    async for record in consumer:
        records += 1
        value_bytes += len(record.value or b"")
    amount.check(records, value_bytes)
    return records


async def _together(amount: Amount, consumer: Consumer) -> int:
    records = value_bytes = 0
    async for batch in consumer.batches():
        values = batch.values
        records += len(values)
        value_bytes += sum([len(value or b"") for value in values])
    amount.check(records, value_bytes)
    return records
