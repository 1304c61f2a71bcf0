"""What a program has called when its deliveries are done."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from takhin.client import Delivery, Producer
from takhin.errors import InvalidRecordError


async def test_a_callback_is_called_once_a_delivery_is_done(server, topic, caplog):
    """Callbacks get a delivery equal to that of `send`, before or after its end; a fault of one is logged."""
    ahead = datetime.now(UTC) + timedelta(days=400)
    called = asyncio.Queue()
    async with Producer(server) as producer:
        good = await producer.send(topic, b"")
        bad = await producer.send(topic, b"", timestamp=ahead)
        good.add_done_callback(lambda _: 1 / 0)
        for delivery in (good, bad):
            delivery.add_done_callback(called.put_nowait)
        async with asyncio.timeout(20):
            assert {await called.get(), await called.get()} == {good, bad}
        good.add_done_callback(called.put_nowait)
        assert await asyncio.wait_for(called.get(), 20) == good
        assert good.result().offset == 0
        with pytest.raises(InvalidRecordError):
            bad.result()
    assert "ZeroDivisionError" in caplog.text


async def test_a_delivery_that_only_its_callback_needs_is_not_kept(server, topic):
    """Else the garbage collector looks again and again at those of all records that are on their way."""
    offsets = []

    def told(delivery):
        offsets.append(delivery.result().offset)

    def deliveries():
        return sum(type(kept) is Delivery for kept in gc.get_objects())

    gc.collect()  # what earlier tests have left
    before = deliveries()
    async with Producer(server, linger_ms=60_000) as producer:
        for _ in range(100):
            (await producer.send(topic, b"", partition=0)).add_done_callback(told)
        assert deliveries() == before
        await producer.flush()
    assert offsets == list(range(100))


async def test_callbacks_of_a_batch_concern_only_themselves(server, topic):
    """They are called in order, each in a context of its own, and one that adds another starves nobody."""
    of_call, order, again = contextvars.ContextVar("of_call", default=0), [], 0
    enough = asyncio.Event()

    def numbered(number, delivery):
        order.append((number, of_call.get(), delivery.result().offset))
        of_call.set(number)

    def once_more(delivery):
        nonlocal again
        again += 1
        if again < 50:
            delivery.add_done_callback(once_more)
        else:
            enough.set()

    async with Producer(server, linger_ms=1_000, batch_records_max=100) as producer:
        deliveries = [await producer.send(topic, b"") for _ in range(100)]
        deliveries[0].add_done_callback(once_more)
        for number, delivery in enumerate(deliveries, 1):
            delivery.add_done_callback(partial(numbered, number))
        async with asyncio.timeout(20):
            await producer.flush()
            assert order == [(number, 0, number - 1) for number in range(1, 101)]
            assert again < 50  # it has a turn of the loop each time
            await enough.wait()


def test_a_callback_that_ends_the_loop_leaves_the_others_for_later(server, topic):
    """What ends a loop, as Ctrl-C does, ends it; once it runs again, it goes on with the next callback."""
    called = []

    def interrupted(_):
        raise KeyboardInterrupt

    async def send():
        producer = await Producer(server).open()
        for callback in (called.append, interrupted, called.append):
            (await producer.send(topic, b"", partition=0)).add_done_callback(callback)
        return producer

    loop = asyncio.new_event_loop()
    try:
        producer = loop.run_until_complete(send())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(producer.flush())
        assert len(called) == 1
        loop.run_until_complete(asyncio.sleep(0))
        assert [delivery.result().offset for delivery in called] == [0, 2]
        loop.run_until_complete(producer.close())
    finally:
        loop.close()
