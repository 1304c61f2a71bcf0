"""The producer against a broker: what is stored, in which order, and what each sender gets back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from signal import SIGCONT, SIGSTOP

import pytest

from blackbox.broker_process import Broker
from client.support import produce, read, values
from takhin.client import Admin, Delivery, Header, NewRecord, Producer, RecordMetadata, Retry
from takhin.client.errors import ClosedError, FlushError, UnreachableError
from takhin.client.producing.producer import ThreadedProducer
from takhin.errors import (
    InvalidArgumentError,
    InvalidBatchError,
    InvalidRecordError,
    OutcomeUnknownError,
    RecordTooLargeError,
    UnknownPartitionError,
    UnknownTopicError,
)
from takhin.partitioner import partition_for_key

NOBODY = "127.0.0.1:1"
"""An address where no broker listens."""
HOUR_MS = 3_600_000


async def test_a_delivery_tells_where_the_record_is(server, topic):
    """A delivery gives topic, partition and offset, awaited once or again, by one task or two."""
    async with Producer(server) as producer:
        first = await producer.send(topic, b"one")
        second = await producer.send(topic, b"two")
        assert await asyncio.gather(second, first, second) == [
            RecordMetadata(topic, 0, 1),
            RecordMetadata(topic, 0, 0),
            RecordMetadata(topic, 0, 1),
        ]
        assert first.done
        assert await first == first.result() == (topic, 0, 0)


@pytest.mark.parametrize("key", [None, b"", b"key"])
@pytest.mark.parametrize("value", [None, b"", b"value", bytes(5_000)])
async def test_none_and_empty_stay_apart(server, topic, key, value):
    """A key or value of None or b"" comes back as it was given."""
    await produce(server, topic, [value, value], key=key)
    assert [(record.key, record.value) for record in await read(server, topic)] == [(key, value)] * 2


async def test_a_topic_that_is_found_after_the_end_is_not_taken(server, topic):
    """Whoever waits for the broker's answer about a topic while the producer is closed cannot send."""
    async with ThreadedProducer(server) as producer:
        asking = asyncio.create_task(producer.intake.ready(topic))
        await asyncio.sleep(0)
        producer.intake.shut()
        with pytest.raises(ClosedError, match="the producer is closed"):
            await asking
        assert producer.intake.router(topic) is None


async def test_headers_come_back_in_order(server, topic):
    """Repeated header keys and binary values come back in order, and a record without headers has none."""
    headers = [("trace", b"\x00\xff"), ("ä", b""), ("trace", b"again")]
    async with Producer(server) as producer:
        await producer.send(topic, b"with", headers=headers)
        await producer.send(topic, b"without")
    with_headers, without = await read(server, topic)
    assert (with_headers.headers, without.headers) == ([Header(*header) for header in headers], ())


async def test_timestamps_are_datetimes_or_ms(server, topic):
    """Datetimes and ms are stored as ms; None and 0 leave the timestamp to the broker's clock."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)
    ms = int(moment.timestamp() * 1_000)
    async with Producer(server) as producer:
        for timestamp in (moment, ms, moment.astimezone(), None, 0):
            await producer.send(topic, b"", timestamp=timestamp)
    *told, now, also_now = await read(server, topic)
    assert [record.timestamp for record in told] == [ms] * 3
    assert told[0].time == moment.replace(microsecond=678_000)
    for record in (now, also_now):
        assert abs(record.timestamp - time.time() * 1_000) < 60_000


async def test_keys_choose_the_partition_as_kafka_does(server, wide):
    """Each key chooses the partition that Kafka's Java client would choose; `partition` overrides it."""
    keys = [b"", b"a", b"abc", b"foobar", b"user-1", b"\x00\xff"]
    for key in keys:
        assert (await produce(server, wide, [b"v"], key=key))[0].partition == partition_for_key(key, 3)
    assert (await produce(server, wide, [b"v"], key=b"abc", partition=2))[0].partition == 2


async def test_records_without_a_key_fill_all_partitions(server, wide):
    """Records without a key go to each partition in turn, a batch at a time: all are used by few batches."""
    async with Producer(server, batch_records_max=100) as producer:
        deliveries = [await producer.send(wide, b"%d" % number) for number in range(3_000)]
    counted = Counter([(await delivery).partition for delivery in deliveries])
    assert set(counted) == {0, 1, 2}
    assert min(counted.values()) >= 300


async def test_order_is_kept_in_each_partition(server, wide):
    """Whatever the batches, the records of a partition are in the order of the calls."""
    async with Producer(server, batch_records_max=7) as producer:
        for number in range(600):
            await producer.send(wide, b"%d" % number, partition=number % 3)
    found = await read(server, wide)
    for partition in range(3):
        numbers = [int(record.value) for record in found if record.partition == partition]
        assert numbers == list(range(partition, 600, 3))


async def test_a_send_that_has_room_does_not_suspend(server, topic):
    """With the topic known and room in the buffer, `send` returns without suspending."""
    async with Producer(server) as producer:
        await producer.send(topic, b"first")
        sending = producer.send(topic, b"second")
        with pytest.raises(StopIteration) as returned:
            sending.send(None)
        assert isinstance(returned.value.value, Delivery)


async def test_a_full_buffer_makes_send_wait(shared, server, topic):
    """A bounded amount is under way while the broker does not answer; when it does, everything is sent."""
    sent = 0
    async with Producer(server, buffer_bytes_max=100_000) as producer:

        async def send_all():
            nonlocal sent
            for _ in range(1_000):
                await producer.send(topic, bytes(936))  # 1,000 bytes with the overhead of a record
                sent += 1

        await (await producer.send(topic, b""))
        shared.send_signal(SIGSTOP)
        sending = asyncio.create_task(send_all())
        done, _ = await asyncio.wait({sending}, timeout=0.2)
        assert not done
        assert sent == 100
        shared.send_signal(SIGCONT)
        await sending
    assert len(await values(server, topic)) == 1_001


async def test_a_lingering_batch_gathers(server, topic):
    """With linger_ms, records sent apart go into one batch; a flush does not wait for it."""
    async with Producer(server, linger_ms=60_000) as producer:
        for number in range(5):
            await producer.send(topic, b"%d" % number)
            await asyncio.sleep(0)
        began = time.monotonic()
        await producer.flush()
        assert time.monotonic() - began < 10
    records = await read(server, topic)
    assert len({record.timestamp for record in records}) == 1  # one batch has one timestamp
    async with Producer(server, linger_ms=1) as producer:
        assert (await (await producer.send(topic, b"alone"))).offset == 5
    async with Producer(server, linger_ms=60_000, batch_records_max=2) as producer:
        full = [await producer.send(topic, b"") for _ in range(2)]
        assert [(await delivery).offset for delivery in full] == [6, 7]


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"value": "text"}, InvalidRecordError, "not str and NoneType"),
        ({"value": b"", "key": 5}, InvalidRecordError, "not bytes and int"),
        ({"value": bytearray(b"")}, InvalidRecordError, "bytearray"),
        ({"value": b"", "headers": [("a", "b")]}, InvalidRecordError, r"header 0 .*\('a', 'b'\)"),
        ({"value": b"", "headers": [("a", b""), ("", b"")]}, InvalidRecordError, "header 1"),
        ({"value": b"", "headers": [("\ud800", b"")]}, InvalidRecordError, "header 0"),
        ({"value": b"", "timestamp": -1}, InvalidArgumentError, "not -1"),
        ({"value": b"", "timestamp": 1.5}, InvalidArgumentError, "1.5"),
        ({"value": b"", "timestamp": datetime(2026, 1, 1)}, InvalidArgumentError, "no zone"),  # noqa: DTZ001
        ({"value": b"", "partition": 1}, UnknownPartitionError, "partitions 0 to 0, not 1"),
        ({"value": bytes((1 << 20) + 1)}, RecordTooLargeError, "1048577 bytes"),
        ({"value": b"", "topic": "nowhere"}, UnknownTopicError, "nowhere"),
    ],
)
async def test_what_can_be_refused_is_refused_at_once(server, topic, arguments, error, sentence):
    """`send` raises with the value in the sentence; nothing is stored, and the next record is sent."""
    async with Producer(server) as producer:
        with pytest.raises(error, match=sentence):
            await producer.send(**{"topic": topic} | arguments)
        assert (await (await producer.send(topic, b"fine"))).offset == 0


async def test_one_refused_record_does_not_spoil_its_neighbours(server, topic):
    """A record that only the broker can refuse fails alone; the rest of its batch is stored, in order."""
    ahead = datetime.now(UTC) + timedelta(days=400)
    async with Producer(server, linger_ms=1_000, batch_records_max=100) as producer:
        deliveries = [
            await producer.send(topic, b"%d" % number, timestamp=ahead if number == 37 else None)
            for number in range(100)
        ]
        bad = deliveries.pop(37)
        assert [(await delivery).offset for delivery in deliveries] == list(range(99))
        with pytest.raises(InvalidRecordError):
            await bad
    assert await values(server, topic) == [b"%d" % number for number in range(100) if number != 37]


async def test_flush_raises_what_nobody_was_told(server, topic):
    """`flush` raises what failed, once, with the count and the errors, unless its delivery was awaited."""
    ahead = datetime.now(UTC) + timedelta(days=400)
    async with Producer(server) as producer:
        told = await producer.send(topic, b"", timestamp=ahead)
        with pytest.raises(InvalidRecordError):
            await told
        await producer.flush()
        for number in range(3):
            await producer.send(topic, b"", timestamp=None if number == 1 else ahead)
        with pytest.raises(FlushError, match="2 records were not stored") as raised:
            await producer.flush()
        assert raised.value.record_count == 2
        assert {type(failure.error) for failure in raised.value.failures} == {InvalidRecordError}
        await producer.flush()


async def test_a_record_up_to_the_limit_goes(server, admin):
    """The limit is exact for a value alone; a subclass of bytes is bytes, and what is none is refused."""

    class Own(bytes):
        pass

    name = "limited"
    await admin.create_topic(name, configs={"max.message.bytes": "100"})
    async with Producer(server) as producer:
        for value in (bytes(100), Own(bytes(100)), Own(), b"", None):
            await producer.send(name, value)
        for value in (bytes(101), Own(bytes(101))):
            with pytest.raises(RecordTooLargeError):
                await producer.send(name, value)
        for value in (bytearray(1), memoryview(b"1"), "1", 1):
            with pytest.raises(InvalidRecordError):
                await producer.send(name, value)
    await admin.delete_topic(name)


async def test_producers_begin_at_random_partitions(server, wide):
    """The first records without a key, each of a new producer, do not all go to one partition."""
    first = {(await produce(server, wide, [b""]))[0].partition for _ in range(20)}
    assert len(first) > 1


async def test_close_drains_and_then_refuses(server, topic):
    """Everything sent is stored when `close` returns; later calls raise a ClosedError."""
    producer = await Producer(server).open()
    deliveries = [await producer.send(topic, b"%d" % number) for number in range(2_000)]
    await producer.close()
    await producer.close()
    assert [delivery.result().offset for delivery in deliveries] == list(range(2_000))
    with pytest.raises(ClosedError):
        await producer.send(topic, b"late")


async def test_a_cancelled_close_tells_all(shared, server, topic):
    """After a cancelled close, records under way have an unknown outcome and waiting ones were not sent."""
    producer = await Producer(server, batch_records_max=1).open()
    await (await producer.send(topic, b""))
    shared.send_signal(SIGSTOP)
    under_way, waiting = [await producer.send(topic, b"") for _ in range(2)]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(producer.close(), 0.1)
    with pytest.raises(OutcomeUnknownError):
        await under_way
    with pytest.raises(ClosedError):
        await waiting
    shared.send_signal(SIGCONT)


async def test_without_a_broker_send_says_so_in_time(name):
    """The first record of a topic raises UnreachableError with the address after delivery_timeout_ms."""
    async with Producer(NOBODY, delivery_timeout_ms=200) as producer:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=NOBODY):
            await producer.send(name, b"")
        assert time.monotonic() - began < 5


async def test_a_delivery_fails_in_time_when_the_broker_has_gone(data_dir):
    """With the topic known and the broker gone, deliveries fail after delivery_timeout_ms as not sent."""
    with Broker(data_dir) as broker:
        async with Admin(broker.address) as admin:
            await admin.create_topic("t")
        async with Producer(broker.address, delivery_timeout_ms=500, retry=Retry(wait_ms_max=50)) as producer:
            await (await producer.send("t", b""))
            broker.stop()
            delivery = await producer.send("t", b"")
            async with asyncio.timeout(10):
                with pytest.raises(UnreachableError):
                    await delivery


async def test_a_topic_that_was_created_again_is_found(server, admin, topic):
    """When a topic was deleted and created again, the first send fails and later ones go to the new topic."""
    async with Producer(server) as producer:
        await (await producer.send(topic, b"old"))
        await admin.delete_topic(topic)
        with pytest.raises(UnknownTopicError):
            await (await producer.send(topic, b"lost"))
        await admin.create_topic(topic, partitions=2)
        assert await (await producer.send(topic, b"new", partition=1)) == (topic, 1, 0)


async def test_append_is_all_or_nothing(server, topic):
    """The records of an append lie together at the offsets it returns; one bad record refuses them all."""
    async with Producer(server) as producer:
        appended = await producer.append(topic, [b"a", NewRecord(b"b", key=b"k")], partition=0)
        assert appended == (topic, 0, 0, 2)
        assert appended.end_offset == 2
        ahead = datetime.now(UTC) + timedelta(days=400)
        with pytest.raises(InvalidRecordError):
            await producer.append(topic, [b"c", NewRecord(b"d", timestamp=ahead)], partition=0)
        with pytest.raises(InvalidBatchError):
            await producer.append(topic, [], partition=0)
    assert await values(server, topic) == [b"a", b"b"]


def test_a_token_does_not_travel_in_the_open():
    """Without TLS a token is refused, except for a connection to this machine itself."""
    Producer("127.0.0.1:9092", token="secret")
    with pytest.raises(InvalidArgumentError, match="unencrypted"):
        Producer("broker.example:9092", token="secret")


@pytest.mark.parametrize("bad", ["", "host", "host:0", "unix:9092", "host:99999"])
def test_a_bad_address_is_named(bad):
    with pytest.raises(InvalidArgumentError, match=repr(bad)):
        Producer(bad)


@pytest.mark.parametrize(
    "option", ["batch_records_max", "batch_bytes_max", "buffer_bytes_max", "in_flight_max"]
)
def test_a_bad_limit_is_named(option):
    with pytest.raises(InvalidArgumentError, match=f"{option} must be at least 1|{option} must be 1 to"):
        Producer(NOBODY, **{option: 0})
