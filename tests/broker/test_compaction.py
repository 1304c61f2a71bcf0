"""Topics are compacted when that is asked for, and by themselves when their configs say so."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.support import NOW, batch, broker_over, create, produce, rows
from takhin.broker.compaction import CompactionVerbs
from takhin.errors import (
    InvalidArgumentError,
    InvalidRecordError,
    PartitionUnavailableError,
    ShuttingDownError,
    UnknownTopicError,
)
from takhin.settings import TopicSettings
from takhin.storage.memory_log import MemoryLog

COMPACT = {"cleanup.policy": "compact"}


async def fill(session, topic="t"):
    for value in (b"1", b"2", b"3"):
        await produce(session, topic, 0, batch(value, keys=[b"k"]))


async def test_a_compaction_that_is_asked_for(session, engine):
    """It returns how many records went."""
    await create(session, **COMPACT)
    await fill(session)
    assert await session.compact_topic("t") == 2
    assert [row[0] for row in await rows(engine)] == [2]


async def test_a_topic_with_another_policy_is_refused(session):
    """So is one that does not exist."""
    await create(session)
    with pytest.raises(InvalidArgumentError, match=r"cleanup\.policy"):
        await session.compact_topic("t")
    with pytest.raises(UnknownTopicError):
        await session.compact_topic("nowhere")


async def test_a_record_without_a_key_is_refused(session):
    """By its place in the batch, and nothing of the batch is stored. An empty key is one."""
    await create(session, **COMPACT)
    with pytest.raises(InvalidRecordError, match="record 1 has no key"):
        produce(session, "t", 0, batch(b"1", b"2", keys=[b"", None]))
    assert (await produce(session, "t", 0, batch(b"1", keys=[b""]))).offset == 0


async def test_topics_are_compacted_by_themselves(session, engine):
    """Those whose policy says so, and no others."""
    await create(session, **COMPACT)
    await create(session, "other")
    await fill(session)
    await fill(session, "other")
    verbs = CompactionVerbs(engine, TopicSettings(compaction_look_ms=10), lambda: NOW)
    await verbs.start()
    async with asyncio.timeout(10):
        while len(await rows(engine)) > 1:  # noqa: ASYNC110  nobody tells when it is done
            await asyncio.sleep(0)
    await verbs.stop(0)
    assert len(await rows(engine, "other")) == 3


class SlowLog(MemoryLog):
    """A log whose compaction waits, and is counted."""

    def __init__(self, partition: int = 0) -> None:
        super().__init__("t", partition, 10, lambda: NOW)
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.passes = 0
        self.fails = False

    async def compaction_due(self, config, now):
        return True

    async def compact(self, config, now):
        self.passes += 1
        self.begun.set()
        await self.go_on.wait()
        if self.fails:
            raise PartitionUnavailableError("no disk", topic="t", partition=self.partition)
        return self.passes


async def slow(session, engine, partitions=1):
    """The logs of a topic whose passes wait."""
    await create(session, **COMPACT)
    logs = tuple(SlowLog(number) for number in range(partitions))
    engine.topics = {"t": replace(engine.topics["t"], partitions=logs)}
    return logs


async def test_calls_that_wait_share_a_pass(session, engine):
    """Who asks during a pass gets the next one; it is one for all, and goes on when a caller has gone."""
    (log,) = await slow(session, engine)
    verbs = CompactionVerbs(engine, TopicSettings(), lambda: NOW)
    first = asyncio.create_task(verbs.compact("t"))
    await log.begun.wait()
    others = [asyncio.create_task(verbs.compact("t")) for _ in range(5)]
    await asyncio.sleep(0)
    others.pop().cancel()
    log.go_on.set()
    assert await first == 1
    assert await asyncio.gather(*others) == [2] * 4
    assert log.passes == 2
    await verbs.stop(0)


async def test_a_call_that_waited_takes_the_topic_as_it_is_then(session, engine):
    """Another policy is refused by then, and a call under way goes no further."""
    logs = await slow(session, engine, partitions=2)
    verbs = CompactionVerbs(engine, TopicSettings(), lambda: NOW)
    first = asyncio.create_task(verbs.compact("t"))
    await logs[0].begun.wait()
    other = asyncio.create_task(verbs.compact("t"))
    await asyncio.sleep(0)
    topic = engine.topics["t"]
    engine.topics = {"t": replace(topic, config=replace(topic.config, cleanup_policy=()))}
    logs[0].go_on.set()
    assert await first == 1
    with pytest.raises(InvalidArgumentError, match=r"cleanup\.policy"):
        await other
    assert [log.passes for log in logs] == [1, 0]
    await verbs.stop(0)


async def test_a_drain_ends_calls(session, engine):
    """Those under way, those that wait, and those that come: a stop waits for none of them."""
    (log,) = await slow(session, engine)
    broker = broker_over(engine)
    verbs = broker.compaction
    calls = [asyncio.create_task(verbs.compact("t"))]
    await log.begun.wait()
    calls.append(asyncio.create_task(verbs.compact("t")))
    await asyncio.sleep(0)
    broker.drain()
    for call in (*calls, verbs.compact("t")):
        with pytest.raises(ShuttingDownError):
            await call
    await verbs.stop(0)


async def test_a_partition_that_is_unavailable_keeps_no_other_from_its_pass(session, engine):
    """The one who asked is told when the others are done."""
    logs = await slow(session, engine, partitions=3)
    verbs = CompactionVerbs(engine, TopicSettings(), lambda: NOW)
    logs[1].fails = True
    for log in logs:
        log.go_on.set()
    with pytest.raises(PartitionUnavailableError, match="no disk"):
        await verbs.compact("t")
    assert [log.passes for log in logs] == [1, 1, 1]
    await verbs.stop(0)


async def test_a_pass_that_fails_is_left_for_a_while(session, engine):
    """Else each look would begin it again."""
    logs = await slow(session, engine, partitions=2)
    logs[0].fails = True
    for log in logs:
        log.go_on.set()
    verbs = CompactionVerbs(engine, TopicSettings(compaction_look_ms=10), lambda: NOW)
    await verbs.start()
    async with asyncio.timeout(10):
        while logs[1].passes < 4:  # noqa: ASYNC110  nobody tells when it is done
            await asyncio.sleep(0)
    await verbs.stop(0)
    assert logs[0].passes == 1
