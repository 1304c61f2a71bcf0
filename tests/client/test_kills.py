"""A broker that is killed again and again under a producer and a consumer stores each record once.

The producer reaches the broker through a relay that holds back answers before every other kill, so that
batches are stored of which the producer does not know. Without idempotence the same run stores them twice.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from blackbox.broker_process import Broker
from client.relay import Relay
from takhin.client import Admin, Consumer, Delivery, Producer, Record, Retry

TOPIC = "kills"
PARTITIONS = 3
RETRY = Retry(wait_ms_max=100)
PAUSE_RECORDS = 200
"""After so many records the sender sleeps for a millisecond, so that a run's log stays small."""


@dataclass
class Run:
    """What a run sent and what it read. sent: the delivery of each value; read: records by partition."""

    sent: dict[bytes, Delivery] = field(default_factory=dict)
    read: dict[int, list[Record]] = field(default_factory=lambda: {at: [] for at in range(PARTITIONS)})
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    held: int = 0
    seconds: float = 0.0

    async def acknowledged(self) -> None:
        """Return when the producer has reached the broker."""
        await self.begun.wait()
        await next(reversed(self.sent.values()))

    def faults(self) -> list[str]:
        """Deliveries that do not match their record's place, and records that are not stored exactly once."""
        found = []
        for partition, records in self.read.items():
            if [record.offset for record in records] != list(range(len(records))):
                found.append(f"partition {partition}: offsets are not 0, 1, 2 … as the consumer saw them")
            values = [int(record.value or b"") for record in records]
            if values != sorted(values):
                found.append(f"partition {partition}: not in the order of the calls")
        times = Counter(record.value for records in self.read.values() for record in records)
        found += [f"{value!r} is stored {times[value]} times" for value in self.sent if times[value] != 1]
        for value, delivery in self.sent.items():
            told = delivery.result()
            if self.read[told.partition][told.offset].value != value:
                found.append(f"{value!r} is not at {told}")
        return found


async def killed(data_dir, kills, *, idempotent=True):
    """Send and read continuously while the broker is killed `kills` times; then finish both."""
    run, chance, began = Run(), random.Random(kills), time.monotonic()
    with Broker(data_dir) as broker:
        address = broker.address
        async with Admin(address) as admin:
            await admin.create_topic(TOPIC, partitions=PARTITIONS)
    async with (
        Relay(address) as relay,
        Admin(address, retry=RETRY) as admin,
        Consumer(address, retry=RETRY) as consumer,
        Producer(relay.address, retry=RETRY, idempotent=idempotent, delivery_timeout_ms=30_000) as producer,
    ):
        stopping = asyncio.Event()
        sending = asyncio.create_task(send(producer, run, stopping))
        reading = asyncio.create_task(read(consumer, run))
        for number in range(kills):
            with Broker(data_dir, listen=address) as broker:
                await run.acknowledged()
                await asyncio.sleep(chance.uniform(0, 0.2))  # so that the kill comes at any moment
                if number % 2 == 0:
                    await hold_an_answer(relay, admin, run)
                    run.held += 1
                broker.kill()
            relay.cut()
        with Broker(data_dir, listen=address):
            stopping.set()
            await sending
            await producer.close()
            ends = {at: (await admin.partition_offsets(TOPIC, at)).end_offset for at in range(PARTITIONS)}
            reading.cancel()
            async with asyncio.timeout(30):
                await read(consumer, run, ends)
            await consumer.close()
    run.seconds = time.monotonic() - began
    return run


async def hold_an_answer(relay, admin, run):
    """Return when something is stored whose answer the producer will not receive."""
    relay.hold_answers()
    stored = told = 0
    async with asyncio.timeout(20):
        while stored <= told:
            stored = sum(of.end_offset for of in (await admin.describe_topic(TOPIC)).partitions)
            told = sum(delivery.done for delivery in run.sent.values())


async def send(producer, run, stopping):
    number = 0
    while not stopping.is_set():
        value = b"%d" % number
        run.sent[value] = await producer.send(TOPIC, value, partition=number % PARTITIONS)
        run.begun.set()
        number += 1
        if number % PAUSE_RECORDS == 0:
            await asyncio.sleep(0.001)


async def read(consumer, run, ends=None):
    """Read on. ends: if given, stop when so many records of each partition were read."""
    if ends is None:
        await consumer.assign_topics(TOPIC)
    elif all(len(run.read[at]) == end for at, end in ends.items()):
        return
    async for record in consumer:
        run.read[record.partition].append(record)
        if ends is not None and all(len(run.read[at]) == end for at, end in ends.items()):
            return


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.soak)])
async def test_every_record_is_stored_once(data_dir, kills, figures):
    """Every send resolves, each record is stored once, the consumer sees each offset once, in order."""
    run = await killed(data_dir, kills)
    assert run.faults() == []
    assert len(run.sent) > 1_000 * kills
    figures(
        f"client kills: {kills} SIGKILLs, {run.held} with answers withheld, {len(run.sent)} records sent, "
        f"each stored once and read once, {run.seconds:.0f} s"
    )


async def test_without_idempotence_records_are_doubled(data_dir, figures):
    """Control: without idempotence a batch is stored twice, and the check sees it."""
    run = await killed(data_dir, 1, idempotent=False)
    doubled = [fault for fault in run.faults() if fault.endswith("is stored 2 times")]
    assert doubled
    figures(f"client kills, control without idempotence: {len(doubled)} records stored twice after 1 SIGKILL")
