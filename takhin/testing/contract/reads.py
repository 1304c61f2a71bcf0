"""The contract, reads: where they may begin, where they stop, and search by time."""

from __future__ import annotations

import pytest

from takhin.errors import OffsetOutOfRangeError
from takhin.model import INT64_MAX, Header
from takhin.sizes import HEADER_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES
from takhin.storage.contract import Capability, Engine, PartitionLog
from takhin.testing.contract.harness import Harness, needs
from takhin.testing.contract.records import (
    ALL,
    Stored,
    as_expected,
    as_stored,
    batch,
    numbered,
    read_all,
    spec,
    timed,
)


async def count_read(log: PartitionLog, offset: int = 0, **limits: int) -> int:
    """How many records one read returns; they are checked to be the ones at and after `offset`."""
    rows = (await log.read(offset, **(ALL | limits))).rows
    assert [row[0] for row in rows] == list(range(offset, offset + len(rows)))
    return len(rows)


class Reads(Harness):
    """Tests of `PartitionLog.read` and `offset_for_time`."""

    async def test_reading_at_the_end_finds_nothing(self, log: PartitionLog) -> None:
        """The end of a log may be read, and is empty; so is the beginning of an empty log."""
        assert await count_read(log) == 0
        await log.append(numbered(3))
        assert await count_read(log, 3) == 0

    @pytest.mark.parametrize("offset", [-1, -2, 4, 1_000_000, (1 << 63) - 1])
    async def test_reading_outside_the_log_is_refused(self, log: PartitionLog, offset: int) -> None:
        """An offset below the start or above the end is refused with both ends, never moved silently."""
        await log.append(numbered(3))
        with pytest.raises(OffsetOutOfRangeError) as refused:
            await log.read(offset, max_bytes=100, max_records=1)
        assert refused.value.details == {
            "topic": "orders",
            "partition": "0",
            "offset": str(offset),
            "beginning_offset": "0",
            "end_offset": "3",
        }

    async def test_reading_from_the_middle(self, log: PartitionLog) -> None:
        """A read begins at the very offset that was asked for, within a batch as well as at its start."""
        first, second = numbered(5), numbered(5, 5)
        await log.append(first)
        await log.append(second)
        expected = as_expected(first, 0) + as_expected(second, 5)
        for offset in range(10):
            assert as_stored(await log.read(offset, **ALL)) == expected[offset:]

    @pytest.mark.parametrize("max_records", [1, 2, 9, 10, 11])
    async def test_max_records(self, log: PartitionLog, max_records: int) -> None:
        """A read returns as many records as are asked for, or all there are."""
        await log.append(numbered(10))
        assert await count_read(log, max_records=max_records) == min(max_records, 10)
        assert await count_read(log, 4, max_records=max_records) == min(max_records, 6)

    @pytest.mark.parametrize(("spare", "count"), [(-1, 1), (0, 2), (1, 2), (99, 2), (100, 3), (1_000, 3)])
    async def test_max_bytes_is_exact(self, log: PartitionLog, spare: int, count: int) -> None:
        """A record whose last byte fits is returned, one that is a byte too large waits for the next read."""
        value, key = b"v" * (60 - RECORD_OVERHEAD_BYTES - HEADER_OVERHEAD_BYTES), b"k" * 30
        header = Header("é", b"12345678")  # two bytes of UTF-8 and eight of value
        await log.append(batch(*[value] * 3, keys=[key] * 3, headers={n: [header] for n in range(3)}))
        assert await count_read(log, max_bytes=200 + spare) == count

    @pytest.mark.parametrize("max_bytes", [0, 1, 100])
    async def test_a_read_returns_at_least_one_record(self, log: PartitionLog, max_bytes: int) -> None:
        """A record above max_bytes is returned alone, so that nobody gets stuck in front of it."""
        await log.append(batch(b"x" * 10_000, b"y" * 10_000))
        assert await count_read(log, max_bytes=max_bytes) == 1
        assert await count_read(log, 1, max_bytes=max_bytes) == 1

    async def test_a_large_record_behind_small_ones_waits(self, log: PartitionLog) -> None:
        """The first record above the limit ends a read, however small the ones behind it are."""
        await log.append(batch(b"a", b"b", b"x" * 10_000, b"c"))
        assert await count_read(log, max_bytes=1_000) == 2
        assert await count_read(log, 2, max_bytes=1_000) == 1

    async def test_absent_keys_and_values_cost_the_overhead_alone(self, log: PartitionLog) -> None:
        """A record of nothing counts as its overhead, so that empty records are bounded by bytes too."""
        await log.append(batch(*[None] * 10))
        assert await count_read(log, max_bytes=4 * RECORD_OVERHEAD_BYTES) == 4

    async def test_both_limits_hold(self, log: PartitionLog) -> None:
        """Whichever of the limits is reached first ends the read."""
        await log.append(batch(*[b"x" * 68] * 10))
        assert await count_read(log, max_bytes=500, max_records=3) == 3
        assert await count_read(log, max_bytes=500, max_records=8) == 5

    async def test_headers_of_other_records_are_not_returned(self, log: PartitionLog) -> None:
        """A read carries the headers of its own records only, by offset."""
        await log.append(batch(*[b""] * 6, headers={n: [Header("n", b"%d" % n)] for n in (0, 2, 3, 5)}))
        found = await log.read(1, max_bytes=1 << 20, max_records=3)
        assert {offset: list(headers) for offset, headers in found.headers.items()} == {
            2: [("n", b"2")],
            3: [("n", b"3")],
        }

    @pytest.mark.parametrize("limits", [{"max_records": 7}, {"max_bytes": 500}, {"max_bytes": 1}])
    async def test_page_by_page_nothing_is_lost_or_doubled(
        self, log: PartitionLog, limits: dict[str, int]
    ) -> None:
        """Reading on from `next_offset`, with any limits, visits every record once."""
        sent = batch(
            *(b"x" * (n % 50) for n in range(120)), headers={n: [Header("h", b"")] for n in range(0, 120, 7)}
        )
        await log.append(sent)
        assert await read_all(log, **limits) == as_expected(sent, 0)

    async def test_a_whole_read_leads_to_the_end(self, log: PartitionLog) -> None:
        """Where every record was returned, the next offset is the end of the log."""
        assert (await log.read(0, **ALL)).next_offset == 0
        await log.append(numbered(10))
        for offset in (0, 4, 9):
            assert (await log.read(offset, **ALL)).next_offset == 10

    @pytest.mark.parametrize("limits", [{"max_records": 3}, {"max_bytes": 3 * RECORD_OVERHEAD_BYTES + 5}])
    async def test_a_limited_read_leads_behind_its_last_record(
        self, log: PartitionLog, limits: dict[str, int]
    ) -> None:
        """Where a limit ended the read, the next offset is that of the first record left out."""
        await log.append(numbered(10))
        for offset, following in ((0, 3), (5, 8), (7, 10), (8, 10)):
            page = await log.read(offset, **(ALL | limits))
            assert page.next_offset == page.rows[-1][0] + 1 == following

    async def test_a_read_at_the_end_leads_nowhere_else(self, log: PartitionLog) -> None:
        """An empty read at the end of the log names that very offset, so that a consumer asks there again."""
        await log.append(numbered(3))
        page = await log.read(3, **ALL)
        assert (list(page.rows), dict(page.headers), page.next_offset) == ([], {}, 3)
        await log.append(numbered(2, 3))
        assert as_stored(await log.read(page.next_offset, **ALL)) == as_expected(numbered(2, 3), 3)

    @pytest.mark.parametrize("limits", [{"max_records": 1}, {"max_records": 7}, {"max_bytes": 100}])
    async def test_next_offset_is_all_that_a_consumer_needs(
        self, log: PartitionLog, limits: dict[str, int]
    ) -> None:
        """From page to page it rises, and the last page's is the end, also when records come meanwhile."""
        await log.append(numbered(40))
        found: list[Stored] = []
        visited = [0]
        while visited[-1] < log.end_offset:
            page = await log.read(visited[-1], **(ALL | limits))
            found += as_stored(page)
            visited.append(page.next_offset)
            if log.end_offset < 60:
                await log.append(numbered(2, log.end_offset))
        assert visited == sorted(set(visited))
        assert visited[-1] == 60
        assert found == as_expected(numbered(60), 0)

    async def test_a_read_ends_below_an_offset(self, log: PartitionLog) -> None:
        """`below` bounds a read like the end of the log, also beyond that end or at `offset`."""
        sent = batch(*[b"v"] * 10, headers={n: [Header("h", b"")] for n in range(10)})
        await log.append(sent)
        for below, end in ((5, 5), (10, 10), (11, 10), (INT64_MAX, 10), (2, 2), (1, 2)):
            page = await log.read(2, **ALL, below=below)
            assert as_stored(page) == as_expected(sent, 0)[2:end]
            assert page.next_offset == end
        assert (await log.read(2, max_bytes=1 << 20, max_records=2, below=5)).next_offset == 4

    @needs(Capability.TRIM)
    async def test_next_offset_after_a_trim(self, log: PartitionLog) -> None:
        """It counts in offsets of the log, not in records that are left, also where none is left."""
        await log.append(numbered(10))
        await log.trim(6)
        assert (await log.read(6, max_bytes=1 << 20, max_records=2)).next_offset == 8
        assert (await log.read(6, **ALL)).next_offset == 10
        await log.trim(10)
        assert (await log.read(10, **ALL)).next_offset == 10
        await log.append(numbered(2))
        assert (await log.read(10, **ALL)).next_offset == 12

    async def test_time_before_between_at_and_after_records(self, log: PartitionLog) -> None:
        """The first offset at or after a time: gaps lead to the next record, the far end to end_offset."""
        await log.append(timed(100, 200))
        await log.append(timed(300))
        found = [
            (await log.offset_for_time(at)).offset for at in (0, 99, 100, 101, 200, 250, 300, 301, 1 << 62)
        ]
        assert found == [0, 0, 0, 1, 1, 2, 2, 3, 3]

    async def test_time_of_an_empty_log(self, log: PartitionLog) -> None:
        """An empty log has no record at any time, so the answer is its end."""
        assert (await log.offset_for_time(0)).offset == 0

    async def test_equal_timestamps_lead_to_the_first(self, log: PartitionLog) -> None:
        """Of records with one timestamp the first is found, across batches too."""
        for _ in range(3):
            await log.append(timed(*[100] * 4))
        await log.append(timed(200, 200))
        assert [(await log.offset_for_time(at)).offset for at in (100, 101, 200, 201)] == [0, 12, 12, 14]

    async def test_out_of_order_timestamps(self, log: PartitionLog) -> None:
        """Offsets decide what comes first: the earliest offset at or after the time, not the closest time."""
        stamps = [50, 10, 30, 90, 20, 90, 70, 95, 5]
        for at in range(0, 9, 3):
            await log.append(timed(*stamps[at : at + 3]))
        for wanted in range(101):
            expected = next((offset for offset, stamp in enumerate(stamps) if stamp >= wanted), 9)
            assert (await log.offset_for_time(wanted)).offset == expected

    @needs(Capability.TRIM)
    async def test_time_after_a_trim(self, log: PartitionLog) -> None:
        """Records that were trimmed no longer answer, and what is left of their batch does."""
        await log.append(timed(100, 200, 300))
        await log.append(timed(400))
        await log.trim(2)
        assert [(await log.offset_for_time(at)).offset for at in (0, 100, 300, 301, 400, 401)] == [
            2,
            2,
            2,
            3,
            3,
            4,
        ]
        await log.trim(4)
        assert (await log.offset_for_time(0)).offset == 4
        await log.append(timed(50, 500))
        assert [(await log.offset_for_time(at)).offset for at in (0, 50, 51, 500, 501)] == [4, 4, 5, 5, 6]

    @needs(Capability.TRIM)
    async def test_a_trimmed_high_timestamp_does_not_hide_later_records(self, log: PartitionLog) -> None:
        """After the record with the highest timestamp is gone, lower ones behind it are found exactly."""
        await log.append(timed(1_000, 10))
        await log.append(timed(20))
        await log.append(timed(500))
        await log.trim(1)
        assert [(await log.offset_for_time(at)).offset for at in (5, 15, 21, 500, 501, 1_000)] == [
            1,
            2,
            3,
            3,
            4,
            4,
        ]

    async def test_time_over_many_batches(self, log: PartitionLog) -> None:
        """Among thousands of records in many transactions a time is found exactly."""
        for n in range(0, 3_000, 100):
            await log.append(timed(*range(n * 10, (n + 100) * 10, 10)))
        for wanted in (0, 1, 9_990, 9_991, 15_005, 29_990, 29_991):
            assert (await log.offset_for_time(wanted)).offset == -(-wanted // 10)

    async def test_logs_of_two_topics_are_apart(self, engine: Engine) -> None:
        """A read and a search see the records of their own topic only."""
        orders = (await engine.create_topic(spec("orders"))).partitions[0]
        refunds = (await engine.create_topic(spec("refunds"))).partitions[0]
        await orders.append(timed(100, 200))
        await refunds.append(timed(300))
        assert await count_read(orders) == 2
        assert await count_read(refunds) == 1
        assert ((await orders.offset_for_time(300)).offset, (await refunds.offset_for_time(300)).offset) == (
            2,
            0,
        )
