"""What members of a group commit, by themselves and by hand, and what is refused."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from client.members import Member, committed, eventually, spread, state
from client.support import produce
from takhin.client import Consumer, RecordBatch, TopicPartition
from takhin.client.clock import monotonic
from takhin.errors import (
    FencedMemberError,
    GroupNotEmptyError,
    InvalidArgumentError,
    OffsetOutOfRangeError,
    UnknownTopicError,
)


def static(instance_id):
    """Options of a member whose name decides what it gets."""
    return {"instance_id": instance_id, "keep_for_restart": False}


async def which_moves(server, group, topic):
    """The partition of three that a member "a" gives up to a member "b"."""
    async with Member(server, group, topic, **static("a")) as one:
        await one.holds(3)
        async with Member(server, group, topic, **static("b")) as two:
            await two.holds(1)
            (moves,) = two.held
    return moves


async def test_the_record_in_hand_is_not_committed(server, admin, topic, name):
    """Leaving in the middle of a record commits those before it; the next member begins with it."""
    await produce(server, topic, [b"0", b"1", b"2", b"3"])
    async with Consumer(server, group_id=name, topics=[topic]) as consumer:
        async for record in consumer:
            if record.offset == 2:
                break
    assert await committed(admin, name, topic) == {0: 2}
    async with Consumer(server, group_id=name, topics=[topic]) as consumer:
        async for batch in consumer.batches(1):
            assert [record.offset for record in batch.records] == [2]
            break
    assert await committed(admin, name, topic) == {0: 2}
    async with Consumer(server, group_id=name, topics=[topic]) as consumer:
        batches = consumer.batches(1, timeout=20)
        assert [(await anext(batches)).records[0].offset for _ in range(2)] == [2, 3]
    assert await committed(admin, name, topic) == {0: 3}


async def test_what_is_iterated_past_is_committed_now_and_then(server, admin, topic, name):
    """Without `close`, every commit_interval_ms."""
    await produce(server, topic, [b"0", b"1", b"2"])
    async with Consumer(server, group_id=name, topics=[topic], commit_interval_ms=20) as consumer:
        assert [(await anext(consumer)).offset for _ in range(3)] == [0, 1, 2]
        await eventually(lambda: committed(admin, name, topic), {0: 2})
        await asyncio.sleep(0.1)
        assert await committed(admin, name, topic) == {0: 2}


async def test_a_partition_goes_when_its_record_is_processed(server, admin, wide, name):
    """A record in hand keeps its partition; then come on_revoked, the commit, and the other member."""
    await spread(server, wide, 3)
    steps = []

    async def flush(partitions):
        steps.append(f"flush {[at.partition for at in partitions]}")
        await asyncio.sleep(0.01)
        steps.append(f"committed {(await committed(admin, name, wide)).get(moves, 0)}")

    moves = await which_moves(server, f"{name}-before", wide)
    others = [(wide, partition) for partition in {0, 1, 2} - {moves}]
    options = {"on_assigned": lambda _: consumer.pause(*others), "on_revoked": flush, **static("a")}
    async with Consumer(server, group_id=name, topics=[wide], **options) as consumer:
        assert (await anext(consumer)).partition == moves
        async with Member(server, name, wide, **static("b")) as other:
            await eventually(lambda: state(admin, name), "CompletingRebalance")
            assert await consumer.commit({others[0]: 1}) is None
            assert not other.told
            assert not steps
            assert await consumer.poll(0.01) is None  # the first record is iterated past
            await other.has_read(2)
            assert other.held == {moves}
            assert [record.offset for record in other.records] == [1, 2]
            assert steps == [f"flush [{moves}]", "committed 0"]
    assert await committed(admin, name, wide) == {moves: 3, others[0][1]: 1}


async def test_a_commit_in_a_callback_leaves_out_what_is_in_hand(server, admin, wide, name):
    """Where on_revoked commits, a record of another partition that is still being processed is none of it."""
    await spread(server, wide, 2)
    told = []

    async def revoked(partitions):
        await consumer.commit()
        told.append(await committed(admin, name, wide))

    moves = await which_moves(server, f"{name}-before", wide)
    options = {"on_assigned": lambda _: consumer.pause((wide, moves)), "on_revoked": revoked, **static("a")}
    async with Consumer(server, group_id=name, topics=[wide], auto_commit=False, **options) as consumer:
        records = [await anext(consumer) for _ in range(4)]  # the last one is in hand
        async with Member(server, name, wide, **static("b")) as other:
            await other.holds(1)
            assert other.held == {moves}
            in_hand = records[-1].partition
            assert told == [{in_hand: 1, 3 - in_hand - moves: 2}]


async def test_commit_by_hand(server, admin, wide, name):
    """Without auto_commit only what is committed by hand is: a record, a batch, a mapping, or all so far."""
    await spread(server, wide, 4)
    options = {"group_id": name, "topics": [wide], "auto_commit": False}
    async with Consumer(server, **options) as consumer:
        records = [await anext(consumer) for _ in range(12)]
        await consumer.poll(0.01)
    assert await committed(admin, name, wide) == {}
    async with Consumer(server, **options) as consumer:
        records = [await anext(consumer) for _ in range(12)]
        of = {(record.partition, record.offset): record for record in records}
        await consumer.commit(of[0, 1])
        assert await committed(admin, name, wide) == {0: 2}
        await consumer.commit(RecordBatch(wide, 1, [of[1, 0], of[1, 1]], 4))
        await consumer.commit({(wide, 2): 3})
        assert await committed(admin, name, wide) == {0: 2, 1: 2, 2: 3}
        await consumer.commit()
        assert await committed(admin, name, wide) == {0: 4, 1: 4, 2: 4}
        with pytest.raises(OffsetOutOfRangeError):
            await consumer.commit({(wide, 0): 5, (wide, 1): 3})
        await consumer.commit({(wide, 1): 3})
        assert (await committed(admin, name, wide))[1] == 3
        await consumer.commit({(wide, 1): 4})
        with pytest.raises(InvalidArgumentError, match="a record, a batch or a mapping"):
            await consumer.commit(7)
    assert await committed(admin, name, wide) == {0: 4, 1: 4, 2: 4}


async def test_a_commit_by_hand_beside_auto_commit(server, admin, topic, name):
    """What is committed by hand of what is in hand stays committed at `close`."""
    await produce(server, topic, [b"%d" % number for number in range(5)])
    async with Consumer(server, group_id=name, topics=[topic]) as consumer:
        batch = await anext(consumer.batches())
        assert len(batch.records) == 5
        await consumer.commit(batch.records[2])
        assert await committed(admin, name, topic) == {0: 3}
    assert await committed(admin, name, topic) == {0: 3}


async def test_what_is_refused_keeps_nothing_else_from_being_committed(server, admin, topic, name):
    """`commit()` raises for a topic that is gone, and has committed the rest."""
    others = [f"{name}-{number}" for number in range(3)]
    for other in others:
        await admin.create_topic(other, partitions=3)
        await spread(server, other, 2)
    options = {"group_id": name, "topics": [topic, *others], "auto_commit": False}
    async with Consumer(server, **options) as consumer:
        await produce(server, topic, [b""])
        assert len([await anext(consumer) for _ in range(19)]) == 19
        await admin.delete_topic(others[1])
        given = {(of, partition): 2 for of in others for partition in range(3)}
        await consumer._commits.store_each(
            {TopicPartition(*at): offset for at, offset in given.items()}, monotonic() + 20
        )
        assert await committed(admin, name, others[0]) == {0: 2, 1: 2, 2: 2}
        assert await committed(admin, name, others[2]) == {0: 2, 1: 2, 2: 2}
        with pytest.raises((UnknownTopicError, FencedMemberError)):
            await consumer.commit(given)
        with suppress(UnknownTopicError):  # until the group has taken it away
            await consumer.commit()
        assert await committed(admin, name, topic) == {0: 1}


async def test_members_that_are_ended(server, admin, wide, name, caplog):
    """`Admin.end_members` fences all: they commit nothing of what they hold, and join again by themselves."""
    await spread(server, wide, 2)
    async with Member(server, name, wide) as one, Member(server, name, wide, instance_id="a") as two:
        await one.until(lambda: len(one.records + two.records) == 6 and one.held and two.held)
        held = {"one": set(one.held), "two": set(two.held)}
        assert await admin.end_members(name) == 2
        await admin.commit_offsets(name, {(wide, partition): 1 for partition in range(3)})
        for member in (one, two):
            await member.until(lambda member=member: "lost" in {what for what, _ in member.told})
        told = [of.getMessage() for of in caplog.records if "joins again" in of.getMessage()]
        assert all("somebody has ended its membership" in sentence for sentence in told)
        assert len(told) == 2
        await one.until(lambda: len(one.records + two.records) == 9)
        assert {r.offset for r in (one.records + two.records)[-3:]} <= {0, 1}
        assert held["one"] | held["two"] == {0, 1, 2}
    assert await committed(admin, name, wide) == {0: 2, 1: 2, 2: 2}


async def test_a_record_of_a_partition_that_moved_is_refused(server, admin, wide, name):
    """A commit of what another member owns by now is refused by name, and hurts nothing else."""
    await spread(server, wide, 2)
    async with Consumer(server, group_id=name, topics=[wide], auto_commit=False) as consumer:
        records = [await anext(consumer) for _ in range(6)]
        await consumer.poll(0.01)
        async with Member(server, name, wide) as other:
            await other.holds(1)
            (moved,) = other.held
            stale = next(record for record in records if record.partition == moved)
            with pytest.raises(FencedMemberError, match=f"{moved} was given to another member") as raised:
                await consumer.commit(stale)
            assert raised.value.refused == ((wide, moved),)
            await other.has_read(2)
            kept = next(record for record in records if record.partition != moved)
            await consumer.commit(kept)
            await consumer.commit()
    found = await committed(admin, name, wide)
    assert found == {0: 2, 1: 2, 2: 2}


async def test_nobody_else_commits_for_members(server, admin, topic, name):
    """A commit without a member is refused while there are members; afterwards it is taken."""
    await produce(server, topic, [b"0"])
    async with Member(server, name, topic) as member:
        await member.has_read(1)
        with pytest.raises(GroupNotEmptyError):
            await admin.commit_offsets(name, {(topic, 0): 1})
    await admin.commit_offsets(name, {(topic, 0): 0})


async def test_a_commit_ahead_of_what_was_read_stays(server, admin, topic, name):
    """Neither what is committed by itself nor `commit()` takes it back; `seek` does."""
    await produce(server, topic, [b"0", b"1", b"2"])
    async with Consumer(server, group_id=name, topics=[topic]) as consumer:
        await anext(consumer)
        await consumer.commit({(topic, 0): 3})
        await consumer.commit()
    assert await committed(admin, name, topic) == {0: 3}
    async with Consumer(server, group_id=name, topics=[topic]) as consumer:
        assert await consumer.poll(0.5) is None
        await consumer.seek(topic, 0, 1)
        await anext(consumer)
    assert await committed(admin, name, topic) == {0: 1}
