"""Waits for records that end by a timeout, a cancellation, an interrupt or `close`, and lose nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from client.support import ALL, produce
from takhin.client import Consumer, Producer, sync
from takhin.client.errors import ClosedError, FlushError
from takhin.errors import OutcomeUnknownError


async def test_a_cancelled_anext_loses_nothing(server, topic):
    """An iterator whose `anext` timed out, again and again, gives every record once and in order."""
    async with Consumer(server) as consumer, Producer(server) as producer:
        await consumer.assign_topics(topic)
        records, seen = aiter(consumer), []
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(records), 0.01)

        async def send():
            for number in range(300):
                await (await producer.send(topic, b"%d" % number))

        sending, timeouts = asyncio.create_task(send()), 0
        while len(seen) < 300:
            try:
                seen.append((await asyncio.wait_for(anext(records), 0.000_5)).offset)
            except TimeoutError:
                timeouts += 1
        await sending
        assert seen == list(range(300))
        assert timeouts


async def test_poll_and_batches_with_a_timeout(server, topic):
    """`poll` gives a record or None; `batches` gives at most max_records, and ends after a quiet time."""
    async with Consumer(server) as consumer:
        await consumer.assign_topics(topic)
        assert await consumer.poll(0) is None
        assert await consumer.poll(0.05) is None
        batches = consumer.batches(4, 0.2)
        assert [batch async for batch in batches] == []
        await produce(server, topic, [b"%d" % number for number in range(10)])
        assert (await consumer.poll(20)).offset == 0
        assert (await consumer.poll(0)).offset == 1
        found = [[record.offset for record in batch.records] async for batch in batches]
        assert [offset for batch in found for offset in batch] == list(range(2, 10))
        assert max(map(len, found)) == 4
        await consumer.assign_topics(topic, start=ALL)
        assert len([batch async for batch in consumer.batches(3)]) >= 4
        assert await consumer.poll() is None  # all is read


def test_the_blocking_face_has_the_same(server, topic):
    """The same on the blocking face."""
    with sync.Consumer(server) as consumer, sync.Producer(server) as producer:
        consumer.assign_topics(topic)
        assert consumer.poll(0) is None
        batches = consumer.batches(4, 0.2)
        assert list(batches) == []
        producer.append(topic, [b"%d" % number for number in range(10)], partition=0)
        assert consumer.poll(20).offset == 0
        assert consumer.poll(0).offset == 1
        assert [record.offset for batch in batches for record in batch.records] == list(range(2, 10))


def test_an_interrupted_consumer_goes_on(server, topic):
    """Ctrl-C ends a wait for records at once, and the same iterator gives the next record afterwards."""
    with sync.Consumer(server) as consumer, sync.Producer(server) as producer:
        consumer.assign_topics(topic)
        records = iter(consumer)
        for _ in range(2):
            timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT])
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                next(records)
            timer.join()
        producer.send(topic, b"after").result(20)
        assert next(records).value == b"after"


@pytest.mark.parametrize("wait", ["result", "flush"])
def test_an_interrupted_producer_goes_on(shared, server, topic, wait):
    """Ctrl-C ends a wait for a delivery or for all of them; the records are stored, and so are later ones."""
    with sync.Producer(server) as producer:
        producer.send(topic, b"first").result(20)
        shared.send_signal(signal.SIGSTOP)
        delivery = producer.send(topic, b"second")
        timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT])
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                delivery.result() if wait == "result" else producer.flush()
        finally:
            shared.send_signal(signal.SIGCONT)
        timer.join()
        assert producer.send(topic, b"third").result(20).offset == 2
        assert delivery.result(20).offset == 1


def test_an_interrupted_close_tells_what_became_of_the_records(shared, server, topic):
    """Ctrl-C ends `close` at once; the delivery and a second `close` tell what became of the records."""
    producer = sync.Producer(server)
    producer.send(topic, b"first").result(20)
    shared.send_signal(signal.SIGSTOP)
    delivery = producer.send(topic, b"second")
    timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            producer.close()
    finally:
        shared.send_signal(signal.SIGCONT)
    timer.join()
    with pytest.raises(FlushError):
        producer.close()
    with pytest.raises((OutcomeUnknownError, ClosedError)):
        delivery.result(20)


@pytest.mark.parametrize(
    "wait", [next, lambda records: records.poll(60), lambda records: next(records.batches())]
)
def test_close_ends_a_wait_of_another_thread(server, topic, wait):
    """A thread that waits for records gets a ClosedError when another one closes the consumer."""
    consumer, ended = sync.Consumer(server), []
    consumer.assign_topics(topic)

    def read():
        try:
            wait(consumer)
        except ClosedError as error:
            ended.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    reading.join(0.1)
    assert reading.is_alive()
    consumer.close()
    reading.join(20)
    assert len(ended) == 1
