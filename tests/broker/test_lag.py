"""A group's lag counts what is still there."""

from __future__ import annotations

import pytest

from broker.support import create
from takhin.model import CommittedOffset, TopicPartition
from takhin.testing.contract import batch, spec

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
