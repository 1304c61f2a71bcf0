"""What a retry may and may not do, and single writers that name the offset they expect for their records."""

from __future__ import annotations

import asyncio

import pytest

from blackbox.broker_process import Broker
from client.relay import Relay
from client.support import read, values
from takhin.client import Admin, Producer, Retry, Span
from takhin.errors import EndOffsetMismatchError, InvalidArgumentError, OutcomeUnknownError

QUICK = Retry(wait_ms_max=50)


async def test_an_append_lands_where_it_is_expected_or_not_at_all(server, topic):
    """A refused append says where the log ends, and an append that expects that end is stored."""
    async with Producer(server) as producer:
        first = await producer.append(topic, [b"a", b"b"], partition=0, expected_offset=0)
        with pytest.raises(EndOffsetMismatchError) as raised:
            await producer.append(topic, [b"wrong"], partition=0, expected_offset=1)
        assert raised.value.end_offset == first.end_offset == 2
        await producer.append(topic, [b"c"], partition=0, expected_offset=raised.value.end_offset)
        with pytest.raises(InvalidArgumentError, match=r"expected_offset .* -1"):
            await producer.append(topic, [b"d"], partition=0, expected_offset=-1)
    assert await values(server, topic) == [b"a", b"b", b"c"]


async def test_of_many_writers_one_wins(server, topic):
    """Of twenty appends by as many producers that expect the same offset, one is stored."""

    async def write(number):
        async with Producer(server) as producer:
            return await producer.append(topic, [b"%d" % number], partition=0, expected_offset=0)

    outcomes = await asyncio.gather(*map(write, range(20)), return_exceptions=True)
    lost = [outcome for outcome in outcomes if isinstance(outcome, EndOffsetMismatchError)]
    assert len(lost) == 19
    assert [of.end_offset for of in lost] == [1] * 19
    assert len(await values(server, topic)) == 1


async def delivered(producer, topic, value):
    """Send a record to a topic's first partition, and wait for its answer."""
    return await (await producer.send(topic, value, partition=0))


async def stored_unheard(relay, admin, topic, sending):
    """Send something whose answer the producer does not receive; returns the task once it is stored.

    sending: a coroutine that has not begun.
    """
    before = await admin.partition_offsets(topic, 0)
    relay.hold_answers()
    task = asyncio.ensure_future(sending)
    async with asyncio.timeout(20):
        while await admin.partition_offsets(topic, 0) == before:
            assert not task.done()
    return task


@pytest.mark.parametrize("expected_offset", [None, 1])
async def test_a_repeat_is_answered_with_the_original(server, admin, topic, expected_offset):
    """A batch whose answer was lost is sent again, stored once, and answered with its first offset."""
    async with Relay(server) as relay, Producer(relay.address, retry=QUICK) as producer:
        await (await producer.send(topic, b"first"))
        append = producer.append(topic, [b"once"], partition=0, expected_offset=expected_offset)
        appending = await stored_unheard(relay, admin, topic, append)
        relay.cut()
        assert await appending == (topic, 0, 1, 1)
        assert (await (await producer.send(topic, b"next"))).offset == 2
    assert await values(server, topic) == [b"first", b"once", b"next"]


async def test_a_log_that_has_forgotten_a_producer(data_dir):
    """A forgotten producer gets a new id and loses nothing; an unknown outcome is reported as such."""
    with Broker(data_dir, storage_producers_max=1) as broker:
        async with (
            Admin(broker.address) as admin,
            Relay(broker.address) as relay,
            Producer(relay.address, retry=QUICK) as one,
            Producer(broker.address) as other,
        ):
            await admin.create_topic("t")
            for number in range(5):
                assert await (await one.send("t", b"one")) == ("t", 0, 2 * number)
                assert await (await other.send("t", b"other")) == ("t", 0, 2 * number + 1)
            await (await one.send("t", b"last"))
            maybe = await stored_unheard(relay, admin, "t", delivered(one, "t", b"maybe"))
            assert (await (await other.send("t", b"other"))).offset == 12
            relay.cut()
            with pytest.raises(OutcomeUnknownError, match="forgotten"):
                await maybe
            assert (await (await one.send("t", b"next"))).offset == 13
        assert await values(broker.address, "t", Span(10, 14)) == [b"last", b"maybe", b"other", b"next"]


async def test_a_first_batch_that_the_log_has_forgotten_is_not_stored_again(data_dir):
    """Its outcome is unknown if its answer was lost and the log has forgotten its producer since."""
    with Broker(data_dir, storage_producers_max=1) as broker:
        async with (
            Admin(broker.address) as admin,
            Relay(broker.address) as relay,
            Producer(relay.address, retry=QUICK) as one,
            Producer(broker.address) as other,
        ):
            await admin.create_topic("t", partitions=2)
            await (await one.send("t", b"to know the topic", partition=1))
            maybe = await stored_unheard(relay, admin, "t", delivered(one, "t", b"maybe"))
            await (await other.send("t", b"other", partition=0))
            relay.cut()
            with pytest.raises(OutcomeUnknownError, match="forgotten"):
                await maybe
            assert (await (await one.send("t", b"next", partition=0))).offset == 2
        stored = [record.value for record in await read(broker.address, "t") if record.partition == 0]
        assert stored == [b"maybe", b"other", b"next"]


async def test_a_first_batch_that_never_arrived_is_stored(data_dir):
    """It is, in a log that forgets producers, too, as long as nobody else has been forgotten since."""
    with Broker(data_dir, storage_producers_max=1) as broker:
        async with (
            Admin(broker.address) as admin,
            Relay(broker.address) as relay,
            Producer(relay.address, retry=QUICK) as one,
            Producer(broker.address) as other,
        ):
            await admin.create_topic("t", partitions=2)
            await (await other.send("t", b"other", partition=0))
            await (await one.send("t", b"to know the topic", partition=1))
            relay.hold_requests()
            sent = await one.send("t", b"once", partition=0)
            await relay.holds_requests()
            relay.cut()
            assert (await sent).offset == 1
        stored = [record.value for record in await read(broker.address, "t") if record.partition == 0]
        assert stored == [b"other", b"once"]
