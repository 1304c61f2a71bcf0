"""The contract, durability: what an engine that is DURABLE finds again after it was closed.

What survives a crash is for an engine's own tests: how one is brought about differs from engine to engine.
"""

from __future__ import annotations

import asyncio

import pytest

from takhin.errors import OffsetOutOfRangeError
from takhin.model import CommittedOffset, Header, TimestampType, TopicConfig, TopicPartition
from takhin.storage.conditions import BATCHES_REMEMBERED
from takhin.storage.contract import Capability
from takhin.testing.contract.harness import Harness, Life, needs
from takhin.testing.contract.records import (
    ALL,
    NOW,
    as_expected,
    batch,
    changed,
    numbered,
    read_all,
    spec,
    timed,
    under,
)

DURABLE = Capability.DURABLE


class Durability(Harness):
    """Tests of an engine that is closed and opened again."""

    @needs(DURABLE)
    async def test_records_are_there_again(self, life: Life) -> None:
        """Every record comes back byte for byte, at its offset, and the log goes on behind it."""
        logs = (await life.engine.create_topic(spec("orders", 2))).partitions
        sent = batch(
            *(None, b"", bytes(range(256)), b"x" * (1 << 20)),
            keys=[None, b"", b"\x00", b"k"],
            timestamps=[NOW, 0, (1 << 63) - 1, 5],
            headers={2: [Header("ключ", b"\xff"), Header("a", b""), Header("ключ", b"2")]},
        )
        await asyncio.gather(logs[0].append(sent), logs[1].append(numbered(3_000)))
        await life.reopen()
        first, second = life.log("orders", 0), life.log("orders", 1)
        assert [(log.start_offset, log.end_offset) for log in (first, second)] == [(0, 4), (0, 3_000)]
        assert await read_all(first) == as_expected(sent, 0)
        assert await read_all(second) == as_expected(numbered(3_000), 0)
        assert [log.record_count for log in (first, second)] == [4, 3_000]
        assert [(log.first_timestamp, log.last_timestamp) for log in (first, second)] == [
            (NOW, 5),
            (NOW, NOW),
        ]
        assert (await first.append(numbered(1))).offset == 4

    @needs(DURABLE)
    async def test_topics_are_there_again(self, life: Life) -> None:
        """Names, ids, configs and partitions come back as they were; deleted topics do not."""
        for n, name in enumerate(("orders", "x" * 249, "...")):
            config = TopicConfig(7 + n, TimestampType.LOG_APPEND_TIME)
            await life.engine.create_topic(spec(name, n + 1, config))
        await life.engine.create_topic(spec("gone"))
        await life.engine.delete_topic("gone")

        def facts() -> object:
            return {
                topic.name: (topic.topic_id, topic.config, [log.incarnation_id for log in topic.partitions])
                for topic in life.engine.topics.values()
            }

        before = facts()
        await life.reopen()
        assert facts() == before

    @needs(DURABLE)
    async def test_changes_of_a_topic_are_there_again(self, life: Life) -> None:
        """The new config, the new partitions and what they hold come back, the old ones with their ids."""
        former = await life.engine.create_topic(spec("orders", 2))
        await former.partitions[1].append(numbered(3))
        config = TopicConfig(7, TimestampType.LOG_APPEND_TIME)
        altered = await changed(life.engine, spec("orders", 4, config))
        await altered.partitions[3].append(numbered(5))
        incarnations = [log.incarnation_id for log in altered.partitions]
        for _ in range(2):
            topic = (await life.reopen()).topics["orders"]
            assert (topic.topic_id, topic.config) == (former.topic_id, config)
            assert [log.incarnation_id for log in topic.partitions] == incarnations
            assert [log.end_offset for log in topic.partitions] == [0, 3, 0, 5]
            assert await read_all(topic.partitions[3]) == as_expected(numbered(5), 0)
        assert (await life.log("orders", 2).append(numbered(1))).offset == 0

    @needs(DURABLE)
    async def test_committed_offsets_are_there_again(self, life: Life) -> None:
        """Committed offsets come back with metadata and time; forgotten ones and deleted topics' do not."""
        for name in ("orders", "refunds", "gone"):
            await life.engine.create_topic(spec(name, 2))
        offsets = life.engine.offsets
        billing = {
            TopicPartition("orders", 1): CommittedOffset(0, "é\n🦆", NOW),
            TopicPartition("refunds", 0): CommittedOffset(0, "", NOW + 1),
        }
        await offsets.commit("billing", billing | {TopicPartition("gone", 0): CommittedOffset(0, "", NOW)})
        await offsets.commit("it's", {TopicPartition("orders", 0): CommittedOffset(0, "", NOW)})
        for group_id in ("forgotten", "late"):
            await offsets.commit(group_id, {TopicPartition("orders", 0): CommittedOffset(0, "", NOW)})
        await offsets.forget("forgotten")
        await life.engine.delete_topic("gone")
        offsets = (await life.reopen()).offsets
        assert list(offsets.groups()) == ["billing", "it's", "late"]
        assert dict(offsets.of("billing")) == billing
        await offsets.forget("late")
        assert list((await life.reopen()).offsets.groups()) == ["billing", "it's"]

    @needs(DURABLE)
    async def test_a_name_used_again_has_no_offsets_after_all(self, life: Life) -> None:
        """What was committed under a former topic of that name does not come back."""
        for _ in range(2):
            await life.engine.create_topic(spec("orders"))
            assert list(life.engine.offsets.groups()) == []
            committed = {TopicPartition("orders", 0): CommittedOffset(0, "", NOW)}
            await life.engine.offsets.commit("billing", committed)
            await life.engine.delete_topic("orders")
        await life.engine.create_topic(spec("orders"))
        assert list((await life.reopen()).offsets.groups()) == []

    @needs(DURABLE, Capability.TRIM)
    async def test_no_offset_is_given_twice(self, life: Life) -> None:
        """A log that was trimmed empty goes on counting, however often it is opened again."""
        await life.engine.create_topic(spec("orders"))
        for n in range(3):
            log = life.log("orders")
            assert (log.start_offset, log.end_offset) == (5 * n, 5 * n)
            assert (await log.append(numbered(5))).offset == 5 * n
            await log.trim(5 * n + 5)
            await life.reopen()

    @needs(DURABLE, Capability.TRIM)
    async def test_a_trimmed_log_begins_where_it_did(self, life: Life) -> None:
        """The start survives; offsets below it stay refused."""
        log = (await life.engine.create_topic(spec("orders"))).partitions[0]
        await log.append(numbered(10))
        await log.trim(4)
        await life.reopen()
        log = life.log("orders")
        assert (log.start_offset, log.end_offset) == (4, 10)
        assert await read_all(log) == as_expected(numbered(10), 0)[4:]
        with pytest.raises(OffsetOutOfRangeError):
            await log.read(3, **ALL)

    @needs(DURABLE)
    async def test_search_by_time_goes_on(self, life: Life) -> None:
        """Times from before and from after are found, also where a later one is not the highest."""
        await (await life.engine.create_topic(spec("orders"))).partitions[0].append(timed(100, 900))
        await life.reopen()
        log = life.log("orders")
        await log.append(timed(200))
        await log.append(timed(1_000))
        found = [(await log.offset_for_time(at)).offset for at in (0, 101, 900, 901, 1_000, 1_001)]
        assert found == [0, 1, 1, 3, 3, 4]

    @needs(DURABLE, Capability.SEQUENCES)
    async def test_producers_are_remembered(self, life: Life) -> None:
        """As many repeats are known as before, and so is the sequence that comes next."""
        log = (await life.engine.create_topic(spec("orders"))).partitions[0]
        sent = [under(numbered(3), b"p", 3 * n) for n in range(BATCHES_REMEMBERED + 2)]
        landed = [await log.append(one) for one in sent]
        await life.reopen()
        log = life.log("orders")
        for one, first in list(zip(sent, landed, strict=True))[-BATCHES_REMEMBERED:]:
            assert await log.append(one) == first._replace(duplicate=True)
        assert (await log.append(under(numbered(1), b"p", 3 * len(sent)))).offset == 3 * len(sent)
