"""A group's lag counts what is still there."""

from __future__ import annotations

import asyncio

import pytest

from broker.support import create
from takhin.broker import lag
from takhin.broker.lag import UNKNOWN
from takhin.errors import PartitionUnavailableError, UnknownGroupError, UnknownTopicError
from takhin.members import JoinGroup
from takhin.model import CommittedOffset, TopicPartition
from takhin.testing.contract import NOW, batch, read_all, spec

AT = TopicPartition("t", 0)


@pytest.mark.parametrize(
    ("trimmed", "committed", "lag"), [(0, 2, 8), (8, 2, 2), (8, 9, 1), (10, 2, 0), (10, 10, 0)]
)
async def test_what_was_trimmed_does_not_count(session, engine, trimmed, committed, lag):
    """Of ten records the lag is those behind the committed offset that were not trimmed."""
    (log,) = (await engine.create_topic(spec("t"))).partitions
    await log.append(batch(*[b"v"] * 10))
    await log.trim(trimmed)
    await engine.offsets.commit("g", {AT: CommittedOffset(committed, "", 0)})
    (of,) = (await session.describe_group("g")).offsets
    assert (of.end_offset, of.lag) == (10, lag)


async def test_what_was_compacted_does_not_count(session, engine):
    """The lag is never above the number of records that there are."""
    await create(session, **{"cleanup.policy": "compact"})
    log = engine.topics["t"].partitions[0]
    for _ in range(10):
        await log.append(batch(b"v", keys=[b"k"]))
    await engine.offsets.commit("g", {AT: CommittedOffset(2, "", 0)})
    await session.compact_topic("t")
    (of,) = (await session.describe_group("g")).offsets
    assert of.lag == log.record_count < 8


BEGAN = NOW - 60_000
"""The timestamp of the first record: a minute ago."""


@pytest.fixture
async def log(engine):
    """Of ten records, one each second."""
    (log,) = (await engine.create_topic(spec("t"))).partitions
    await log.append(batch(*[b"v"] * 10, timestamps=[BEGAN + 1_000 * n for n in range(10)]))
    return log


async def lag_ms(session, engine, committed):
    await engine.offsets.commit("g", {AT: CommittedOffset(committed, "", 0)})
    (of,) = (await session.describe_group("g")).offsets
    return of.lag_ms


async def test_the_age_of_the_oldest_record_to_read(session, engine, log):
    """It is that of the first record at or after the committed offset that is there; 0 without one."""
    ages = [await lag_ms(session, engine, committed) for committed in (0, 2, 9, 10)]
    assert ages == [60_000, 58_000, 51_000, 0]
    await log.trim(8)
    assert await lag_ms(session, engine, 2) == 52_000
    await log.trim(10)
    assert await lag_ms(session, engine, 2) == 0


async def test_a_record_of_the_future_has_no_age(session, engine, log):
    """A timestamp that is ahead of the broker's clock makes it no younger than new."""
    await log.append(batch(b"v", b"v", timestamps=[NOW + 5_000] * 2))
    assert await lag_ms(session, engine, 10) == 0


async def test_a_record_that_is_removed_is_no_longer_the_oldest(session, engine):
    """After a compaction the age is that of a record that is left, for a group that stays."""
    await create(session, **{"cleanup.policy": "compact"})
    log = engine.topics["t"].partitions[0]
    for n in range(10):
        await log.append(batch(b"v", keys=[b"k"], timestamps=[BEGAN + 1_000 * n]))
    assert await lag_ms(session, engine, 2) == 58_000
    await session.compact_topic("t")
    (of,) = (await session.describe_group("g")).offsets
    assert of.lag_ms == 60_000 - 1_000 * min(row[0] for row in await read_all(log)) < 58_000


async def test_what_cannot_be_read_has_no_known_age(session, engine, log):
    """A partition that is not served keeps nobody from being told of the others."""

    async def unavailable(_offset):
        raise PartitionUnavailableError("it is gone", topic="t", partition=0)

    log.known_timestamp, log.timestamp_from = lambda _offset: None, unavailable
    assert await lag_ms(session, engine, 3) == UNKNOWN


async def test_who_waits_for_files_gets_an_answer(session, engine, log, monkeypatch):
    """Where files cannot be opened in time, the age is unknown, and all else is told."""
    monkeypatch.setattr(lag, "WAIT_SECONDS_MAX", 0.01)
    log.known_timestamp, log.timestamp_from = lambda _offset: None, lambda _offset: asyncio.Event().wait()
    assert await lag_ms(session, engine, 3) == UNKNOWN


async def test_what_members_own_counts_before_they_commit(broker, session, engine):
    """The lag of a group is that of what it has committed in, and of what a member owns: all of that."""
    await engine.create_topic(spec("t", 2))
    for log in engine.topics["t"].partitions:
        await log.append(batch(*[b"v"] * 10))
        await log.trim(1)
    await engine.offsets.commit("g", {AT: CommittedOffset(4, "", 0)})
    assert [of.lag for of in await session.list_groups()] == [6]
    await broker.coordinator.start()
    member = await session.join_group(JoinGroup("g", topics=frozenset({"t"})))
    async with asyncio.timeout(10):
        while [of.lag for of in await session.list_groups()] != [6 + 9]:  # noqa: ASYNC110  no event tells of it
            await asyncio.sleep(0.01)
    member.leave()
    assert [of.lag for of in await session.list_groups()] == [6]
    await broker.coordinator.stop(0)


async def test_offsets_in_a_topic_that_is_not_there(session, log, engine):
    """They are not deleted without a word: the name is refused, and nothing is done."""
    await engine.offsets.commit("g", {AT: CommittedOffset(4, "", 0)})
    with pytest.raises(UnknownTopicError, match="nosuch"):
        await session.delete_offsets("g", ["t", "nosuch"])
    assert AT in engine.offsets.of("g")
    await session.delete_offsets("g", ["t"])
    with pytest.raises(UnknownGroupError):
        await session.delete_offsets("g", ["t"])
