"""Consumers that share a group's work: who reads what, what is committed, and what is refused."""

from __future__ import annotations

import asyncio
import gc

import pytest

from client.members import Member, committed, spread, state
from client.support import produce
from takhin.client import START, Consumer
from takhin.client.errors import ClosedError, InCallbackError
from takhin.errors import (
    FencedMemberError,
    InvalidArgumentError,
    InvalidTopicNameError,
    OffsetOutOfRangeError,
)


async def test_one_member_reads_all_and_commits_it(server, admin, wide, name):
    """A member gets every partition, from the beginning; `close` commits all that was iterated past."""
    await spread(server, wide, 5)
    async with Consumer(server, group_id=name, topics=[wide], client_id="me") as consumer:
        async with asyncio.timeout(20):
            seen = [await anext(consumer) for _ in range(15)]
        assert {(record.partition, record.offset) for record in seen} == {
            (partition, offset) for partition in range(3) for offset in range(5)
        }
        assert await consumer.poll(0.05) is None
        described = await admin.describe_group(name)
        assert described.state == "Stable"
        assert consumer.assignment() == [(wide, number) for number in range(3)]
    assert await committed(admin, name, wide) == {0: 5, 1: 5, 2: 5}
    assert (await admin.describe_group(name)).state == "Empty"


async def test_members_share_and_kept_partitions_go_on(server, admin, wide, name):
    """A second and a third member get their part, and give it back when they leave; none skips a record."""
    await spread(server, wide, 10)
    async with Member(server, name, wide) as one:
        await one.has_read(30)
        async with Member(server, name, wide) as two:
            await two.holds(1)
            assert one.told[1:] == [("revoked", [*two.held])]
            async with Member(server, name, wide) as three:
                await three.holds(1)
                assert sorted([*one.held, *two.held, *three.held]) == [0, 1, 2]
                await spread(server, wide, 10, first=10)
                for member, count in ((one, 40), (two, 10), (three, 10)):
                    await member.has_read(count)
            await one.until(lambda: len(one.held) + len(two.held) == 3)
        await one.holds(3)
        await spread(server, wide, 10, first=20)
        read = [one, two, three]
        await one.until(lambda: sum(len(of.records) for of in read) >= 90)
    for partition in range(3):
        found = sorted(r.offset for of in read for r in of.records if r.partition == partition)
        assert found == list(range(30)), partition
        assert [r.offset for r in one.records if r.partition == partition] == sorted(
            r.offset for r in one.records if r.partition == partition
        )
    assert await committed(admin, name, wide) == {0: 30, 1: 30, 2: 30}


async def test_a_cancelled_anext_and_poll_lose_nothing(server, topic, name):
    """Waits that are given up, from the very first one on, lose no record and no membership."""
    async with Consumer(server, group_id=name, topics=[topic]) as consumer:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(consumer), 0.001)
        assert await consumer.poll(0) is None
        await produce(server, topic, [b"%d" % number for number in range(100)])
        seen = []
        async with asyncio.timeout(20):
            while len(seen) < 100:
                record = await consumer.poll(0.000_5)
                seen += [record.offset] if record else []
        assert seen == list(range(100))
        assert [batch async for batch in consumer.batches(timeout=0.05)] == []


async def test_on_assigned_may_seek(server, admin, wide, name):
    """What on_assigned seeks is where reading begins; no record is handed out before it has returned."""
    await spread(server, wide, 5)

    async def seek(partitions):
        for topic, partition in partitions:
            await asyncio.sleep(0.01)
            await consumer.seek(topic, partition, 3)
        consumer.pause((wide, 2))

    async with Consumer(server, group_id=name, topics=[wide], on_assigned=seek) as consumer:
        seen = [await anext(consumer) for _ in range(4)]
        assert sorted((r.partition, r.offset) for r in seen) == [(0, 3), (0, 4), (1, 3), (1, 4)]
        assert await consumer.poll(0.1) is None
    assert await committed(admin, name, wide) == {0: 5, 1: 5, 2: 3}


async def test_what_a_callback_raises_is_raised_by_iterating(server, topic, name):
    """And iterating goes on afterwards."""
    await produce(server, topic, [b"0"])

    def fault(_partitions):
        raise ZeroDivisionError("a bug of the user")

    async with Consumer(server, group_id=name, topics=[topic], on_assigned=fault) as consumer:
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(anext(consumer), 20)
        assert (await asyncio.wait_for(anext(consumer), 20)).offset == 0
    consumer = Consumer(server, group_id=name, topics=[topic], on_revoked=fault)
    with pytest.raises(ZeroDivisionError):
        async with consumer:
            assert (await asyncio.wait_for(anext(consumer), 20)).offset == 0


async def test_where_a_member_begins(server, admin, topic, name):
    """Where nothing is committed: at the start, or by `reset` or `uncommitted`; the end stays where it is."""
    await produce(server, topic, [b"%d" % number for number in range(4)])
    for options, first in [
        ({}, 0),
        ({"reset": "earliest"}, 0),
        ({"uncommitted": START + 2}, 2),
        ({"uncommitted": 3, "reset": "latest"}, 3),
    ]:
        group = f"{name}-{first}-{len(options)}"
        async with Consumer(server, group_id=group, topics=[topic], **options) as consumer:
            assert (await asyncio.wait_for(anext(consumer), 20)).offset == first
    async with Consumer(server, group_id=name, topics=[topic], reset="latest") as consumer:
        async with asyncio.timeout(20):
            while await committed(admin, name, topic) != {0: 4}:
                assert await consumer.poll(0.1) is None
    await produce(server, topic, [b"while nobody read"])
    async with Consumer(server, group_id=name, topics=[topic], reset="latest") as consumer:
        assert (await asyncio.wait_for(anext(consumer), 20)).offset == 4


@pytest.mark.parametrize(("reset", "first"), [("error", None), ("earliest", 3), ("latest", 5)])
async def test_a_lost_position(admin, topic, name, reset, first):
    """Where what was to be read is gone, a member goes on as `reset` says, or raises and may seek."""
    server = admin._connection.server
    await produce(server, topic, [b"%d" % number for number in range(5)])
    await admin.commit_offsets(name, {(topic, 0): 1})
    await admin.delete_records(topic, 0, before_offset=3)
    async with Consumer(server, group_id=name, topics=[topic], reset=reset) as consumer:
        if first is None:
            with pytest.raises(OffsetOutOfRangeError):
                await asyncio.wait_for(anext(consumer), 20)
            await consumer.seek(topic, 0, START)
            first = 3
        if first == 5:  # what comes before the member has looked for the end is not read either
            while (record := await consumer.poll(0.3)) is None:
                await produce(server, topic, [b"new"])
            assert record.offset >= first
        else:
            assert (await asyncio.wait_for(anext(consumer), 20)).offset == first


async def test_topics_that_come_later(server, admin, name):
    """A topic need not exist; a pattern matches whole names, also later ones; more partitions are read."""
    made = f"{name}-orders"
    async with (
        Member(server, f"{name}-1", made) as named,
        Member(server, f"{name}-2", pattern=f"{name}-.*s") as matched,
    ):
        await admin.create_topic(made, partitions=2)
        await admin.create_topic(f"{made}-not")
        await produce(server, made, [b"0", b"1"], partition=1)
        for member in (named, matched):
            await member.holds(2)
            await member.has_read(2)
        await admin.alter_topic(made, partitions=3)
        await produce(server, made, [b"2"], partition=2)
        for member in (named, matched):
            await member.has_read(3)
            assert {record.topic for record in member.records} == {made}


async def test_a_topic_that_is_deleted_and_made_again(server, admin, topic, name):
    """Members go on with their other topics, and read the new one from its beginning."""
    other = f"{name}-other"
    await admin.create_topic(other)
    await produce(server, topic, [b"old"] * 3)
    async with Member(server, name, topic, other, commit_interval_ms=50) as member:
        await member.has_read(3)
        await admin.delete_topic(topic)
        await produce(server, other, [b"beside"])
        await member.has_read(4)
        await member.until(lambda: {"revoked", "lost"} & {what for what, _ in member.told})
        await admin.create_topic(topic)
        await produce(server, topic, [b"new"])
        await member.has_read(5)
        assert (member.records[-1].value, member.records[-1].offset) == (b"new", 0)
    assert await committed(admin, name, other) == {0: 1}
    assert await committed(admin, name, topic) == {0: 1}


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"topics": ["t"]}, InvalidArgumentError, "need a group_id"),
        ({"group_id": "g", "topics": "t"}, InvalidArgumentError, "a list of names"),
        ({"group_id": "g", "topics": ["t"], "pattern": "t"}, InvalidArgumentError, "topics or a pattern"),
        ({"group_id": "g", "topics": []}, InvalidArgumentError, "some topics"),
        ({"group_id": "g", "topics": ["/"]}, InvalidTopicNameError, "invalid topic name"),
        ({"group_id": "g", "topics": ["t"], "reset": "x"}, InvalidArgumentError, "earliest, latest or error"),
    ],
)
def test_options_that_contradict(server, options, error, sentence):
    """What cannot work is refused when the consumer is made."""
    with pytest.raises(error, match=sentence):
        Consumer(server, **options)


async def test_a_member_assigns_nothing_itself(server, topic, name):
    """`assign` and a group's topics exclude each other."""
    async with Consumer(server, group_id=name, topics=[topic]) as consumer:
        with pytest.raises(InvalidArgumentError, match="reads what its group gives it"):
            await consumer.assign({(topic, 0): START})
        with pytest.raises(InvalidArgumentError, match="reads what its group gives it"):
            await consumer.assign_topics(topic)
        with pytest.raises(FencedMemberError):
            await consumer.commit({(topic, 0): 0})


@pytest.mark.parametrize(
    "options",
    [{"pattern": "("}, {"topics": ["t"], "assignor": "x"}, {"topics": ["t"], "session_timeout_ms": 1}],
)
async def test_a_join_that_is_refused(server, name, options):
    """The broker's reason is raised by iterating, again and again."""
    async with Consumer(server, group_id=name, **options) as consumer:
        for _ in range(2):
            with pytest.raises(InvalidArgumentError):
                await asyncio.wait_for(anext(consumer), 20)


async def test_two_tasks_close(server, admin, topic, name):
    """The second one waits until the first has committed and left, instead of closing the connection."""
    await produce(server, topic, [b"0", b"1", b"2"])

    async def revoked(_):
        closing.append(asyncio.create_task(consumer.close()))
        await asyncio.sleep(0)
        with pytest.raises(InCallbackError):
            await consumer.close()

    closing = []
    consumer = await Consumer(server, group_id=name, topics=[topic], on_revoked=revoked).open()
    for _ in range(3):
        await anext(consumer)
    await consumer.close()
    await closing[0]
    assert await committed(admin, name, topic) == {0: 2}
    assert await state(admin, name) == "Empty"


async def test_stop_before_it_is_open(server, topic, name):
    """A signal that comes early is not forgotten."""
    consumer = Consumer(server, group_id=name, topics=[topic])
    consumer.stop()
    async with consumer, asyncio.timeout(10):
        assert [record async for record in consumer] == []


async def test_poll_after_stop(server, topic, name):
    """Whoever polls gets None, so that its loop can end; if it polls on for ever, it ends with an error."""
    await produce(server, topic, [b"0", b"1"])
    async with Consumer(server, group_id=name, topics=[topic]) as consumer:
        assert (await consumer.poll(20)).offset == 0
        waiting = asyncio.create_task(consumer.poll(20))
        assert (await waiting).offset == 1
        waiting = asyncio.create_task(consumer.poll(20))
        await asyncio.sleep(0)
        consumer.stop()
        async with asyncio.timeout(10):
            assert await waiting is None
            with pytest.raises(ClosedError, match="stopped"):
                await consumer.poll(20)
        assert [batch async for batch in consumer.batches()] == []


def forget(things: list[object]) -> None:
    things.clear()
    gc.collect()


@pytest.mark.parametrize("iterated", [False, True])
async def test_a_member_that_nobody_refers_to(server, admin, topic, name, iterated):
    """It is no member any more at once, and commits nothing; a warning says what was forgotten."""
    await produce(server, topic, [b"0", b"1"])
    consumer = await Consumer(server, group_id=name, topics=[topic], session_timeout_ms=60_000).open()
    if iterated:
        async for _ in consumer:
            break
    else:
        assert (await consumer.poll(20)).offset == 0
    assert await state(admin, name) == "Stable"
    forgotten = [consumer]
    del consumer
    with pytest.warns(ResourceWarning, match="was not closed"):
        forget(forgotten)
    async with asyncio.timeout(2.5):  # less than rejoin_ms
        while name in [of.group_id for of in await admin.list_groups()]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_iterating_keeps_its_consumer(server, topic, name):
    """Whoever iterates over records or batches needs no other reference."""
    await produce(server, topic, [b"0", b"1"])

    async def opened():
        return await Consumer(server, group_id=name, topics=[topic]).open()

    records = aiter(await opened())
    gc.collect()
    assert [(await anext(records)).offset for _ in range(2)] == [0, 1]
    await records.owner.close()
