"""The contract, reads: where they may begin, where they stop, and search by time."""

from __future__ import annotations

import pytest

from storage.support import ALL, as_expected, as_stored, batch, numbered, read_all, spec, timed
from takhin.errors import OffsetOutOfRangeError
from takhin.model import Header
from takhin.sizes import HEADER_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES
from takhin.storage.engine import Engine, PartitionLog


async def count_read(log: PartitionLog, offset: int = 0, **limits: int) -> int:
    """How many records one read returns; they are checked to be the ones at and after `offset`."""
    rows = (await log.read(offset, **(ALL | limits))).rows
    assert [row[0] for row in rows] == list(range(offset, offset + len(rows)))
    return len(rows)


async def test_reading_at_the_end_finds_nothing(log: PartitionLog):
    """The end of a log may be read, and is empty; so is the beginning of an empty log."""
    assert await count_read(log) == 0
    await log.append(numbered(3))
    assert await count_read(log, 3) == 0


@pytest.mark.parametrize("offset", [-1, -2, 4, 1_000_000, (1 << 63) - 1])
async def test_reading_outside_the_log_is_refused(log: PartitionLog, offset: int):
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


async def test_reading_from_the_middle(log: PartitionLog):
    """A read begins at the very offset that was asked for, within a batch as well as at its start."""
    first, second = numbered(5), numbered(5, 5)
    await log.append(first)
    await log.append(second)
    expected = as_expected(first, 0) + as_expected(second, 5)
    for offset in range(10):
        assert as_stored(await log.read(offset, **ALL)) == expected[offset:]


@pytest.mark.parametrize("max_records", [1, 2, 9, 10, 11])
async def test_max_records(log: PartitionLog, max_records: int):
    """A read returns as many records as are asked for, or all there are."""
    await log.append(numbered(10))
    assert await count_read(log, max_records=max_records) == min(max_records, 10)
    assert await count_read(log, 4, max_records=max_records) == min(max_records, 6)


@pytest.mark.parametrize(("spare", "count"), [(-1, 1), (0, 2), (1, 2), (99, 2), (100, 3), (1_000, 3)])
async def test_max_bytes_is_exact(log: PartitionLog, spare: int, count: int):
    """A record whose last byte fits is returned, one that is a byte too large waits for the next read."""
    value, key = b"v" * (60 - RECORD_OVERHEAD_BYTES - HEADER_OVERHEAD_BYTES), b"k" * 30
    header = Header("é", b"12345678")  # two bytes of UTF-8 and eight of value
    await log.append(batch(*[value] * 3, keys=[key] * 3, headers={n: [header] for n in range(3)}))
    assert await count_read(log, max_bytes=200 + spare) == count


@pytest.mark.parametrize("max_bytes", [0, 1, 100])
async def test_a_read_returns_at_least_one_record(log: PartitionLog, max_bytes: int):
    """A record above max_bytes is returned alone, so that nobody gets stuck in front of it."""
    await log.append(batch(b"x" * 10_000, b"y" * 10_000))
    assert await count_read(log, max_bytes=max_bytes) == 1
    assert await count_read(log, 1, max_bytes=max_bytes) == 1


async def test_a_large_record_behind_small_ones_waits(log: PartitionLog):
    """The first record above the limit ends a read, however small the ones behind it are."""
    await log.append(batch(b"a", b"b", b"x" * 10_000, b"c"))
    assert await count_read(log, max_bytes=1_000) == 2
    assert await count_read(log, 2, max_bytes=1_000) == 1


async def test_absent_keys_and_values_cost_the_overhead_alone(log: PartitionLog):
    """A record of nothing counts as its overhead, so that empty records are bounded by bytes too."""
    await log.append(batch(*[None] * 10))
    assert await count_read(log, max_bytes=4 * RECORD_OVERHEAD_BYTES) == 4


async def test_both_limits_hold(log: PartitionLog):
    """Whichever of the limits is reached first ends the read."""
    await log.append(batch(*[b"x" * 68] * 10))
    assert await count_read(log, max_bytes=500, max_records=3) == 3
    assert await count_read(log, max_bytes=500, max_records=8) == 5


async def test_headers_of_other_records_are_not_returned(log: PartitionLog):
    """A read carries the headers of its own records only, by offset."""
    await log.append(batch(*[b""] * 6, headers={n: [Header("n", b"%d" % n)] for n in (0, 2, 3, 5)}))
    found = await log.read(1, max_bytes=1 << 20, max_records=3)
    assert {offset: list(headers) for offset, headers in found.headers.items()} == {
        2: [("n", b"2")],
        3: [("n", b"3")],
    }


@pytest.mark.parametrize("limits", [{"max_records": 7}, {"max_bytes": 500}, {"max_bytes": 1}])
async def test_page_by_page_nothing_is_lost_or_doubled(log: PartitionLog, limits: dict[str, int]):
    """Reading on from the last offset plus one, with any limit, visits every record once."""
    sent = batch(
        *(b"x" * (n % 50) for n in range(120)), headers={n: [Header("h", b"")] for n in range(0, 120, 7)}
    )
    await log.append(sent)
    assert await read_all(log, **limits) == as_expected(sent, 0)


async def test_time_before_between_at_and_after_records(log: PartitionLog):
    """The first offset at or after a time: gaps lead to the next record, the far end to end_offset."""
    await log.append(timed(100, 200))
    await log.append(timed(300))
    found = [await log.offset_for_time(at) for at in (0, 99, 100, 101, 200, 250, 300, 301, 1 << 62)]
    assert found == [0, 0, 0, 1, 1, 2, 2, 3, 3]


async def test_time_of_an_empty_log(log: PartitionLog):
    """An empty log has no record at any time, so the answer is its end."""
    assert await log.offset_for_time(0) == 0


async def test_equal_timestamps_lead_to_the_first(log: PartitionLog):
    """Of records with one timestamp the first is found, across batches too."""
    for _ in range(3):
        await log.append(timed(*[100] * 4))
    await log.append(timed(200, 200))
    assert [await log.offset_for_time(at) for at in (100, 101, 200, 201)] == [0, 12, 12, 14]


async def test_out_of_order_timestamps(log: PartitionLog):
    """Offsets decide what comes first: the earliest offset at or after the time, not the closest time."""
    stamps = [50, 10, 30, 90, 20, 90, 70, 95, 5]
    for at in range(0, 9, 3):
        await log.append(timed(*stamps[at : at + 3]))
    for wanted in range(101):
        expected = next((offset for offset, stamp in enumerate(stamps) if stamp >= wanted), 9)
        assert await log.offset_for_time(wanted) == expected


async def test_time_after_a_trim(log: PartitionLog):
    """Records that were trimmed no longer answer, and what is left of their batch does."""
    await log.append(timed(100, 200, 300))
    await log.append(timed(400))
    await log.trim(2)
    assert [await log.offset_for_time(at) for at in (0, 100, 300, 301, 400, 401)] == [2, 2, 2, 3, 3, 4]
    await log.trim(4)
    assert await log.offset_for_time(0) == 4
    await log.append(timed(50, 500))
    assert [await log.offset_for_time(at) for at in (0, 50, 51, 500, 501)] == [4, 4, 5, 5, 6]


async def test_a_trimmed_high_timestamp_does_not_hide_later_records(log: PartitionLog):
    """After the record with the highest timestamp is gone, lower ones behind it are found exactly."""
    await log.append(timed(1_000, 10))
    await log.append(timed(20))
    await log.append(timed(500))
    await log.trim(1)
    assert [await log.offset_for_time(at) for at in (5, 15, 21, 500, 501, 1_000)] == [1, 2, 3, 3, 4, 4]


async def test_time_over_many_batches(log: PartitionLog):
    """Among thousands of records in many transactions a time is found exactly."""
    for n in range(0, 3_000, 100):
        await log.append(timed(*range(n * 10, (n + 100) * 10, 10)))
    for wanted in (0, 1, 9_990, 9_991, 15_005, 29_990, 29_991):
        assert await log.offset_for_time(wanted) == -(-wanted // 10)


async def test_logs_of_two_topics_are_apart(engine: Engine):
    """A read and a search see the records of their own topic only."""
    orders = (await engine.create_topic(spec("orders"))).partitions[0]
    refunds = (await engine.create_topic(spec("refunds"))).partitions[0]
    await orders.append(timed(100, 200))
    await refunds.append(timed(300))
    assert await count_read(orders) == 2
    assert await count_read(refunds) == 1
    assert (await orders.offset_for_time(300), await refunds.offset_for_time(300)) == (2, 0)
