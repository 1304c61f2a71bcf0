"""A shutdown that cancels every task, faults in the client's own tasks, and waits that are given up."""

from __future__ import annotations

import asyncio
import logging
from signal import SIGCONT, SIGSTOP

import pytest

from client.support import ALL, produce, values
from takhin.client import Admin, Consumer, Producer
from takhin.client.errors import FlushError, NotSentError
from takhin.client.producing.sending import Sender
from takhin.errors import OutcomeUnknownError


async def cancel_all():
    """What programs do at their end: cancel all other tasks and wait for them."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 10)


@pytest.mark.parametrize("turns", range(1, 5))
async def test_every_delivery_ends_when_all_tasks_are_cancelled(server, topic, turns):
    """Whatever had run by then: deliveries end, flush tells, and what is sent afterwards is stored."""
    async with Producer(server, batch_records_max=10, in_flight_max=1) as producer:
        await (await producer.send(topic, b"first"))
        deliveries = [await producer.send(topic, b"%d" % number) for number in range(100)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await cancel_all()
        async with asyncio.timeout(10):
            with pytest.raises(FlushError) as raised:
                await producer.flush()
            await asyncio.gather(*(delivery.wait() for delivery in deliveries))
            assert (await (await producer.send(topic, b"last"))).offset >= 1
            await producer.flush()
    kinds = {type(failure.error) for failure in raised.value.failures}
    assert kinds <= {NotSentError, OutcomeUnknownError}
    assert (await values(server, topic))[-1] == b"last"


async def test_close_tells_what_a_cancellation_left(shared, server, topic):
    """`close` after all tasks were cancelled raises an error with the count of lost records."""
    producer = await Producer(server, batch_records_max=10).open()
    await (await producer.send(topic, b"first"))
    shared.send_signal(SIGSTOP)
    for number in range(95):
        await producer.send(topic, b"%d" % number)
    await asyncio.sleep(0)
    await cancel_all()
    shared.send_signal(SIGCONT)
    with pytest.raises(FlushError) as raised:
        await producer.close()
    assert raised.value.record_count == 95
    assert sum(failure.record_count for failure in raised.value.failures) == 95


async def test_a_fault_of_a_worker_is_told(server, topic, monkeypatch, caplog):
    """A fault that nobody foresaw fails what waits, by name; it is logged, and the next record is sent."""
    async with Producer(server) as producer:
        await (await producer.send(topic, b"first"))

        async def broken(*_, **__):
            raise ZeroDivisionError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(Sender, "_attempt", broken)
            first = await producer.send(topic, b"")
            await asyncio.sleep(0)
            with pytest.raises(OutcomeUnknownError, match="ZeroDivisionError"):
                await asyncio.wait_for(first, 10)
            await producer.send(topic, b"")
            with pytest.raises(FlushError):
                await producer.flush()
        assert (await (await producer.send(topic, b"last"))).offset == 1
    assert "a bug" in caplog.text


@pytest.mark.parametrize("stop", [None, 20_000])
async def test_a_consumer_goes_on_after_all_tasks_were_cancelled(server, topic, stop):
    """Fetchers that somebody cancelled are started again where they were: nothing is lost or repeated."""
    await produce(server, topic, [bytes(100)] * 20_000)
    async with Consumer(server, prefetch_bytes_max=100_000) as consumer:
        await consumer.assign_topics(topic, start=ALL)
        await cancel_all()
        offsets = [(await anext(consumer)).offset for _ in range(10)]
        await cancel_all()
        async with asyncio.timeout(20):
            offsets += [record.offset async for record in consumer]
    assert offsets == list(range(20_000))


async def test_a_call_that_somebody_cancelled_is_repeated(shared, server, admin):
    """Where only the task in which gRPC runs a call is cancelled, the caller still gets an answer."""
    await admin.health()
    shared.send_signal(SIGSTOP)
    asking = asyncio.create_task(admin.list_topics())
    for _ in range(5):
        await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task(), asking}
    for task in others:
        task.cancel()
    await asyncio.sleep(0)
    shared.send_signal(SIGCONT)
    assert isinstance(await asyncio.wait_for(asking, 20), list)


async def test_the_client_logs_what_failed(name, caplog):
    """Attempts that fail are logged under takhin.client, which has no handler of its own."""
    caplog.set_level(logging.DEBUG, "takhin.client")
    async with Admin("127.0.0.1:1", timeout_ms=200) as admin:
        with pytest.raises(Exception, match="no broker answers"):
            await admin.create_topic(name)
    assert "no broker answers at 127.0.0.1:1" in caplog.text
    assert {record.name for record in caplog.records} >= {"takhin.client"}
