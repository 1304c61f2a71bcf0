"""Topics are compacted when that is asked for, and by themselves when their configs say so."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.support import NOW, batch, create, produce, rows
from takhin.broker.compaction import CompactionVerbs
from takhin.errors import InvalidArgumentError, InvalidRecordError, UnknownTopicError
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

    def __init__(self) -> None:
        super().__init__("t", 0, 10, lambda: NOW)
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.passes = 0

    async def compact(self, config, now):
        self.passes += 1
        self.begun.set()
        await self.go_on.wait()
        return self.passes


async def test_calls_that_wait_share_a_pass(session, engine):
    """Who asks during a pass gets the next one; it is one for all, and goes on when a caller has gone."""
    await create(session, **COMPACT)
    log = SlowLog()
    engine.topics = {"t": replace(engine.topics["t"], partitions=(log,))}
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
