"""A topic of which the broker does not serve one partition, as its clients see it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blackbox.broker_process import Broker
from takhin.client import COMMITTED, END, START, Admin, Consumer, Producer, Record, Span, sync
from takhin.errors import PartitionUnavailableError, UnavailableError

PAGE = 16_384


def wrecked(path: Path) -> bytes:
    """Overwrite a file's first page; what it was before."""
    whole = path.read_bytes()
    path.write_bytes(bytes(PAGE) + whole[PAGE:])
    return whole


@pytest.fixture(scope="module")
def maimed(tmp_path_factory):
    """A broker with ten records in each of three partitions, of which it does not serve the second."""
    folder = tmp_path_factory.mktemp("maimed") / "data"
    with (
        Broker(folder) as broker,
        sync.Admin(broker.address) as admin,
        sync.Producer(broker.address) as producer,
    ):
        admin.create_topic("t", partitions=3)
        for partition in range(3):
            producer.append("t", [b""] * 10, partition=partition)
    wrecked(folder / "topics/t/1.db")
    with Broker(folder) as broker:
        yield broker


async def test_its_description_says_so(maimed):
    """A description has the reason, and the other partitions are described as ever."""
    async with Admin(maimed.address) as admin:
        topic = await admin.describe_topic("t")
        assert (await admin.describe_topics(["t"])) == [topic]
    assert [of.served for of in topic.partitions] == [True, False, True]
    assert topic.partitions[1].unavailable_reason.startswith("topic 't' partition 1 is not served: ")
    assert [topic.partitions[n].end_offset for n in (0, 2)] == [10, 10]


@pytest.mark.parametrize(
    "where",
    [START, END, END - 5, COMMITTED, 0, 10, datetime(2026, 1, 1, tzinfo=UTC), Span(START, END), Span(0, 10)],
    ids=str,
)
async def test_no_position_is_made_up(maimed, where):
    """Assigning it raises at once, wherever reading is to begin, and the assignment stays as it was."""
    async with Consumer(maimed.address, group_id="g") as consumer:
        await consumer.assign({("t", 0): START})
        async with asyncio.timeout(20):
            with pytest.raises(PartitionUnavailableError) as raised:
                await consumer.assign({("t", 1): where, ("t", 2): where})
        assert (raised.value.details["topic"], raised.value.details["partition"]) == ("t", "1")
        with pytest.raises(PartitionUnavailableError):
            await consumer.assign_topics("t", start=where)
        assert consumer.assignment() == [("t", 0)]


async def test_one_of_many_partitions(memory):
    """A consumer of too many partitions for a stream each is told, too, and claims no other end meanwhile."""
    folder = memory / "data"
    with Broker(folder) as broker:
        address = broker.address
        async with Admin(address) as admin, Producer(address) as producer:
            await admin.create_topic("t", partitions=450)
            for _ in range(10):
                await producer.send("t", b"", partition=1)
        consumer = await Consumer(address, outage_timeout_ms=3_000).open()
        await consumer.assign_topics("t")
        async with asyncio.timeout(20):
            assert [(await anext(consumer)).offset for _ in range(10)] == list(range(10))
        assert await consumer.poll(0.3) is None
    wrecked(folder / "topics/t/1.db")
    with Broker(folder, listen=address):
        async with asyncio.timeout(60):
            with pytest.raises(PartitionUnavailableError):
                await anext(consumer)
        assert consumer.end_offset("t", 1) == 10
        await consumer.close()


async def test_a_log_that_cannot_be_read_is_not_taken_for_another(tmp_path):
    """Clients from before a restart wait for a damaged log, whose id nobody can read, and go on with it."""
    folder = tmp_path / "data"
    with Broker(folder) as broker:
        address = broker.address
        async with Admin(address) as admin:
            await admin.create_topic("t")
        producer = await Producer(address).open()
        consumer = await Consumer(address, group_id="g", outage_timeout_ms=1_500).open()
        await consumer.assign_topics("t")
        await (await producer.send("t", b"before"))
        assert (await consumer.poll(20)).value == b"before"
    path = folder / "topics/t/0.db"
    whole = wrecked(path)
    with Broker(folder, listen=address):
        delivery = await producer.send("t", b"after")
        async with asyncio.timeout(60):
            while not isinstance(await outcome(consumer), PartitionUnavailableError):
                pass  # the restart itself
            with pytest.raises(PartitionUnavailableError):
                await consumer.commit()
        assert not delivery.done
        path.write_bytes(whole)
        async with asyncio.timeout(60):
            assert (await delivery).offset == 1
            while not isinstance(record := await outcome(consumer), Record):
                pass  # another outage
            assert record.value == b"after"
            await consumer.commit()
        await producer.close()
        await consumer.close()


async def outcome(consumer: Consumer) -> Record | UnavailableError:
    """The next record, or the error of an outage. Raises a refusal."""
    try:
        return await anext(consumer)
    except UnavailableError as error:
        return error


async def test_a_member_reads_the_others(maimed):
    """A partition that is not served keeps a member from nothing else, and its commits neither."""
    async with Consumer(maimed.address, group_id="member", topics=["t"]) as consumer:
        seen = [await asyncio.wait_for(anext(consumer), 20) for _ in range(20)]
        assert {record.partition for record in seen} == {0, 2}
        assert await consumer.poll(0.1) is None
    async with Admin(maimed.address) as admin:
        assert {at.partition for at in await admin.committed_offsets("member")} == {0, 2}
