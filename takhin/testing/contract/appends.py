"""The contract, appends: offsets, order, atomicity, and records that come back as they were given."""

from __future__ import annotations

import asyncio

import pytest

from takhin.model import Appended, Batch, Header
from takhin.storage.contract import Engine, PartitionLog
from takhin.testing.contract.harness import Harness
from takhin.testing.contract.records import NOW, as_expected, batch, numbered, read_all, spec

COUNTS = (1, 2, 999, 5_000)


class Appends(Harness):
    """Tests of `PartitionLog.append` without a condition."""

    async def test_offsets_are_dense_from_zero(self, log: PartitionLog) -> None:
        """The first record has offset 0 and each batch begins where the one before it ended."""
        landed = [await log.append(numbered(count)) for count in (3, 1, 2)]
        assert [appended.offset for appended in landed] == [0, 3, 4]
        assert log.end_offset == 6
        assert [row[0] for row in await read_all(log)] == [0, 1, 2, 3, 4, 5]

    async def test_answer_names_partition_first_timestamp_and_count(self, engine: Engine) -> None:
        """An append answers with its partition, first offset, first timestamp and number of records."""
        topic = await engine.create_topic(spec("orders", 3))
        landed = await topic.partitions[2].append(batch(b"a", b"b", timestamps=[7, 9]))
        assert landed == Appended(partition=2, offset=0, timestamp=7, record_count=2)

    async def test_an_empty_log_begins_and_ends_at_zero(self, log: PartitionLog) -> None:
        """A new log is the range [0, 0)."""
        assert (log.start_offset, log.end_offset, log.closed) == (0, 0, False)

    async def test_partitions_count_for_themselves(self, engine: Engine) -> None:
        """Each partition has its own offsets and records."""
        first, second = (await engine.create_topic(spec("orders", 2))).partitions
        await asyncio.gather(first.append(batch(b"a", b"b")), second.append(batch(b"c")))
        assert [row[3] for row in await read_all(first)] == [b"a", b"b"]
        assert [row[3] for row in await read_all(second)] == [b"c"]

    async def test_an_acknowledged_record_can_be_read_at_once(self, log: PartitionLog) -> None:
        """When the future resolves, end_offset is past the batch and a read returns it."""
        for n in range(20):
            landed = await log.append(numbered(2, n))
            assert log.end_offset == landed.offset + 2
            assert len((await log.read(landed.offset, max_bytes=1 << 20, max_records=10)).rows) == 2

    async def test_pending_batches_land_in_the_order_of_the_calls(self, log: PartitionLog) -> None:
        """Appends that wait at the same time get their offsets in the order in which they were called."""
        sizes = [1, 5, 2, 700, 1, 1, 3_000, 4, 900] * 4
        batches = [numbered(size, 10 * n) for n, size in enumerate(sizes)]
        landed = await asyncio.gather(*map(log.append, batches))
        expected: list[tuple[object, ...]] = []
        for one, sent in zip(landed, batches, strict=True):
            assert (one.offset, one.record_count) == (len(expected), len(sent))
            expected += as_expected(sent, one.offset)
        assert await read_all(log) == expected

    async def test_readers_see_whole_batches(self, log: PartitionLog) -> None:
        """However a read falls between pending appends, the log it sees ends at the end of a batch."""
        pending = [log.append(numbered(7)) for _ in range(200)]
        seen = set()
        while not all(future.done() for future in pending):
            seen.add(log.end_offset)
            seen.add(len((await log.read(0, max_bytes=1 << 20, max_records=1_750)).rows))
            await asyncio.sleep(0)
        assert log.end_offset == 1_400
        assert {count % 7 for count in seen} <= {0}

    async def test_a_cancelled_append_leaves_its_neighbours_alone(self, log: PartitionLog) -> None:
        """Cancelling a future changes nothing about what is appended, neither its batch nor the others."""
        before, cancelled, after = [log.append(batch(value)) for value in (b"before", b"cancelled", b"after")]
        cancelled.cancel()
        assert (await before).offset == 0
        assert (await after).offset == 2
        assert [row[3] for row in await read_all(log)] == [b"before", b"cancelled", b"after"]

    async def test_a_caller_that_stops_waiting_takes_nothing_down(self, log: PartitionLog) -> None:
        """A task cancelled while it awaits its append leaves the log and later appends whole."""

        async def produce() -> Appended:
            return await log.append(batch(b"abandoned"))

        tasks = [asyncio.create_task(produce()) for _ in range(10)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (await log.append(batch(b"last"))).offset == 10
        assert len(await read_all(log)) == 11

    @pytest.mark.parametrize("count", COUNTS)
    async def test_batches_of_any_length_come_back(self, log: PartitionLog, count: int) -> None:
        """A batch of one, of a few and of thousands is stored whole and in order."""
        sent = numbered(count)
        landed = await log.append(sent)
        assert landed.record_count == count
        assert await read_all(log) == as_expected(sent, 0)

    async def test_null_and_empty_differ(self, log: PartitionLog) -> None:
        """Keys and values that are absent stay absent, and empty ones stay empty."""
        sent = batch(None, b"", None, b"", b"v", keys=[None, None, b"", b"", b"k"])
        await log.append(sent)
        assert [row[2:4] for row in await read_all(log)] == [
            (None, None),
            (None, b""),
            (b"", None),
            (b"", b""),
            (b"k", b"v"),
        ]

    async def test_keys_and_values_are_any_bytes(self, log: PartitionLog) -> None:
        """Every byte value is kept, NULs and invalid UTF-8 included."""
        every = bytes(range(256))
        sent = batch(every, b"\x00", b"\xff\xfe", keys=[b"\x00" * 3, every, b"text"])
        await log.append(sent)
        assert await read_all(log) == as_expected(sent, 0)

    async def test_timestamps_are_kept_as_given(self, log: PartitionLog) -> None:
        """Timestamps need not ascend; zero and the largest 64-bit number are as good as any."""
        sent = batch(b"a", b"b", b"c", b"d", timestamps=[NOW, 0, (1 << 63) - 1, 1])
        assert (await log.append(sent)).timestamp == NOW
        assert await read_all(log) == as_expected(sent, 0)

    async def test_headers_keep_order_repeats_and_bytes(self, log: PartitionLog) -> None:
        """Headers come back in order, with repeated keys, binary and empty values, and keys of any script."""
        headers = [
            Header("trace", bytes(range(256))),
            Header("a", b"2"),
            Header("trace", b""),
            Header("a", b"1"),
            Header("ключ-鍵-🔑", b"\x00"),
            Header("with 'quotes' \"both\"", b"'"),
            Header("nul\x00inside", b"x"),
        ]
        sent = batch(b"v", headers={0: headers})
        await log.append(sent)
        assert await read_all(log) == as_expected(sent, 0)

    async def test_headers_belong_to_their_record(self, log: PartitionLog) -> None:
        """In a batch where few records have headers, and beside batches without any, each finds its own."""
        with_some = batch(
            *[b"v"] * 50,
            headers={0: [Header("first", b"0")], 17: [Header("n", b"17")] * 3, 49: [Header("l", b"")]},
        )
        batches = [numbered(3), with_some, numbered(2), with_some]
        await asyncio.gather(*map(log.append, batches))
        expected = [*as_expected(batches[0], 0), *as_expected(with_some, 3), *as_expected(batches[2], 53)]
        assert await read_all(log) == [*expected, *as_expected(with_some, 55)]

    async def test_many_headers(self, log: PartitionLog) -> None:
        """A thousand headers on one record and one on each of a thousand records are all kept."""
        one = batch(b"v", headers={0: [Header(f"key {n}", b"%d" % n) for n in range(1_000)]})
        each = batch(*[b"v"] * 1_000, headers={n: [Header("n", b"%d" % n)] for n in range(1_000)})
        await asyncio.gather(log.append(one), log.append(each))
        assert await read_all(log) == [*as_expected(one, 0), *as_expected(each, 1)]

    @pytest.mark.parametrize(
        "sizes", [[1 << 20], [1 << 20, 1, 1 << 20], [1 << 20] * 12], ids=["1", "3", "12"]
    )
    async def test_large_values(self, log: PartitionLog, sizes: list[int]) -> None:
        """Values of 1 MiB come back byte for byte, also in a batch larger than one transaction aims for."""
        sent = batch(*(bytes([n]) * size for n, size in enumerate(sizes)), keys=[b"k" * 70_000] * len(sizes))
        await log.append(sent)
        assert await read_all(log) == as_expected(sent, 0)

    async def test_a_batch_may_be_any_sequence(self, log: PartitionLog) -> None:
        """Columns may be tuples as well as lists; the engine does not write to them."""
        sent = Batch((None, b"k"), (b"a", b"b"), (1, 2), {1: (Header("h", b"v"),)}, 5)
        await log.append(sent)
        assert await read_all(log) == as_expected(sent, 0)

    async def test_an_idle_engine_has_room(self, engine: Engine) -> None:
        """Room is there at once when nothing waits, and again when what waited was committed."""
        log = (await engine.create_topic(spec("orders"))).partitions[0]
        async with asyncio.timeout(self.wait_seconds):
            await engine.room()
            pending = [log.append(batch(b"x" * (8 << 20))) for _ in range(10)]
            await engine.room()
            await asyncio.gather(*pending)
        assert log.end_offset == 10
