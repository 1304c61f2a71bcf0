"""The contract, retention: a log loses its oldest records by age, by number and by size, and by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from takhin.model import CleanupPolicy, CommittedOffset, TopicConfig
from takhin.storage.contract import Capability, Engine, PartitionLog
from takhin.testing.contract.harness import Harness, Life, needs
from takhin.testing.contract.records import NOW, batch, name_of, numbered, read_all, spec, timed

HOUR_MS = 3_600_000


class SetClock:
    """A clock that stands at `now` (ms)."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


def kept(**limits: Any) -> TopicConfig:
    """A config with these limits: fields of TopicConfig."""
    return TopicConfig(1 << 20, **limits)


class Retention(Harness):
    """Tests of `Engine.retain`, and of what engines do by themselves."""

    @pytest.fixture
    def set_clock(self) -> SetClock:
        """The clock of `clocked`."""
        return SetClock()

    @pytest_asyncio.fixture(loop_scope="function")
    async def clocked_life(self, tmp_path: Path, set_clock: SetClock) -> AsyncIterator[Life]:
        """The author's engine with a clock that the test sets, for a test that opens it again."""
        folder = tmp_path / "clocked"
        engine = self.clocked_engine(folder, set_clock)
        if engine is None:
            pytest.skip("clocked_engine() returns no engine with that clock")

        def again() -> Engine:
            made = self.clocked_engine(folder, set_clock)
            assert made is not None
            return made

        life = Life(engine, again, lambda: self.check(folder))
        await engine.open()
        yield life
        await life.engine.close()
        self.check(folder)

    @pytest.fixture
    def clocked(self, clocked_life: Life) -> Engine:
        """The author's engine with that clock, open."""
        return clocked_life.engine

    @needs(Capability.TRIM)
    async def test_without_limits_all_is_kept(self, clocked: Engine, set_clock: SetClock) -> None:
        """A topic keeps its records for ever unless it says otherwise."""
        (log,) = (await clocked.create_topic(spec("orders"))).partitions
        await log.append(numbered(10))
        set_clock.now += 10_000 * HOUR_MS
        await clocked.retain()
        assert (log.start_offset, log.end_offset) == (0, 10)

    @needs(Capability.TRIM)
    async def test_by_age(self, clocked: Engine, set_clock: SetClock) -> None:
        """Exactly the records older than retention.ms are gone, at every moment."""
        (log,) = (await clocked.create_topic(spec("orders", config=kept(retention_ms=1_000)))).partitions
        for n in range(0, 30_000, 3_000):
            await log.append(timed(*range(NOW + n, NOW + n + 3_000, 3)))
        for passed in (0, 999, 1_000, 1_001, 4_000, 4_002, 30_997):
            set_clock.now = NOW + passed
            await clocked.retain()
            assert log.start_offset == max(0, -(-(passed - 1_000) // 3))
        assert log.end_offset == 10_000
        assert [row[0] for row in await read_all(log)] == [9_999]
        set_clock.now += 1
        await clocked.retain()
        assert (log.start_offset, log.end_offset) == (10_000, 10_000)

    @needs(Capability.TRIM)
    async def test_by_age_out_of_order(self, clocked: Engine, set_clock: SetClock) -> None:
        """The log begins with the first record that is young enough; older ones behind it stay."""
        (log,) = (await clocked.create_topic(spec("orders", config=kept(retention_ms=1_000)))).partitions
        await log.append(timed(NOW - 2_000, NOW - 1_500, NOW - 500, NOW - 3_000, NOW))
        await clocked.retain()
        assert log.start_offset == 2
        set_clock.now += 501
        await clocked.retain()
        assert log.start_offset == 4

    @needs(Capability.TRIM)
    @pytest.mark.parametrize("first", [1, 3_000])
    async def test_a_timestamp_ahead_of_the_clock(
        self, clocked: Engine, set_clock: SetClock, first: int
    ) -> None:
        """Records stamped years ahead do not keep a log for ever: they count from when they were appended."""
        config = kept(retention_ms=24 * HOUR_MS)
        (log,) = (await clocked.create_topic(spec("orders", config=config))).partitions
        await log.append(timed(*[NOW + 90_000 * HOUR_MS] * first))
        set_clock.now += HOUR_MS
        await clocked.retain()
        assert log.start_offset == 0
        await log.append(timed(*[set_clock.now] * 3_000))
        set_clock.now += 26 * HOUR_MS
        await clocked.retain()  # a clock that is looked at only now may count from now on
        set_clock.now += 26 * HOUR_MS
        await clocked.retain()
        assert log.start_offset == first + 3_000

    @needs(Capability.TRIM)
    async def test_the_clock_was_ahead(self, clocked: Engine, set_clock: SetClock) -> None:
        """What was appended while the broker's own clock was years ahead counts from when that is over."""
        config = kept(retention_ms=24 * HOUR_MS)
        (log,) = (await clocked.create_topic(spec("orders", config=config))).partitions
        set_clock.now += 90_000 * HOUR_MS
        for _ in range(5):
            await log.append(timed(*[set_clock.now] * 1_500))
        set_clock.now = NOW
        await clocked.retain()
        set_clock.now += 23 * HOUR_MS
        await clocked.retain()
        assert log.start_offset == 0
        set_clock.now += 2 * HOUR_MS
        await clocked.retain()
        assert (log.start_offset, log.end_offset) == (7_500, 7_500)

    @needs(Capability.TRIM)
    async def test_the_clock_was_behind(self, clocked: Engine, set_clock: SetClock) -> None:
        """A broker whose clock was in 1970 for a while removes nothing that is young by its timestamp."""
        (log,) = (await clocked.create_topic(spec("orders", config=kept(retention_ms=HOUR_MS)))).partitions
        set_clock.now = 0
        for _ in range(3):
            await log.append(timed(*[NOW] * 1_500))
        await clocked.retain()
        set_clock.now = NOW + HOUR_MS
        await clocked.retain()
        assert log.start_offset == 0

    @needs(Capability.TRIM)
    async def test_by_number(self, clocked: Engine) -> None:
        """Of more than retention.records, the last ones stay."""
        topic = await clocked.create_topic(spec("orders", 2, kept(retention_records=100)))
        first, second = topic.partitions
        await first.append(numbered(100))
        await second.append(numbered(12_345))
        await clocked.retain()
        assert [(log.start_offset, log.end_offset) for log in (first, second)] == [(0, 100), (12_245, 12_345)]

    @needs(Capability.TRIM)
    async def test_by_size(self, clocked: Engine) -> None:
        """Of more than retention.bytes the last records stay, and not many fewer than there is room for."""
        limit = 2 << 20
        (log,) = (await clocked.create_topic(spec("orders", config=kept(retention_bytes=limit)))).partitions
        for _ in range(8):
            await log.append(batch(*[b"v" * 1_000] * 1_000))
            await clocked.retain()
            assert log.start_offset >= log.end_offset - limit // 1_000
        assert log.end_offset - log.start_offset > limit // 2_000

    @needs(Capability.TRIM)
    async def test_by_size_the_last_record_stays(self, clocked: Engine) -> None:
        """However small the limit, a log keeps its last record; a few bytes are not too much for 200 kB."""
        (tiny,) = (await clocked.create_topic(spec("tiny", config=kept(retention_bytes=1)))).partitions
        (small,) = (
            await clocked.create_topic(spec("small", config=kept(retention_bytes=200_000)))
        ).partitions
        for log in (tiny, small):
            await log.append(numbered(10))
        await clocked.retain()
        assert small.start_offset == 0
        for _ in range(20):
            await tiny.append(batch(b"v" * 100_000))
        await clocked.retain()
        assert [row[0] for row in await read_all(tiny)] == [29]

    @needs(Capability.TRIM)
    async def test_by_size_no_more_goes_than_is_too_much(self, clocked: Engine) -> None:
        """Large records before many small ones: only as many of the large ones go as make room."""
        limit = 4_000_000
        (log,) = (await clocked.create_topic(spec("orders", config=kept(retention_bytes=limit)))).partitions
        for _ in range(3):
            await log.append(batch(*[b"v" * 100_000] * 10))
        for _ in range(10):
            await log.append(batch(*[b"v"] * 5_000))
            await clocked.retain()
        assert log.start_offset <= 10

    @needs(Capability.TRIM)
    async def test_what_groups_commit_is_no_record(self, clocked: Engine) -> None:
        """Groups with long metadata take no room from the records; when they are deleted they give none."""
        config = kept(retention_bytes=500_000)
        (log,) = (await clocked.create_topic(spec("orders", config=config))).partitions
        await log.append(batch(*[b"v" * 1_000] * 300))
        metadata = "m" * 4_000
        committed = {name_of(log): CommittedOffset(0, metadata, NOW)}
        for n in range(300):
            await clocked.offsets.commit(f"group {n}", committed)
        await clocked.retain()
        assert log.start_offset == 0
        for n in range(300):
            await clocked.offsets.forget(f"group {n}")
        for _ in range(5):
            await log.append(batch(*[b"v" * 1_000] * 300))
        await clocked.retain()
        assert log.end_offset - 500 <= log.start_offset <= log.end_offset - 300

    @needs(Capability.TRIM)
    @pytest.mark.parametrize("behind", [1, 3_000])
    async def test_one_timestamp_far_ahead(self, clocked: Engine, set_clock: SetClock, behind: int) -> None:
        """A record from years ahead takes none with it that are young enough, wherever they are stored."""
        (log,) = (await clocked.create_topic(spec("orders", config=kept(retention_ms=60_000)))).partitions
        await log.append(timed(NOW, *[NOW + 30_000] * 1_200, NOW + 90_000 * HOUR_MS))
        await log.append(timed(*[NOW] * behind))
        set_clock.now += 61_000
        await clocked.retain()
        assert log.start_offset == 1
        set_clock.now += 30_000
        await clocked.retain()
        assert log.start_offset == log.end_offset

    @needs(Capability.TRIM)
    async def test_a_limit_that_is_taken_away(self, clocked: Engine) -> None:
        """Once a change of a topic is answered, nothing more goes by its former limits."""
        (log,) = (await clocked.create_topic(spec("orders"))).partitions
        for _ in range(20):
            await log.append(batch(*[b""] * 5_000))
        await clocked.alter_topic("orders", lambda _: spec("orders", config=kept(retention_records=1)))
        retained = asyncio.create_task(clocked.retain())
        async with asyncio.timeout(self.wait_seconds):
            while not log.start_offset:  # noqa: ASYNC110  nobody tells of a trim
                await asyncio.sleep(0)
        await clocked.alter_topic("orders", lambda _: spec("orders"))
        start = log.start_offset
        await retained
        await clocked.retain()
        assert log.start_offset == start

    @needs(Capability.TRIM)
    async def test_a_policy_that_keeps(self, clocked: Engine, set_clock: SetClock) -> None:
        """Without `delete` in cleanup.policy the limits mean nothing; they do as soon as it is there."""
        for policy in ((), (CleanupPolicy.COMPACT,)):
            name = f"orders{len(policy)}"
            limits = TopicConfig(1 << 20, retention_ms=1, retention_records=1, cleanup_policy=policy)
            (log,) = (await clocked.create_topic(spec(name, config=limits))).partitions
            await log.append(batch(b"a", b"b", keys=[b"1", b"2"]))
            set_clock.now += HOUR_MS
            await clocked.retain()
            assert log.start_offset == 0

    @needs(Capability.TRIM)
    async def test_what_all_groups_have_read(self, clocked: Engine) -> None:
        """With retention.consumed what every group has committed past goes, and all else by a limit."""
        config = kept(retention_consumed=True, retention_records=100)
        (log,) = (await clocked.create_topic(spec("orders", config=config))).partitions
        await log.append(numbered(50))
        await clocked.retain()
        starts = [log.start_offset]
        for group_id, offset in (("a", 10), ("b", 20), ("a", 30), ("a", 40)):
            await clocked.offsets.commit(group_id, {name_of(log): CommittedOffset(offset, "", NOW)})
            await clocked.retain()
            starts.append(log.start_offset)
        await clocked.offsets.forget("b")
        await clocked.retain()
        assert [*starts, log.start_offset] == [0, 10, 10, 20, 20, 40]
        await log.append(numbered(200))
        await clocked.retain()
        assert log.start_offset == 150

    @needs(Capability.TRIM)
    async def test_what_groups_committed_stays(self, clocked: Engine) -> None:
        """A committed offset below the start is kept: the reader is told that the log begins later."""
        (log,) = (await clocked.create_topic(spec("orders", config=kept(retention_records=5)))).partitions
        await log.append(numbered(20))
        committed = {name_of(log): CommittedOffset(3, "", NOW)}
        await clocked.offsets.commit("billing", committed)
        await clocked.retain()
        assert log.start_offset == 15
        assert clocked.offsets.of("billing") == committed

    @needs(Capability.TRIM)
    async def test_it_happens_by_itself(self, clocked: Engine, set_clock: SetClock) -> None:
        """Nobody has to ask: an engine removes what is too old while it is open."""
        (log,) = (await clocked.create_topic(spec("orders", config=kept(retention_ms=1_000)))).partitions
        await log.append(numbered(10))
        set_clock.now += HOUR_MS
        await self.gone(log, 10)

    @needs(Capability.TRIM)
    async def test_many_topics_take_turns(self, clocked: Engine, set_clock: SetClock) -> None:
        """Each of many partitions gets its turn, while one of them has much to remove."""
        config = kept(retention_ms=1_000)
        (large,) = (await clocked.create_topic(spec("large", config=config))).partitions
        others = (await clocked.create_topic(spec("others", 30, config))).partitions
        for _ in range(5):
            await large.append(timed(*[NOW] * 10_000))
        for log in others:
            await log.append(numbered(3))
        set_clock.now += HOUR_MS
        await asyncio.gather(*(self.gone(log, 3) for log in others), self.gone(large, 50_000))

    @needs(Capability.DURABLE, Capability.TRIM)
    async def test_after_a_restart(self, clocked_life: Life, set_clock: SetClock) -> None:
        """What was removed stays so, and the age of the rest is known: also of what was stamped ahead."""
        config = kept(retention_ms=24 * HOUR_MS)
        clocked = clocked_life.engine
        (log,) = (await clocked.create_topic(spec("orders", config=config))).partitions
        await log.append(timed(NOW))
        set_clock.now += HOUR_MS
        await log.append(timed(set_clock.now, *[NOW + 90_000 * HOUR_MS] * 10))
        set_clock.now += 24 * HOUR_MS
        await clocked.retain()
        assert log.start_offset == 1
        for _ in range(3):
            clocked = await clocked_life.reopen()
            await clocked.retain()
            set_clock.now += 13 * HOUR_MS
        await clocked.retain()
        log = clocked_life.log("orders")
        assert (log.start_offset, log.end_offset) == (12, 12)

    async def gone(self, log: PartitionLog, offset: int) -> None:
        """Return when the log begins at `offset`."""
        async with asyncio.timeout(self.wait_seconds):
            while log.start_offset < offset:  # noqa: ASYNC110  nobody tells of a trim
                await asyncio.sleep(0.01)
