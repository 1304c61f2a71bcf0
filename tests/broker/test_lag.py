"""A group's lag counts what is still there."""

from __future__ import annotations

import pytest

from broker.support import create
from takhin.broker.lag import UNKNOWN, Ages
from takhin.errors import PartitionUnavailableError
from takhin.model import CommittedOffset, TopicPartition
from takhin.settings import GroupSettings
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


class Asked:
    """A log that counts how often its records are read for an age."""

    def __init__(self, log) -> None:
        self.times = 0
        self._read = log.timestamp_from
        log.timestamp_from = self._count

    async def _count(self, offset):
        self.times += 1
        return await self._read(offset)


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


async def test_who_stays_is_not_read_again(session, engine, log):
    """The timestamp is read once for each move, whatever is appended meanwhile."""
    asked = Asked(log)
    for committed, times in ((3, 1), (3, 1), (4, 2), (4, 2), (20, 2), (3, 3)):
        await lag_ms(session, engine, committed)
        assert asked.times == times
        await log.append(batch(b"v", b"v"))


async def test_ends_of_a_log_are_known_without_reading(session, engine, log):
    """Who is at the beginning, and who has one record to read, costs no read at all."""
    asked = Asked(log)
    assert [await lag_ms(session, engine, committed) for committed in (0, 9)] == [60_000, 51_000]
    assert asked.times == 0


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

    log.timestamp_from = unavailable
    assert await lag_ms(session, engine, 3) == UNKNOWN


async def test_few_ages_are_kept(session, engine, log):
    """Beyond groups.ages_max, those that were not asked for longest are read again."""
    asked = Asked(log)
    ages = Ages(engine, GroupSettings(ages_max=2), lambda: NOW)
    committed = {AT: CommittedOffset(3, "", 0)}
    for group_id, times in (("a", 1), ("b", 2), ("a", 2), ("c", 3), ("a", 3), ("b", 4)):
        await ages.of(group_id, committed)
        assert asked.times == times
