"""Records that are made of others: what `append` says with a source, and what a retry does."""

from __future__ import annotations

import asyncio

import pytest

from blackbox.broker_process import Broker
from client.relay import Relay
from client.support import values
from client.test_idempotence import QUICK, stored_unheard
from takhin.client import START, Admin, Appended, Consumer, Producer, Source, Span, sync
from takhin.errors import InvalidArgumentError, LogReplacedError, OffsetOutOfRangeError, UnknownTopicError


@pytest.fixture
async def came(server, admin, topic):
    """An input topic of three records, which only this test uses."""
    await admin.create_topic(f"{topic}-in")
    async with Producer(server) as producer:
        await producer.append(f"{topic}-in", [b"a", b"b", b"c"], partition=0)
    return f"{topic}-in"


async def test_an_output_is_stored_once(server, topic, came):
    """Whoever reads the input again stores nothing twice, and is told so."""
    for number in range(3):
        async with Consumer(server, group_id="g") as consumer, Producer(server) as producer:
            await consumer.assign({(came, 0): Span(START, 3)})
            async for record in consumer:
                made = [record.value.upper(), record.value.upper()]
                stored = await producer.append(topic, made, partition=0, source=consumer.source(record))
                if number:
                    assert stored == Appended(topic, 0, -1, 2)
                    assert (stored.duplicate, stored.end_offset) == (True, -1)
                else:
                    assert (stored, stored.duplicate) == ((topic, 0, 2 * record.offset, 2), False)
            # What a duplicate did not store uses up no sequence number.
            assert (await producer.append(topic, [b"next"], partition=0)).offset == 6 + number
    assert (await values(server, topic))[:6] == [b"A", b"A", b"B", b"B", b"C", b"C"]


def test_blocking(server, topic, came):
    """The blocking clients say the same."""
    with sync.Consumer(server, group_id="g") as consumer, sync.Producer(server) as producer:
        consumer.assign({(came, 0): Span(START, 2)})
        sources = [consumer.source(record) for record in consumer]
        assert [source[:4] for source in sources] == [("g", came, 0, 0), ("g", came, 0, 1)]
        for source in (*sources, *sources):
            producer.append(topic, [b"made"], partition=0, source=source)
        assert producer.append(topic, [b"made"], partition=0, source=sources[0]).duplicate


async def test_a_source_says_where_it_is_from(server, admin, topic, came):
    """It names the group and the log that is read; a consumer without a group has none."""
    (partition,) = (await admin.describe_topic(came)).partitions
    async with Consumer(server, group_id="g") as consumer, Consumer(server) as nobody:
        for each in (consumer, nobody):
            await each.assign({(came, 0): START})
        record = await anext(consumer)
        assert consumer.source(record) == Source("g", came, 0, 0, partition.incarnation_id)
        with pytest.raises(InvalidArgumentError, match="group_id"):
            nobody.source(record)


async def test_what_is_wrong_with_a_source_is_said(server, admin, topic, came):
    """An unknown topic, an offset behind the end, another log, and a record in a source's place."""
    async with Producer(server) as producer:
        for source, error in (
            (Source("g", "nowhere", 0, 0), UnknownTopicError),
            (Source("g", came, 0, 3), OffsetOutOfRangeError),
            (Source("g", came, 0, 0, "another"), LogReplacedError),
            (("g", came, 0, 0), InvalidArgumentError),
        ):
            with pytest.raises(error):
                await producer.append(topic, [b"made"], partition=0, source=source)
        assert (await producer.append(topic, [b"made"], partition=0)).offset == 0


async def test_a_retry_is_answered_with_its_offset(server, admin, topic, came):
    """A batch whose answer was lost is sent again, and answered as the first time: it is no duplicate."""
    async with Relay(server) as relay, Producer(relay.address, retry=QUICK) as producer:
        await (await producer.send(topic, b"first"))
        append = producer.append(topic, [b"once"], partition=0, source=Source("g", came, 0, 0))
        appending = await stored_unheard(relay, admin, topic, append)
        relay.cut()
        assert await appending == (topic, 0, 1, 1)
        assert (await (await producer.send(topic, b"next"))).offset == 2


async def test_a_retry_after_the_producer_was_forgotten(data_dir):
    """The source tells that it was stored: nothing is unknown, and what follows is stored."""
    with Broker(data_dir, storage_producers_max=1) as broker:
        async with (
            Admin(broker.address) as admin,
            Relay(broker.address) as relay,
            Producer(relay.address, retry=QUICK) as one,
            Producer(broker.address) as other,
        ):
            for name in ("in", "t"):
                await admin.create_topic(name)
            await other.append("in", [b"a", b"b"], partition=0)
            await (await one.send("t", b"to know the topic"))
            append = one.append("t", [b"once"], partition=0, source=Source("g", "in", 0, 0))
            appending = await stored_unheard(relay, admin, "t", append)
            await (await other.send("t", b"other"))
            relay.cut()
            assert (await appending).duplicate
            assert not (await one.append("t", [b"b"], partition=0, source=Source("g", "in", 0, 1))).duplicate
        assert await values(broker.address, "t") == [b"to know the topic", b"once", b"other", b"b"]


async def test_many_partitions_at_once(server, admin, topic, came):
    """Outputs of one record in several partitions are apart, and may be stored at the same time."""
    await admin.create_topic(f"{topic}-out", partitions=4)
    async with Producer(server) as producer:
        for again in range(2):
            stored = await asyncio.gather(
                *(
                    producer.append(f"{topic}-out", [b"v"], partition=n, source=Source("g", came, 0, 1))
                    for n in range(4)
                )
            )
            assert [one.duplicate for one in stored] == [bool(again)] * 4


async def test_members_of_a_group_write_once(server, admin, topic):
    """One takes over the partitions of another that has written and never committed: nothing is doubled."""
    await admin.create_topic(f"{topic}-in", partitions=2)
    async with Producer(server) as producer:
        for partition in range(2):
            await producer.append(f"{topic}-in", [b"%d" % n for n in range(10)], partition=partition)
        written = 0
        for last in (7, 20):
            async with Consumer(
                server, group_id=topic, topics=[f"{topic}-in"], auto_commit=False
            ) as consumer:
                duplicates = 0
                async for number, record in numbered(consumer):
                    stored = await producer.append(
                        topic, [record.value], partition=0, source=consumer.source(record)
                    )
                    duplicates += stored.duplicate
                    written += not stored.duplicate
                    if number == last:
                        break
            assert duplicates == (0 if last == 7 else 7)
    assert written == 20
    assert sorted(await values(server, topic), key=int) == sorted([b"%d" % n for n in range(10)] * 2, key=int)


async def numbered(consumer):
    number = 0
    async for record in consumer:
        number += 1
        yield number, record
