"""The consumer against a broker: where it begins and stops, and how it continues."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import pairwise
from signal import SIGCONT, SIGSTOP

import pytest

from blackbox.broker_process import Broker
from client.support import ALL, produce, read, values
from takhin.client import COMMITTED, END, START, Admin, CommittedOffset, Consumer, Producer, Retry, Span
from takhin.client.errors import ClosedError, LogReplacedError
from takhin.errors import (
    InvalidArgumentError,
    OffsetOutOfRangeError,
    UnavailableError,
    UnknownPartitionError,
    UnknownTopicError,
)

FIRST_MS = 1_767_225_600_000
"""The timestamp of record 0 in `ten`; each next one is a second later. 2026-01-01 in UTC."""


@pytest.fixture
async def ten(server, topic):
    """A topic with the values 0 to 9, one per second."""
    async with Producer(server) as producer:
        for number in range(10):
            await producer.send(topic, b"%d" % number, timestamp=FIRST_MS + 1_000 * number)
    return topic


def at(seconds, microseconds=0):
    return datetime(2026, 1, 1, 0, 0, seconds, microseconds, tzinfo=UTC)


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (Span(START, END), range(10)),
        (Span(3, 7), range(3, 7)),
        (Span(10, END), []),
        (Span(START + 4, END), range(4, 10)),
        (Span(START + 40, END), []),
        (Span(END - 3, END), range(7, 10)),
        (Span(END - 30, END - 8), range(2)),
        (Span(END, END), []),
        (Span(5, 5), []),
        (Span(7, 3), []),
        (Span(at(4), END), range(4, 10)),
        (Span(at(3, 1), at(6)), range(4, 6)),  # within a millisecond after record 3
        (Span(datetime(2030, 1, 1, tzinfo=UTC), END), []),
        (Span(datetime(2000, 1, 1, tzinfo=UTC), 2), range(2)),
        (Span(COMMITTED, END), range(10)),
    ],
    ids=str,
)
async def test_a_span_is_read_and_then_iterating_ends(server, ten, span, expected):
    """A span is read from its start up to its stop, in whatever form these are given; then iteration ends."""
    async with Consumer(server, group_id="nobody") as consumer:
        await consumer.assign_topics(ten, start=span)
        records = [record async for record in consumer]
    assert [int(record.value) for record in records] == list(expected)
    assert [record.offset for record in records] == list(expected)


async def test_an_empty_log_ends_at_once(server, topic, wide):
    """Iteration over empty logs ends at once, also beside a log that has records."""
    assert await read(server, topic) == []
    await produce(server, wide, [b"1"], partition=1)
    assert await values(server, wide) == [b"1"]


async def test_a_stop_beyond_the_end_waits_for_it(server, ten):
    """END + 2 waits for the next two records, and then ends."""
    async with Consumer(server) as consumer:
        await consumer.assign_topics(ten, start=Span(END, END + 2))
        await produce(server, ten, [b"new", b"newer", b"newest"])
        assert [record.value async for record in consumer] == [b"new", b"newer"]


async def test_it_tails(server, topic):
    """Without a stop iteration goes on, and each record arrives when it is stored."""
    async with Consumer(server) as consumer, Producer(server) as producer:
        await consumer.assign_topics(topic)
        records = aiter(consumer)
        for number in range(5):
            await producer.send(topic, b"%d" % number)
            record = await asyncio.wait_for(anext(records), 10)
            assert (record.value, record.offset, consumer.position(topic, 0)) == (
                b"%d" % number,
                number,
                number + 1,
            )


async def test_iterating_may_be_left_and_taken_up(server, ten):
    """After a break the next record follows the last one, in every way of iterating."""
    async with Consumer(server) as consumer:
        await consumer.assign_topics(ten, start=ALL)
        async for record in consumer:
            if record.offset == 2:
                break
        assert consumer.position(ten, 0) == 3
        async for record in consumer:
            assert record.offset == 3
            break
        batches = [batch async for batch in consumer.batches()]
        assert [record.offset for batch in batches for record in batch.records] == [4, 5, 6, 7, 8, 9]
        assert (batches[-1].end_offset, consumer.end_offset(ten, 0), consumer.position(ten, 0)) == (10,) * 3
        assert [record async for record in consumer] == []


async def test_pause_is_immediate_and_resume_loses_nothing(server, wide):
    """A paused partition returns nothing more while others go on; after resume it continues where it was."""
    for partition in range(2):
        await produce(server, wide, [b"%d" % n for n in range(100)], partition=partition)
    async with Consumer(server) as consumer:
        await consumer.assign({(wide, 0): ALL, (wide, 1): ALL})
        found = {0: [], 1: []}
        async for record in consumer:
            found[record.partition].append(record.offset)
            if (record.partition, record.offset) == (0, 10):
                consumer.pause((wide, 0))
            if len(found[1]) == 100:
                assert found[0][-1:] <= [10]
                if found[0] == list(range(11)):
                    break
        assert (found[1], consumer.position(wide, 0)) == (list(range(100)), 11)
        consumer.resume((wide, 0))
        assert [record.offset async for record in consumer] == list(range(11, 100))


async def test_seek_moves_one_partition(server, ten):
    """`seek` moves to any position, back or forth, while the partition is read; a span's stop stays."""
    async with Consumer(server) as consumer:
        await consumer.assign_topics(ten, start=Span(START, 8))
        seen = []
        async for record in consumer:
            seen.append(record.offset)
            if seen == [0, 1, 2]:
                await consumer.seek(ten, 0, 6)
            if seen == [0, 1, 2, 6, 7]:
                await consumer.seek(ten, 0, END - 3)
        assert seen == [0, 1, 2, 6, 7, 7]
        await consumer.seek(ten, 0, at(5))
        assert [record.offset async for record in consumer] == [5, 6, 7]


async def test_assign_replaces_what_was_assigned(server, ten, wide):
    """Replaced partitions return nothing more; to iterate over an empty assignment is an error."""
    await produce(server, wide, [b"other"], partition=2)
    async with Consumer(server) as consumer:
        with pytest.raises(InvalidArgumentError, match="nothing is assigned"):
            await anext(aiter(consumer))
        await consumer.assign_topics(ten)
        assert (await anext(aiter(consumer))).offset == 0
        await consumer.assign({(wide, 2): ALL})
        assert [record.value async for record in consumer] == [b"other"]
        assert consumer.assignment() == [(wide, 2)]
        with pytest.raises(InvalidArgumentError, match=f"{ten}.* is not assigned"):
            consumer.position(ten, 0)


async def test_a_small_prefetch_reads_everything(server, topic):
    """Even the smallest prefetch returns everything in order, None apart from empty, with headers."""
    async with Producer(server) as producer:
        for number in range(3_000):
            headers = [("n", b"%d" % number)] if number % 7 == 0 else ()
            await producer.send(topic, [None, b"", bytes(100)][number % 3], headers=headers)
    async with Consumer(server, prefetch_bytes_max=1_000) as consumer:
        await consumer.assign_topics(topic, start=ALL)
        records = [record async for record in consumer]
    assert [record.value for record in records] == [None, b"", bytes(100)] * 1_000
    assert [record.headers for record in records[::7]] == [[("n", b"%d" % n)] for n in range(0, 3_000, 7)]
    assert {record.headers for number, record in enumerate(records) if number % 7} == {()}


async def test_a_group_goes_on_where_it_committed(server, ten, wide):
    """`commit` stores the positions for COMMITTED; without a commit, `uncommitted` is the start."""
    async with Consumer(server, group_id="g") as consumer:
        await consumer.assign({(ten, 0): COMMITTED, (wide, 0): COMMITTED})
        async for record in consumer:
            if record.offset == 3:
                break
        await consumer.commit()
        await consumer.commit()  # nothing has changed
    async with Consumer(server, group_id="g") as consumer:
        await consumer.assign_topics(ten, start=Span(COMMITTED, END))
        assert [record.offset async for record in consumer] == [4, 5, 6, 7, 8, 9]
        await consumer.commit({(ten, 0): CommittedOffset(2, "two")})
        await consumer.seek(ten, 0, COMMITTED + 1)
        assert (await anext(aiter(consumer))).offset == 3
    async with Consumer(server, group_id="new", uncommitted=END - 1) as consumer:
        await consumer.assign_topics(ten, start=Span(COMMITTED, END))
        assert [record.offset async for record in consumer] == [9]
        with pytest.raises(OffsetOutOfRangeError):
            await consumer.commit({(ten, 0): 11})
    async with Consumer(server) as consumer:
        await consumer.assign_topics(ten)
        with pytest.raises(InvalidArgumentError, match="group"):
            await consumer.commit()


@pytest.mark.parametrize(
    ("assignment", "error", "sentence"),
    [
        ({("nowhere", 0): START}, UnknownTopicError, "nowhere"),
        ({("topic", 1): START}, UnknownPartitionError, "partitions 0 to 0, not 1"),
        ({("topic", 0): -1}, InvalidArgumentError, "start must be at least 0, not -1"),
        ({("topic", 0): Span(0, "end")}, InvalidArgumentError, "'end'"),
        ({("topic", 0): True}, InvalidArgumentError, "True"),
        ({("topic", 0): datetime(2026, 1, 1)}, InvalidArgumentError, "no zone"),  # noqa: DTZ001
        ({("topic", 0): COMMITTED}, InvalidArgumentError, "group_id"),
    ],
)
async def test_a_bad_assignment_is_refused_and_changes_nothing(server, ten, assignment, error, sentence):
    """The error names the value, and the earlier assignment continues."""
    named = {(ten if topic == "topic" else topic, number): at for (topic, number), at in assignment.items()}
    async with Consumer(server) as consumer:
        await consumer.assign_topics(ten, start=Span(8, END))
        with pytest.raises(error, match=sentence):
            await consumer.assign(named)
        assert [record.offset async for record in consumer] == [8, 9]


@pytest.mark.parametrize("options", [{"topics": ["t"]}, {"pattern": "t.*"}], ids=["topics", "pattern"])
def test_topics_without_a_group(options):
    """Whoever meant no group is told how to read topics without one."""
    with pytest.raises(InvalidArgumentError, match="need a group_id; without one use assign_topics"):
        Consumer("127.0.0.1:1", **options)


async def test_an_offset_outside_the_log_is_no_silent_jump(server, ten):
    """An offset outside the log is raised with both ends, and a seek continues."""
    async with Consumer(server) as consumer:
        await consumer.assign({(ten, 0): 11})
        with pytest.raises(OffsetOutOfRangeError) as raised:
            await anext(aiter(consumer))
        assert (raised.value.beginning_offset, raised.value.end_offset) == (0, 10)
        await consumer.seek(ten, 0, raised.value.end_offset - 1)
        assert (await anext(aiter(consumer))).offset == 9


async def test_close_ends_whoever_iterates(server, topic):
    """A task that waits for records gets a ClosedError when the consumer is closed."""
    consumer = await Consumer(server).open()
    await consumer.assign_topics(topic)
    waiting = asyncio.create_task(anext(aiter(consumer)))
    await asyncio.sleep(0)
    await consumer.close()
    with pytest.raises(ClosedError):
        await waiting


async def test_a_restarted_broker_is_found_again(data_dir):
    """A consumer survives an outage, or raises after outage_timeout_ms and can continue: nothing is lost."""
    with Broker(data_dir) as broker:
        address = broker.address
        async with Admin(address) as admin:
            await admin.create_topic("t")
        await produce(address, "t", [b"%d" % n for n in range(100)])
        patient = await Consumer(address).open()
        hasty = await Consumer(address, outage_timeout_ms=300).open()
        for consumer in (patient, hasty):
            await consumer.assign_topics("t")
        of_patient, of_hasty = aiter(patient), aiter(hasty)
        assert [(await anext(of_patient)).offset for _ in range(100)] == list(range(100))
        assert [(await anext(of_hasty)).offset for _ in range(50)] == list(range(50))
    assert [(await anext(of_hasty)).offset for _ in range(50)] == list(range(50, 100))  # read ahead
    async with asyncio.timeout(10):
        with pytest.raises(UnavailableError):
            await anext(of_hasty)
    with Broker(data_dir, listen=address):
        await produce(address, "t", [b"back"])
        async with asyncio.timeout(20):
            assert (await anext(of_patient)).offset == 100
            while True:
                try:
                    record = await anext(aiter(hasty))
                except UnavailableError:
                    continue
                break
        assert record.offset == 100
        await patient.close()
        await hasty.close()


async def test_connections_that_age_out_go_unnoticed(data_dir):
    """With connections that live for less than half a second, nothing is missed or repeated."""
    with Broker(data_dir) as broker:
        async with Admin(broker.address) as admin:
            await admin.create_topic("t")
    with Broker(data_dir, rpc_connection_age_ms=200, rpc_connection_age_grace_ms=100) as broker:
        async with Consumer(broker.address) as consumer, Producer(broker.address) as producer:
            await consumer.assign_topics("t", start=Span(START, 5_000))

            async def send_slowly():
                for number in range(5_000):
                    await producer.send("t", b"%d" % number)
                    if number % 50 == 0:
                        await asyncio.sleep(0.01)

            sending = asyncio.create_task(send_slowly())
            async with asyncio.timeout(30):
                seen = [int(record.value) async for record in consumer]
            await sending
    assert all(after == before + 1 for before, after in pairwise(seen))
    assert len(seen) == 5_000


async def test_a_silent_stream_is_reopened(shared, server, topic):
    """A stream that is silent for longer than silence_ms_max is reopened, and nothing is lost."""
    async with Consumer(server, silence_ms_max=200) as consumer:
        await consumer.assign_topics(topic)
        records = aiter(consumer)
        await produce(server, topic, [b"before"])
        assert (await anext(records)).value == b"before"
        shared.send_signal(SIGSTOP)
        waiting = asyncio.create_task(anext(records))
        await asyncio.wait({waiting}, timeout=0.4)
        shared.send_signal(SIGCONT)
        await produce(server, topic, [b"after"])
        record = await asyncio.wait_for(waiting, 20)
        assert (record.value, record.offset) == (b"after", 1)


async def test_another_log_is_noticed(data_dir):
    """A topic that is deleted and created again raises LogReplacedError; a seek continues in the new one."""
    with Broker(data_dir) as broker:
        address = broker.address
        async with Admin(address) as admin:
            await admin.create_topic("t")
        await produce(address, "t", [b"a", b"b"])
        consumer = await Consumer(address, retry=Retry(wait_ms_max=100)).open()
        await consumer.assign_topics("t")
        records = aiter(consumer)
        assert [(await anext(records)).value for _ in range(2)] == [b"a", b"b"]
    with Broker(data_dir) as elsewhere:
        async with Admin(elsewhere.address) as admin:
            await admin.delete_topic("t")
            await admin.create_topic("t")
        await produce(elsewhere.address, "t", [b"x", b"y", b"z"])
    with Broker(data_dir, listen=address):
        async with asyncio.timeout(20):
            with pytest.raises(LogReplacedError, match="offsets below 2"):
                await anext(records)
            await consumer.seek("t", 0, START)
            assert (await anext(aiter(consumer))).value == b"x"
        await consumer.close()
