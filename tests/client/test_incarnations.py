"""Clients whose topic is deleted and created again while they run."""

from __future__ import annotations

import pytest

from client.support import produce, values
from takhin.client import COMMITTED, Consumer, Producer, Span
from takhin.client.errors import LogReplacedError
from takhin.client.model import END


async def again(admin, topic, **arguments):
    await admin.delete_topic(topic)
    await admin.create_topic(topic, **arguments)


@pytest.mark.parametrize("explicit", [False, True])
async def test_a_commit_never_lands_in_the_next_topic(server, admin, topic, explicit):
    """A consumer of the former topic cannot commit into the new one, whose group then skips nothing."""
    await produce(server, topic, [b"old"] * 5)
    async with Consumer(server, group_id=topic) as consumer:
        await consumer.assign_topics(topic)
        for _ in range(5):
            await anext(consumer)
        await again(admin, topic)
        await produce(server, topic, [b"new"] * 9)
        with pytest.raises(LogReplacedError):
            await consumer.commit({(topic, 0): 5} if explicit else None)
    async with Consumer(server, group_id=topic) as consumer:
        await consumer.assign_topics(topic, start=Span(COMMITTED, END))
        assert [record.offset async for record in consumer] == list(range(9))
        await consumer.commit()
    assert await admin.committed_offsets(topic) == {(topic, 0): (9, "")}


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_producer_learns_of_the_next_topic(server, admin, topic, idempotent):
    """What is under way to the former topic fails; the next record finds the new topic's partitions."""
    async with Producer(server, idempotent=idempotent) as producer:
        await (await producer.send(topic, b"old"))
        await again(admin, topic, partitions=2)
        late = await producer.send(topic, b"late")
        with pytest.raises(LogReplacedError):
            await late
        assert await (await producer.send(topic, b"new", partition=1)) == (topic, 1, 0)
    assert await values(server, topic) == [b"new"]


async def test_an_append_for_the_former_topic_is_refused(server, admin, topic):
    """An append whose expected_offset fits the new topic by chance is not stored there."""
    async with Producer(server) as producer:
        await producer.append(topic, [b"old"], partition=0, expected_offset=0)
        await again(admin, topic)
        await produce(server, topic, [b"other"])
        with pytest.raises(LogReplacedError):
            await producer.append(topic, [b"next"], partition=0, expected_offset=1)
    assert await values(server, topic) == [b"other"]
