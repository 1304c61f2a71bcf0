"""One way of using the client library, in this process: what it takes, as JSON. client_cost.py starts it.

It imports nothing but the client, so that it runs with that of any commit.
Usage: client_ways.py ADDRESS WAY RECORDS
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from takhin.client import END, START, Admin, Consumer, Delivery, NewRecord, Producer, Span, sync

SMALL, LARGE = bytes(range(100)), bytes(1_024)
KEYS = [b"key-%06d" % number for number in range(1_000)]
PARTITIONS = 4


class Cost:
    """Seconds by the clock, and of processors, since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def each(self, records: int) -> dict[str, float]:
        """Microseconds a record."""
        now = time.perf_counter(), time.process_time()
        clock, cpu = ((end - begin) / records * 1e6 for begin, end in zip(self._began, now, strict=True))
        return {"clock_us": clock, "cpu_us": cpu}


async def send(producer: Producer, topic: str, records: int) -> None:
    for _ in range(records):
        await producer.send(topic, SMALL)
    await producer.flush()


async def send_keys(producer: Producer, topic: str, records: int) -> None:
    for number in range(records):
        await producer.send(topic, SMALL, key=KEYS[number % len(KEYS)])
    await producer.flush()


async def send_new_keys(producer: Producer, topic: str, records: int) -> None:
    for number in range(records):
        await producer.send(topic, SMALL, key=b"key-%09d" % number)
    await producer.flush()


async def keep(producer: Producer, topic: str, records: int) -> None:
    kept = [await producer.send(topic, SMALL) for _ in range(records)]
    await producer.flush()
    kept.clear()


async def await_each(producer: Producer, topic: str, records: int) -> None:
    for delivery in [await producer.send(topic, SMALL) for _ in range(records)]:
        await delivery


async def callbacks(producer: Producer, topic: str, records: int) -> None:
    for _ in range(records):
        (await producer.send(topic, SMALL)).add_done_callback(lambda of: of.result())
    await producer.flush()


async def one_callback(producer: Producer, topic: str, records: int) -> None:
    stored = 0

    def told(delivery: Delivery) -> None:
        nonlocal stored
        delivery.result()
        stored += 1

    for _ in range(records):
        (await producer.send(topic, SMALL)).add_done_callback(told)
    await producer.flush()
    if stored != records:
        raise RuntimeError(f"{stored} callbacks came, not {records}")


async def append(producer: Producer, topic: str, records: int) -> None:
    batch = [NewRecord(SMALL, key) for key in KEYS]
    for _ in range(records // len(batch)):
        await producer.append(topic, batch, partition=0)


async def one_by_one(consumer: Consumer) -> None:
    size = 0
    async for record in consumer:
        size += len(record.value or b"")


async def together(consumer: Consumer) -> None:
    size = 0
    async for batch in consumer.batches():
        size += sum([len(record.value or b"") for record in batch.records])


async def values(consumer: Consumer) -> None:
    size = 0
    async for batch in consumer.batches():
        of_batch = getattr(batch, "values", None) or [record.value for record in batch.records]
        size += sum(map(len, of_batch))


PRODUCING: dict[str, Callable[[Producer, str, int], Awaitable[None]]] = {
    "send": send,
    "send, keys": send_keys,
    "send, new keys": send_new_keys,
    "send, deliveries kept": keep,
    "send, each awaited": await_each,
    "send, callbacks": callbacks,
    "send, one callback for all": one_callback,
    "append": append,
}
READING = {"one by one": one_by_one, "batches": together, "batches, values": values}
BLOCKING = ("blocking send", "blocking send, awaited", "blocking send, callbacks", "blocking, one by one")
WAYS = (*PRODUCING, *READING, *(f"{name}, 1 KiB" for name in READING), *BLOCKING)


async def measure(address: str, way: str, records: int) -> dict[str, float]:
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    async with Admin(address) as admin, Producer(address) as producer, Consumer(address) as consumer:
        await admin.create_topic(topic, partitions=PARTITIONS if "keys" in way else 1)
        if way in PRODUCING:
            await (await producer.send(topic, SMALL))
            cost = Cost()
            await PRODUCING[way](producer, topic, records)
        else:
            value = LARGE if way.endswith("1 KiB") else SMALL
            await fill(producer, topic, records, value)
            cost = Cost()
            await consumer.assign_topics(topic, start=Span(START, END))
            await READING[way.removesuffix(", 1 KiB")](consumer)
        took = cost.each(records)
        await admin.delete_topic(topic)
    return took


async def fill(producer: Producer, topic: str, records: int, value: bytes) -> None:
    for _ in range(records):
        await producer.send(topic, value)
    await producer.flush()


def measure_blocking(address: str, way: str, records: int) -> dict[str, float]:
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    admin: Any
    with sync.Admin(address) as admin, sync.Producer(address) as producer, sync.Consumer(address) as consumer:
        admin.create_topic(topic)
        cost = Cost()
        if way == "blocking send, callbacks":
            for _ in range(records):
                producer.send(topic, SMALL).add_done_callback(sync.Delivery.result)
        else:
            deliveries = [producer.send(topic, SMALL) for _ in range(records)]
            if way == "blocking send, awaited":
                for delivery in deliveries:
                    delivery.result()
        producer.flush()
        if way == "blocking, one by one":
            cost = Cost()
            consumer.assign_topics(topic, start=Span(START, END))
            sum(len(record.value or b"") for record in consumer)
        took = cost.each(records)
        admin.delete_topic(topic)
    return took


def main() -> None:
    address, way, records = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if way in BLOCKING:
        print(json.dumps(measure_blocking(address, way, records)))
    else:
        print(json.dumps(asyncio.run(measure(address, way, records))))


if __name__ == "__main__":
    main()
