"""The contract, growth: whoever waits for a log to grow, or to end, wakes up then and no sooner."""

from __future__ import annotations

import asyncio

import pytest

from takhin.errors import EndOffsetMismatchError
from takhin.storage.contract import Capability, Engine, PartitionLog
from takhin.testing.contract.harness import Harness, needs, turns
from takhin.testing.contract.records import ALL, Stored, as_expected, as_stored, numbered, spec, under


async def waiter(log: PartitionLog, end: int) -> asyncio.Task[None]:
    """A task that waits until the log has grown past `end`, and is waiting by now."""
    waiting = asyncio.create_task(log.grown(end))
    await turns()
    assert not waiting.done()
    return waiting


class Growth(Harness):
    """Tests of `PartitionLog.grown`."""

    async def woken(self, *waiting: asyncio.Task[None]) -> None:
        """Fail unless all of these tasks return."""
        async with asyncio.timeout(self.wait_seconds):
            await asyncio.gather(*waiting)

    async def test_a_log_that_has_grown_keeps_nobody_waiting(self, log: PartitionLog) -> None:
        """Whatever lies below the end of the log, `grown` returns at once."""
        await log.append(numbered(3))
        async with asyncio.timeout(self.wait_seconds):
            for end in (-1, 0, 2):
                await log.grown(end)

    async def test_an_append_wakes_who_waits(self, log: PartitionLog) -> None:
        """When a waiter goes on, the end has moved, and what moved it can be read."""

        async def wait_and_read() -> list[Stored]:
            await log.grown(0)
            return as_stored(await log.read(0, **ALL))

        waiting = asyncio.create_task(wait_and_read())
        await turns()
        assert not waiting.done()
        sent = numbered(2)
        assert (await log.append(sent)).offset == 0
        async with asyncio.timeout(self.wait_seconds):
            assert await waiting == as_expected(sent, 0)

    async def test_all_who_wait_are_woken(self, log: PartitionLog) -> None:
        """Two who wait for the same end, and one who began later, go on after one append."""
        waiting = [await waiter(log, 0), await waiter(log, 0)]
        appended = log.append(numbered(1))
        waiting.append(asyncio.create_task(log.grown(0)))
        await appended
        await self.woken(*waiting)

    async def test_each_waits_for_the_end_that_it_asked_for(self, log: PartitionLog) -> None:
        """An append that does not reach past `end` leaves the waiter waiting."""
        near, far = await waiter(log, 0), await waiter(log, 3)
        await log.append(numbered(3))
        await self.woken(near)
        await turns()
        assert not far.done()
        await log.append(numbered(1))
        await self.woken(far)

    async def test_a_log_wakes_its_own_waiters_only(self, engine: Engine) -> None:
        """What another partition or another topic takes in wakes nobody here."""
        quiet, busy = (await engine.create_topic(spec("orders", 2))).partitions
        other = (await engine.create_topic(spec("refunds"))).partitions[0]
        waiting = await waiter(quiet, 0)
        await asyncio.gather(busy.append(numbered(3)), other.append(numbered(3)))
        await engine.delete_topic("refunds")
        await turns()
        assert not waiting.done()
        await quiet.append(numbered(1))
        await self.woken(waiting)

    async def test_a_consumer_that_follows_misses_nothing(self, log: PartitionLog) -> None:
        """Reading on from `next_offset` and waiting at the end visits every record once."""

        async def follow(count: int) -> list[Stored]:
            found: list[Stored] = []
            offset = 0
            while len(found) < count:
                await log.grown(offset)
                page = await log.read(offset, max_bytes=1 << 20, max_records=4)
                found += as_stored(page)
                offset = page.next_offset
            return found

        following = asyncio.create_task(follow(100))
        for n in range(0, 100, 5):
            await log.append(numbered(5, n))
            await asyncio.sleep(0)
        async with asyncio.timeout(self.wait_seconds):
            assert await following == as_expected(numbered(100), 0)

    async def test_a_delete_wakes_who_waits(self, engine: Engine) -> None:
        """Each log of the topic is closed by then, and `grown` raises nothing."""
        topic = await engine.create_topic(spec("orders", 3))
        waiting = [await waiter(log, 0) for log in topic.partitions]
        await engine.delete_topic("orders")
        await self.woken(*waiting)
        assert all(log.closed for log in topic.partitions)

    async def test_a_close_wakes_who_waits(self, unopened: Engine) -> None:
        """Nobody waits for the logs of a closed engine any more."""
        await unopened.open()
        topics = [await unopened.create_topic(spec(name, 2)) for name in ("orders", "refunds")]
        logs = [log for topic in topics for log in topic.partitions]
        waiting = [await waiter(log, 0) for log in logs]
        await unopened.close()
        await self.woken(*waiting)
        assert all(log.closed for log in logs)

    async def test_a_closed_log_keeps_nobody_waiting(self, engine: Engine, log: PartitionLog) -> None:
        """`grown` of a deleted topic's log returns at once, for any end."""
        await log.append(numbered(1))
        await engine.delete_topic("orders")
        async with asyncio.timeout(self.wait_seconds):
            for end in (0, 1, 1_000):
                await log.grown(end)

    async def test_a_cancelled_waiter_leaves_nothing(self, log: PartitionLog) -> None:
        """No task of it goes on, those who wait beside it are woken, and the log takes records."""
        staying = await waiter(log, 0)
        before = asyncio.all_tasks()
        leaving = [await waiter(log, 0) for _ in range(10)]
        for waiting in leaving:
            waiting.cancel()
        await asyncio.wait(leaving)
        assert all(waiting.cancelled() for waiting in leaving)
        await turns()
        assert asyncio.all_tasks() == before
        assert not staying.done()
        assert (await log.append(numbered(1))).offset == 0
        await self.woken(staying)

    @needs(Capability.EXPECTED_OFFSET)
    async def test_a_refused_append_wakes_nobody(self, log: PartitionLog) -> None:
        """The log has not grown; the next append that lands wakes the waiter."""
        waiting = await waiter(log, 0)
        with pytest.raises(EndOffsetMismatchError):
            await log.append(under(numbered(1), expected_offset=7))
        await turns()
        assert not waiting.done()
        await log.append(under(numbered(1), expected_offset=0))
        await self.woken(waiting)

    @needs(Capability.SEQUENCES)
    async def test_a_repeat_wakes_nobody(self, log: PartitionLog) -> None:
        """A batch that is sent again is not stored again, so nothing has come that a consumer waits for."""
        await log.append(under(numbered(1), b"p"))
        waiting = await waiter(log, 1)
        assert (await log.append(under(numbered(1), b"p"))).duplicate
        await turns()
        assert not waiting.done()
        await log.append(under(numbered(1), b"p", 1))
        await self.woken(waiting)

    @needs(Capability.TRIM)
    async def test_a_trim_wakes_nobody(self, log: PartitionLog) -> None:
        """Only the start has moved."""
        await log.append(numbered(3))
        waiting = await waiter(log, 3)
        await log.trim(3)
        await turns()
        assert not waiting.done()
        await log.append(numbered(1))
        await self.woken(waiting)
