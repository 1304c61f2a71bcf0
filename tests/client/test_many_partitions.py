"""A consumer of more partitions than may have a stream each."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from blackbox.broker_process import Broker
from takhin.client import END, START, Admin, Consumer, Producer, Span
from takhin.client.errors import LogReplacedError
from takhin.errors import OffsetOutOfRangeError, UnavailableError, UnknownTopicError

TOPICS = ["t0", "t1"]
PARTITIONS = 250
"""Of each topic: together more than the tails that a consumer follows by a stream each."""
STANDS_STILL_S = 4.0
"""With nine times as long until the next look."""


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """A broker in memory."""
    with Broker(tmp_path_factory.mktemp("crowded") / "data", storage_engine="memory") as broker:
        yield broker


@pytest.fixture
async def admin(crowded):
    async with Admin(crowded.address) as admin:
        for topic in TOPICS:
            await admin.create_topic(topic, partitions=PARTITIONS)
        yield admin
        for topic in await admin.list_topics():
            await admin.delete_topic(topic)


async def fill(server, value, partitions=range(PARTITIONS)):
    async with Producer(server) as producer:
        for topic in TOPICS:
            for partition in partitions:
                await producer.send(topic, value, partition=partition)


async def test_every_record_of_every_partition(crowded, admin):
    """All records come, new ones too, a commit takes no second, and few streams are open."""
    await fill(crowded.address, b"old")
    async with Consumer(crowded.address, group_id="g") as consumer:
        await consumer.assign_topics(*TOPICS)
        async with asyncio.timeout(60):
            old = [await anext(consumer) for _ in range(2 * PARTITIONS)]
        assert {(r.topic, r.partition, r.value) for r in old} == {
            (topic, partition, b"old") for topic in TOPICS for partition in range(PARTITIONS)
        }
        began = time.monotonic()
        await consumer.commit()
        assert time.monotonic() - began < 1
        await fill(crowded.address, b"new", [0, 200, 249])
        async with asyncio.timeout(20):
            new = {(r.topic, r.partition, r.offset) for r in [await anext(consumer) for _ in range(6)]}
        assert new == {(topic, partition, 1) for topic in TOPICS for partition in (0, 200, 249)}
        assert await consumer.poll(0.3) is None
        assert consumer.end_offset("t0", 200) == 2


async def test_a_broker_that_stands_still_for_a_while(tmp_path):
    """A look that takes long, because nobody answers it, does not put the next one off for long."""
    with Broker(tmp_path / "data", storage_engine="memory") as broker:
        async with Admin(broker.address) as admin:
            await admin.create_topic("t", partitions=500)
        async with Producer(broker.address) as producer, Consumer(broker.address) as consumer:
            await consumer.assign_topics("t")
            await producer.send("t", b"before", partition=499)
            assert (await consumer.poll(60)).value == b"before"
            assert await consumer.poll(0.3) is None
            os.kill(broker.pid, signal.SIGSTOP)
            await asyncio.sleep(STANDS_STILL_S)  # looks take as long
            os.kill(broker.pid, signal.SIGCONT)
            assert await consumer.poll(0.3) is None
            await producer.send("t", b"after", partition=499)
            assert (await consumer.poll(9 * STANDS_STILL_S / 2)).value == b"after"


async def test_spans_end(crowded, admin):
    """Spans end at the end as it was, before it, beyond it, and where nothing is."""
    await fill(crowded.address, b"0")
    await fill(crowded.address, b"1")
    async with Consumer(crowded.address) as consumer:
        await consumer.assign_topics(*TOPICS, start=Span(START, END))
        async with asyncio.timeout(60):
            assert len([record async for record in consumer]) == 4 * PARTITIONS
        await consumer.assign_topics(*TOPICS, start=Span(1, 1))
        assert [record async for record in consumer] == []
        await consumer.assign_topics(*TOPICS, start=Span(END, END + 1))
        await fill(crowded.address, b"2")
        await fill(crowded.address, b"3")
        async with asyncio.timeout(60):
            assert {record.value async for record in consumer} == {b"2"}


async def test_a_paused_partition_keeps_nobody_waiting(crowded, admin):
    """Many paused partitions with more records than the prefetch takes do not keep the others' places."""
    await fill(crowded.address, bytes(10_000))
    await fill(crowded.address, bytes(10_000))
    async with Consumer(crowded.address, prefetch_bytes_max=1 << 20) as consumer:
        await consumer.assign_topics(*TOPICS)
        paused = [("t0", partition) for partition in range(PARTITIONS)]
        consumer.pause(*paused)
        async with asyncio.timeout(60):
            assert {(await anext(consumer)).topic for _ in range(2 * PARTITIONS)} == {"t1"}
            consumer.resume(*paused)
            assert {(await anext(consumer)).topic for _ in range(2 * PARTITIONS)} == {"t0"}


async def test_errors_are_raised(crowded, admin):
    """A position outside a log, and a topic that is gone or another one, are raised, also from the tail."""
    async with Consumer(crowded.address) as consumer:
        places = {(topic, partition): START for topic in TOPICS for partition in range(PARTITIONS)}
        await consumer.assign(places | {("t1", 7): 5})
        async with asyncio.timeout(20):
            with pytest.raises(OffsetOutOfRangeError):
                await anext(consumer)
        await consumer.assign(places)
        assert await consumer.poll(0.2) is None
        await admin.delete_topic("t1")
        async with asyncio.timeout(20):
            with pytest.raises(UnknownTopicError):
                await anext(consumer)
        await admin.create_topic("t1", partitions=PARTITIONS)
        async with asyncio.timeout(20):
            while True:
                with pytest.raises((LogReplacedError, UnknownTopicError)) as raised:
                    await anext(consumer)
                if raised.type is LogReplacedError:
                    break


async def test_an_outage_ends(memory):
    """Without a broker iterating raises after outage_timeout_ms, and goes on when the broker is back."""
    folder = memory / "data"
    with Broker(folder) as broker:
        address = broker.address
        async with Admin(address) as admin:
            for topic in TOPICS:
                await admin.create_topic(topic, partitions=PARTITIONS)
        consumer = await Consumer(address, outage_timeout_ms=1_000).open()
        await consumer.assign_topics(*TOPICS)
        assert await consumer.poll(0.2) is None
    async with asyncio.timeout(20):
        with pytest.raises(UnavailableError):
            await anext(consumer)
    with Broker(folder, listen=address):
        await fill(address, b"back", [9])
        seen = set()
        async with asyncio.timeout(30):
            while len(seen) < 2:
                try:
                    record = await anext(consumer)
                except UnavailableError:
                    continue
                seen.add((record.topic, record.partition))
        assert seen == {("t0", 9), ("t1", 9)}
        await consumer.close()


async def test_streams_are_spread_over_connections(crowded, admin):
    """With a limit of 100 streams on a connection, 350 open streams starve neither each other nor a call."""
    with Broker(
        crowded.data_dir.with_name("narrow"), storage_engine="memory", rpc_streams_per_connection_max=100
    ) as narrow:
        async with (
            Admin(narrow.address) as admin_of_narrow,
            Producer(narrow.address) as producer,
            Consumer(narrow.address, group_id="g") as consumer,
        ):
            await admin_of_narrow.create_topic("t", partitions=350)
            await consumer.assign_topics("t")
            for partition in range(350):
                await producer.send("t", b"", partition=partition)
            async with asyncio.timeout(20):
                assert len({(await anext(consumer)).partition for _ in range(350)}) == 350
                await consumer.commit()


@pytest.mark.parametrize(("prefetch_bytes", "count"), [(1, 200), (200_000, 2_500)])
async def test_a_burst_for_a_slow_reader(crowded, admin, prefetch_bytes, count):
    """A partition that was caught up is read to its end, also if it grows by more than is read ahead.

    Where one byte is read ahead, each response is more than that, however fast it is taken.
    """
    async with (
        Consumer(crowded.address, prefetch_bytes_max=prefetch_bytes) as consumer,
        Producer(crowded.address) as producer,
    ):
        await consumer.assign_topics(*TOPICS)
        await producer.send("t0", b"first", partition=3)
        assert (await consumer.poll(20)).value == b"first"
        assert await consumer.poll(0.3) is None
        for burst in range(2):  # nothing is taken out meanwhile, so the stream is left for want of room
            for number in range(count):
                await producer.send("t0", b"%0100d" % number, partition=3)
            await producer.flush()
            async with asyncio.timeout(60):
                offsets = [(await anext(consumer)).offset for _ in range(count)]
            assert offsets == list(range(1 + burst * count, 1 + burst * count + count))
