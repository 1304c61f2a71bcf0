"""The contract, trims: the start of a log moves up, its end and its offsets never go back."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from takhin.errors import OffsetOutOfRangeError, UnknownTopicError
from takhin.model import Header
from takhin.storage.contract import Capability, Engine, PartitionLog
from takhin.testing.contract.harness import Harness, needs
from takhin.testing.contract.records import ALL, as_expected, as_stored, batch, numbered, read_all, spec


class Trims(Harness):
    """Tests of `PartitionLog.trim`."""

    @needs(Capability.TRIM)
    async def test_trim_within_a_batch(self, log: PartitionLog) -> None:
        """Records below the new start are gone with their headers; the others stay as they were."""
        sent = batch(*[b"v"] * 10, headers={n: [Header("n", b"%d" % n)] for n in range(10)})
        await log.append(sent)
        assert await log.trim(4) == 4
        assert (log.start_offset, log.end_offset) == (4, 10)
        assert await read_all(log) == as_expected(sent, 0)[4:]

    @needs(Capability.TRIM)
    async def test_reading_below_the_start_is_refused(self, log: PartitionLog) -> None:
        """An offset that was trimmed is out of range, and the error says where the log begins now."""
        await log.append(numbered(10))
        await log.trim(4)
        with pytest.raises(OffsetOutOfRangeError) as refused:
            await log.read(3, **ALL)
        assert (refused.value.details["beginning_offset"], refused.value.details["end_offset"]) == ("4", "10")

    @needs(Capability.TRIM)
    async def test_trim_of_everything(self, log: PartitionLog) -> None:
        """A log trimmed to its end is empty but goes on counting: no offset is given twice."""
        await log.append(numbered(10))
        await log.trim(10)
        assert (log.start_offset, log.end_offset) == (10, 10)
        assert as_stored(await log.read(10, **ALL)) == []
        assert (await log.append(numbered(2))).offset == 10
        assert [row[0] for row in await read_all(log)] == [10, 11]

    @needs(Capability.TRIM)
    @pytest.mark.parametrize("offset", [6, 1_000_000])
    async def test_trim_past_the_end_is_refused(self, log: PartitionLog, offset: int) -> None:
        """A trim past the end is refused and leaves every record."""
        await log.append(numbered(5))
        with pytest.raises(OffsetOutOfRangeError):
            await log.trim(offset)
        assert (log.start_offset, log.end_offset) == (0, 5)
        assert len(await read_all(log)) == 5

    @needs(Capability.TRIM)
    @pytest.mark.parametrize("offset", [3, 2, 0, -1])
    async def test_trim_to_a_lower_offset_changes_nothing(self, log: PartitionLog, offset: int) -> None:
        """The start never moves down: a trim at or below it is done already."""
        await log.append(numbered(5))
        await log.trim(3)
        assert await log.trim(offset) == 3
        assert (log.start_offset, log.end_offset) == (3, 5)
        assert len(await read_all(log)) == 2

    @needs(Capability.TRIM)
    async def test_trims_and_appends_pending_together(self, log: PartitionLog) -> None:
        """Trims between appends that are under way take effect each, and lose no record above them."""
        await log.append(numbered(10))
        await asyncio.gather(
            log.append(numbered(5, 10)), log.trim(8), log.append(numbered(5, 15)), log.trim(9), log.trim(4)
        )
        assert (log.start_offset, log.end_offset) == (9, 20)
        assert [row[3] for row in await read_all(log)] == [b"%d" % n for n in range(9, 20)]

    @needs(Capability.TRIM)
    async def test_trim_of_many_records(self, log: PartitionLog) -> None:
        """Thousands of records are trimmed as exactly as a few."""
        for n in range(0, 20_000, 5_000):
            await log.append(numbered(5_000, n))
        await log.trim(12_345)
        assert [row[3] for row in await read_all(log)] == [b"%d" % n for n in range(12_345, 20_000)]

    @needs(Capability.TRIM)
    async def test_reads_beside_trims_skip_nothing(self, log: PartitionLog) -> None:
        """During a trim, a read of an offset returns that very record, headers too, or is refused."""
        for _ in range(100):
            headers = {n: [Header("n", b"%d" % n)] for n in range(300)}
            first = (await log.append(batch(*[b"v"] * 300, headers=headers))).offset
            trim = asyncio.create_task(log.trim(first + 250))
            while not trim.done():
                offset = log.start_offset
                found = as_stored(await log.read(offset, max_bytes=1 << 20, max_records=100))
                assert [row[0] for row in found] == [*range(offset, offset + len(found))]
                assert found
                assert all(headers for *_, headers in found)
                await asyncio.sleep(0)
            await trim

    @needs(Capability.TRIM)
    @pytest.mark.parametrize("turns", [0, 1, 3, 10, 30])
    async def test_delete_under_a_trim(self, engine: Engine, turns: int) -> None:
        """A topic is deleted whether or not its records are just being trimmed; the trim ends as well."""
        for _ in range(3):
            log = (await engine.create_topic(spec("orders"))).partitions[0]
            for n in range(0, 20_000, 5_000):
                await log.append(numbered(5_000, n))
            trim = asyncio.create_task(log.trim(20_000))
            for _ in range(turns):
                await asyncio.sleep(0)
            await engine.delete_topic("orders")
            with suppress(UnknownTopicError):
                await trim
            assert log.closed
