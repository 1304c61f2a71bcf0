"""Commits of many partitions at once: written a few at a time, in the order of the calls."""

from __future__ import annotations

import asyncio

import pytest

from takhin.errors import UnknownTopicError
from takhin.model import CommittedOffset, TopicConfig, TopicPartition, TopicSpec
from takhin.storage.sqlite.offsets import AT_ONCE
from takhin.testing.contract import clock

WIDE = 3 * AT_ONCE


async def wide(store):
    """The partitions of a topic that has more than are written at once."""
    await store.engine.create_topic(TopicSpec("wide", WIDE, TopicConfig(max_message_bytes=1_000)))
    return [TopicPartition("wide", partition) for partition in range(WIDE)]


async def test_two_wide_commits_land_in_the_order_of_the_calls(store):
    """The second one wins everywhere, also where its partitions come in another order."""
    partitions = await wide(store)
    first, second = (CommittedOffset(0, metadata, clock()) for metadata in ("first", "second"))
    offsets = store.engine.offsets
    await asyncio.gather(
        offsets.commit("g", dict.fromkeys(partitions, first)),
        offsets.commit("g", dict.fromkeys(reversed(partitions), second)),
    )
    assert set(offsets.of("g").values()) == {second}
    await store.reopen()
    assert set(store.engine.offsets.of("g").values()) == {second}


async def test_a_small_commit_after_a_wide_one_lands_after_it(store):
    """It waits for the wide one of its group, and for no other group's."""
    partitions = await wide(store)
    first, second = (CommittedOffset(0, metadata, clock()) for metadata in ("first", "second"))
    offsets = store.engine.offsets
    wide_one = asyncio.ensure_future(offsets.commit("g", dict.fromkeys(partitions, first)))
    await asyncio.sleep(0)
    await offsets.commit("other", {partitions[-1]: second})
    assert not wide_one.done()
    await offsets.commit("g", {partitions[-1]: second})
    await wide_one
    assert offsets.of("g")[partitions[-1]] == second


async def test_one_partition_that_refuses_does_not_keep_the_others(store):
    """Its error is raised at the end; what the others were given is durable."""
    partitions = await wide(store)
    store.log("wide", 1).closed = True  # as while its topic is being deleted
    committed = CommittedOffset(0, "", clock())
    with pytest.raises(UnknownTopicError):
        await store.engine.offsets.commit("g", dict.fromkeys(partitions, committed))
    assert set(store.engine.offsets.of("g")) == {at for at in partitions if at.partition != 1}
