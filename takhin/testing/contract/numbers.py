"""The contract, what an engine says of itself: sizes, counts, capabilities, troubles."""

from __future__ import annotations

import asyncio
import random

from takhin.model import CommittedOffset, PartitionState, TopicConfig
from takhin.storage.contract import Capability, Engine, PartitionLog
from takhin.testing.contract.harness import Harness, needs
from takhin.testing.contract.records import NOW, batch, name_of, numbered, read_all, spec, timed

MEBIBYTE = 1 << 20


class Numbers(Harness):
    """Tests of `size_bytes` and what else a log says of itself, `stats`, `capabilities` and `troubles`."""

    async def test_the_size_of_a_log_grows_with_its_records(self, log: PartitionLog) -> None:
        """Two mebibytes that no compression makes smaller take about as much space, at least."""
        empty = log.size_bytes
        chance = random.Random(14)  # noqa: S311  it only has to be incompressible
        await log.append(batch(*(chance.randbytes(64 << 10) for _ in range(16))))
        half = log.size_bytes
        await log.append(batch(*(chance.randbytes(64 << 10) for _ in range(16))))
        assert [type(size) for size in (empty, half)] == [int, int]
        assert empty >= 0
        assert half >= MEBIBYTE * 9 // 10
        assert log.size_bytes >= 2 * MEBIBYTE * 9 // 10

    async def test_a_log_has_a_size_of_its_own(self, engine: Engine) -> None:
        """What one partition takes in is not counted for another."""
        full, empty = (await engine.create_topic(spec("orders", 2))).partitions
        before = empty.size_bytes
        await full.append(batch(*[bytes(1_000)] * 1_000))
        assert empty.size_bytes == before

    async def test_the_size_of_a_log_that_nobody_uses(self, engine: Engine) -> None:
        """Asking for the size of many logs, used or not, is answered for each."""
        logs = (await engine.create_topic(spec("orders", 8))).partitions
        for log in logs[::2]:
            await log.append(numbered(10))
        assert all(log.size_bytes >= 0 for log in logs)

    async def test_what_a_log_says_of_its_records(self, engine: Engine) -> None:
        """The count, and the timestamps of the first and the last record, whichever are the extremes."""
        log, empty = (await engine.create_topic(spec("orders", 2))).partitions
        assert _ends(log) == (0, -1, -1)
        await log.append(timed(NOW + 5))
        assert _ends(log) == (1, NOW + 5, NOW + 5)
        await asyncio.gather(log.append(timed(NOW + 9, NOW)), log.append(timed(0, 7, NOW + 3)))
        assert _ends(log) == (6, NOW + 5, NOW + 3)
        assert _ends(empty) == (0, -1, -1)

    @needs(Capability.TRIM)
    async def test_what_a_trimmed_log_says_of_its_records(self, log: PartitionLog) -> None:
        """They are those of the records that are left, down to none, and then of new ones."""
        await log.append(timed(*range(10)))
        await log.trim(4)
        assert _ends(log) == (6, 4, 9)
        await log.trim(9)
        assert _ends(log) == (1, 9, 9)
        await log.trim(10)
        assert _ends(log) == (0, -1, -1)
        await log.append(timed(20, 30))
        assert _ends(log) == (2, 20, 30)

    @needs(Capability.TRIM)
    async def test_the_timestamp_of_the_next_record(self, log: PartitionLog) -> None:
        """It is that of the first record at or after an offset, whichever are before it and behind it."""
        assert await log.timestamp_from(0) == -1
        await log.append(timed(5, 3, 9))
        await log.append(timed(1, 7))
        assert [await log.timestamp_from(offset) for offset in range(6)] == [5, 3, 9, 1, 7, -1]
        await log.trim(2)
        assert [await log.timestamp_from(offset) for offset in (0, 2, 3)] == [9, 9, 1]
        await log.trim(5)
        assert [await log.timestamp_from(offset) for offset in (0, 5)] == [-1, -1]

    @needs(Capability.COMPACT)
    async def test_the_timestamp_of_the_next_record_that_is_left(self, log: PartitionLog) -> None:
        """Offsets whose record was compacted away are passed over."""
        for n in range(4):
            await log.append(batch(b"v", keys=[b"k"], timestamps=[10 * n]))
        await log.compact(TopicConfig(1), NOW)
        left = min(row[0] for row in await read_all(log))
        assert left > 0
        assert await log.timestamp_from(0) == 10 * left

    @needs(Capability.TRIM, Capability.COMPACT)
    async def test_what_is_known_of_the_next_record(self, engine: Engine, log: PartitionLog) -> None:
        """Where groups have committed it is known or not, but never wrong, whatever happens to the log."""

        async def check() -> None:
            for group_id in engine.offsets.groups():
                offset = max(engine.offsets.of(group_id)[name_of(log)].offset, log.start_offset)
                assert log.known_timestamp(offset) in (None, await log.timestamp_from(offset))

        for n in range(12):
            committed = CommittedOffset(log.end_offset, "", NOW)
            await engine.offsets.commit(f"g{n}", {name_of(log): committed})
            await check()
            times = [100 + (7 * n) % 12, 10 * n]
            await log.append(batch(b"v", b"v", keys=[b"k%d" % (n % 4), b"k"], timestamps=times))
            await check()
        await log.trim(3)
        await check()
        await log.compact(TopicConfig(1), NOW)
        await check()
        for n in range(12):
            await engine.offsets.commit(f"h{n}", {name_of(log): CommittedOffset(2 * n + 1, "", NOW)})
        await check()
        await log.trim(20)
        await check()

    async def test_stats_are_names_and_numbers(self, engine: Engine) -> None:
        """Every count is an int under a lower-case name, and the queued bytes are among them."""
        log = (await engine.create_topic(spec("orders", 3))).partitions[0]
        await log.append(numbered(10))
        stats = engine.stats()
        assert all(name == name.lower() and name.isidentifier() for name in stats)
        assert all(type(count) is int for count in stats.values())
        assert stats["queued_bytes"] >= 0

    async def test_nothing_is_queued_once_all_is_answered(self, engine: Engine) -> None:
        """`queued_bytes` counts what waits for its commit, and no more than that."""
        log = (await engine.create_topic(spec("orders"))).partitions[0]
        pending = [log.append(batch(bytes(1_000))) for _ in range(10)]
        assert 0 <= engine.stats()["queued_bytes"] <= 10 * 2_000
        for appended in pending:
            await appended
        await log.append(numbered(1))
        assert engine.stats()["queued_bytes"] == 0

    async def test_what_has_landed_is_counted_by_topic(self, engine: Engine) -> None:
        """A topic's meter counts the records and bytes of batches that have landed, in all its partitions.

        It goes with its topic: another topic of that name begins at 0.
        """
        topic = await engine.create_topic(spec("orders", 2))
        batches = [numbered(3), numbered(4)]
        for log, records in zip(topic.partitions, batches, strict=True):
            await log.append(records)
        meter = engine.meters.topic("orders")
        assert meter.appended_records == 7
        assert meter.appended_bytes == sum(records.size_bytes for records in batches)
        await engine.delete_topic("orders")
        await engine.create_topic(spec("orders"))
        assert engine.meters.topic("orders").appended_records == 0

    async def test_a_log_in_use_is_open(self, engine: Engine) -> None:
        """The state of a log that has just taken a batch says so."""
        log = (await engine.create_topic(spec("orders"))).partitions[0]
        await log.append(numbered(1))
        assert log.state is PartitionState.OPEN

    async def test_capabilities_are_known_from_the_start(self, unopened: Engine) -> None:
        """They are a set of `Capability`, and the same before and after the engine is opened."""
        before = unopened.capabilities
        assert isinstance(before, frozenset)
        assert all(isinstance(capability, Capability) for capability in before)
        await unopened.open()
        assert unopened.capabilities == before
        await unopened.close()

    async def test_a_sound_engine_has_no_troubles(self, engine: Engine) -> None:
        """Nothing is wrong after topics came and went and records were taken in."""
        log = (await engine.create_topic(spec("orders"))).partitions[0]
        await log.append(numbered(10))
        await engine.delete_topic("orders")
        assert list(engine.troubles) == []


def _ends(log: PartitionLog) -> tuple[int, int, int]:
    return log.record_count, log.first_timestamp, log.last_timestamp
