"""The contract, compaction: the last record of each key stays, at its offset; reads go on across gaps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from takhin.errors import EndOffsetMismatchError, OffsetOutOfRangeError, UnknownTopicError
from takhin.model import CleanupPolicy, Header, TopicConfig
from takhin.storage.contract import Capability, Engine, PartitionLog
from takhin.testing.contract.harness import Harness, Life, needs
from takhin.testing.contract.records import ALL, NOW, as_stored, batch, changed, read_all, spec, under

Pair = tuple[str | None, str | None]
"""A key and a value; None: there is none."""

HOUR = 3_600_000


def config(**fields: Any) -> TopicConfig:
    """A topic that is compacted. fields: of TopicConfig."""
    return replace(TopicConfig(1 << 20, cleanup_policy=(CleanupPolicy.COMPACT,)), **fields)


CONFIG = config()


async def put(log: PartitionLog, *pairs: Pair, timestamp: int = NOW) -> int:
    """Append these records as one commit group; returns the first one's offset."""
    keys, values = zip(*pairs, strict=True)
    landed = await log.append(
        batch(*map(_encoded, values), keys=[*map(_encoded, keys)], timestamps=[timestamp] * len(pairs))
    )
    return landed.offset


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


async def kept(log: PartitionLog) -> list[tuple[int, str | None, str | None]]:
    """(offset, key, value) of all records."""
    return [(row[0], _decoded(row[2]), _decoded(row[3])) for row in await read_all(log)]


def _decoded(content: bytes | None) -> str | None:
    return None if content is None else content.decode()


async def put_each(log: PartitionLog, keys: Iterable[str]) -> None:
    """Append a record of each key, each in a commit group of its own; the value is its offset."""
    for at, key in enumerate(keys, log.end_offset):
        await put(log, (key, str(at)))


class Compaction(Harness):
    """Tests of `PartitionLog.compact`."""

    @needs(Capability.COMPACT)
    async def test_the_last_record_of_each_key_stays(self, log: PartitionLog) -> None:
        """All others are gone; no offset changes, and the log goes on at its end."""
        await put_each(log, "abacabadx")
        assert log.record_count == 9
        assert await log.compact(CONFIG, NOW) == 4
        assert await kept(log) == [(3, "c", "3"), (5, "b", "5"), (6, "a", "6"), (7, "d", "7"), (8, "x", "8")]
        assert (log.start_offset, log.end_offset, log.record_count) == (0, 9, 5)
        assert await put(log, ("a", "9")) == 9
        assert log.record_count == 6

    @needs(Capability.COMPACT)
    async def test_the_last_commit_group_stays(self, log: PartitionLog) -> None:
        """Its records supersede others, also those of one key among themselves stay."""
        await put_each(log, "ab")
        await put(log, ("a", "2"), ("a", "3"))
        assert await log.compact(CONFIG, NOW) == 1
        assert await kept(log) == [(1, "b", "1"), (2, "a", "2"), (3, "a", "3")]
        await put_each(log, "c")
        assert await log.compact(CONFIG, NOW) == 1
        assert await kept(log) == [(1, "b", "1"), (3, "a", "3"), (4, "c", "4")]

    @needs(Capability.COMPACT)
    async def test_records_without_a_key_are_removed(self, log: PartitionLog) -> None:
        """An empty key is a key, and so is an empty value a value."""
        await put(log, (None, "0"), ("", "1"), (None, None), ("", ""), ("x", "4"))
        await put_each(log, "y")
        assert await log.compact(CONFIG, NOW) == 3
        assert await kept(log) == [(3, "", ""), (4, "x", "4"), (5, "y", "5")]

    @needs(Capability.COMPACT)
    async def test_young_records_stay(self, log: PartitionLog) -> None:
        """What is younger than min.compaction.lag.ms stays, and supersedes nothing."""
        await put(log, ("a", "0"), ("a", "1"), timestamp=NOW - HOUR)
        await put(log, ("a", "2"), ("a", "3"), timestamp=NOW - HOUR + 1)
        await put_each(log, "b")
        lagging = config(min_compaction_lag_ms=HOUR)
        assert await log.compact(lagging, NOW) == 1
        assert [offset for offset, *_ in await kept(log)] == [1, 2, 3, 4]
        assert await log.compact(lagging, NOW) == 0
        assert await log.compact(lagging, NOW + 1) == 2
        assert [offset for offset, *_ in await kept(log)] == [3, 4]

    @needs(Capability.COMPACT)
    async def test_a_tombstone_stays_for_a_time_from_the_first_pass_that_saw_it(
        self, log: PartitionLog
    ) -> None:
        """It supersedes at once; later passes do not prolong its time, and it goes in the end."""
        lasting = config(delete_retention_ms=HOUR)
        await put_each(log, "ab")
        await put(log, ("a", None))
        await put_each(log, "x")
        assert await log.compact(lasting, NOW) == 1
        await put(log, ("b", None))
        await put_each(log, "y")
        assert await log.compact(lasting, NOW + HOUR // 2) == 1
        assert await kept(log) == [(2, "a", None), (3, "x", "3"), (4, "b", None), (5, "y", "5")]
        assert not await log.compaction_due(lasting, NOW + HOUR - 1)
        assert await log.compact(lasting, NOW + HOUR - 1) == 0
        assert await log.compaction_due(lasting, NOW + HOUR)
        assert await log.compact(lasting, NOW + HOUR) == 1
        assert await kept(log) == [(3, "x", "3"), (4, "b", None), (5, "y", "5")]
        assert await log.compact(lasting, NOW + HOUR + HOUR // 2) == 1
        assert await kept(log) == [(3, "x", "3"), (5, "y", "5")]
        assert not await log.compaction_due(lasting, NOW + 10 * HOUR)

    @needs(Capability.COMPACT)
    async def test_the_last_records_of_a_quiet_log_supersede_in_time(self, log: PartitionLog) -> None:
        """When they are no longer too young, a pass is due by max.compaction.lag.ms, and only one."""
        lagging = config(min_compaction_lag_ms=HOUR, max_compaction_lag_ms=2 * HOUR)
        await put(log, ("a", "0"), timestamp=NOW - HOUR)
        await put(log, ("a", "1"), timestamp=NOW)
        assert await log.compact(lagging, NOW) == 0
        assert not await log.compaction_due(lagging, NOW + 2 * HOUR - 1)
        assert await log.compaction_due(lagging, NOW + 2 * HOUR)
        assert await log.compact(lagging, NOW + 2 * HOUR) == 1
        assert await kept(log) == [(1, "a", "1")]
        assert not await log.compaction_due(lagging, NOW + 1_000 * HOUR)

    @needs(Capability.COMPACT)
    async def test_old_timestamps_do_not_cost_a_pass_each(self, log: PartitionLog) -> None:
        """What comes with a timestamp that was too old at the last pass counts from that pass."""
        lagging = config(max_compaction_lag_ms=HOUR, min_cleanable_dirty_ratio=1.0)
        await put(log, ("a", "0"), timestamp=1)
        await put(log, ("b", "1"), timestamp=1)
        assert await log.compaction_due(lagging, NOW)
        assert await log.compact(lagging, NOW) == 0
        await put(log, ("c", "2"), timestamp=1)
        assert not await log.compaction_due(lagging, NOW + HOUR - 1)
        assert await log.compaction_due(lagging, NOW + HOUR)

    @needs(Capability.COMPACT)
    async def test_passes_that_saw_no_tombstone_make_none_due(self, log: PartitionLog) -> None:
        """Only the first pass that saw a tombstone which is still there does."""
        lasting = config(delete_retention_ms=HOUR)
        for at in range(5):
            await put(log, (f"k{at}", "v"))
            await log.compact(lasting, NOW + at)
        await put(log, ("k0", None))
        await put(log, ("x", "v"))
        await log.compact(lasting, NOW + 10)
        assert not await log.compaction_due(lasting, NOW + HOUR + 9)
        assert await log.compaction_due(lasting, NOW + HOUR + 10)
        assert await log.compact(lasting, NOW + HOUR + 10) == 1

    @needs(Capability.COMPACT)
    async def test_headers_go_with_their_records(self, log: PartitionLog) -> None:
        """Those of the records that stay are as they were."""
        headers = {n: [Header("n", b"%d" % n), Header("n", b"")] for n in range(4)}
        await log.append(batch(*[b"v"] * 4, keys=[b"a", b"b", b"a", b"b"], headers=headers))
        await put_each(log, "x")
        assert await log.compact(CONFIG, NOW) == 2
        assert [row[4] for row in await read_all(log)] == [
            (("n", b"2"), ("n", b"")),
            (("n", b"3"), ("n", b"")),
            (),
        ]

    @needs(Capability.COMPACT)
    @pytest.mark.parametrize("limits", [{"max_records": 1}, {"max_records": 3}, {"max_bytes": 1}, {}])
    async def test_reads_go_on_across_gaps(self, log: PartitionLog, limits: dict[str, int]) -> None:
        """From every offset, with any limits, reading on from next_offset visits every record once."""
        await put_each(log, "abcabdabeaaaaaaaabf" * 3)
        await log.compact(CONFIG, NOW)
        everything = await read_all(log)
        for first in range(log.end_offset + 1):
            found, offset = [], first
            while offset < log.end_offset:
                page = await log.read(offset, **(ALL | limits))
                assert offset < page.next_offset
                found += as_stored(page)
                offset = page.next_offset
            assert found == [row for row in everything if row[0] >= first]

    @needs(Capability.COMPACT)
    async def test_a_read_below_an_offset_within_a_gap(self, log: PartitionLog) -> None:
        """It ends at the last record before; where none is left there, it leads to that offset."""
        await put_each(log, "abbbbcx")
        await log.compact(CONFIG, NOW)
        assert [offset for offset, *_ in await kept(log)] == [0, 4, 5, 6]
        page = await log.read(0, **ALL, below=3)
        assert ([row[0] for row in page.rows], page.next_offset in (1, 2, 3)) == ([0], True)
        page = await log.read(1, **ALL, below=3)
        assert (list(page.rows), page.next_offset) == ([], 3)

    @needs(Capability.COMPACT, Capability.TRIM)
    async def test_a_trim_within_a_gap(self, log: PartitionLog) -> None:
        """The start lies where no record is; what is below it is out of range, and counts are right."""
        await put_each(log, "aaaabbbbcx")
        await log.compact(CONFIG, NOW)
        assert [offset for offset, *_ in await kept(log)] == [3, 7, 8, 9]
        await log.trim(5)
        assert (log.start_offset, log.record_count) == (5, 3)
        assert [offset for offset, *_ in await kept(log)] == [7, 8, 9]
        with pytest.raises(OffsetOutOfRangeError):
            await log.read(3, **ALL)
        await put_each(log, "bcy")
        assert await log.compact(CONFIG, NOW) == 2
        assert [offset for offset, *_ in await kept(log)] == [9, 10, 11, 12]
        await log.trim(log.end_offset)
        assert log.record_count == 0
        assert await log.compact(CONFIG, NOW) == 0

    @needs(Capability.COMPACT)
    async def test_a_search_by_time_finds_what_is_left(self, log: PartitionLog) -> None:
        """The first record that is still there at or after a time."""
        for at, key in enumerate("abab"):
            await put(log, (key, "v"), timestamp=NOW + at)
        await put(log, ("x", "v"), timestamp=NOW + 9)
        await log.compact(CONFIG, NOW + HOUR)
        found = [await log.offset_for_time(NOW + at) for at in range(11)]
        assert [of.offset for of in found] == [2, 2, 2, 3, 4, 4, 4, 4, 4, 4, 5]

    @needs(Capability.COMPACT, Capability.SEQUENCES, Capability.EXPECTED_OFFSET)
    async def test_conditions_are_judged_as_before(self, log: PartitionLog) -> None:
        """A repeat of a batch that was removed gets its answer; an expected offset is that of the end."""
        sent = batch(b"1", b"2", keys=[b"k", b"k"])
        landed = await log.append(under(sent, b"p"))
        await put_each(log, "kx")
        assert await log.compact(CONFIG, NOW) == 2
        assert await log.append(under(sent, b"p")) == landed._replace(duplicate=True)
        with pytest.raises(EndOffsetMismatchError):
            await log.append(under(batch(b"v", keys=[b"k"]), expected_offset=2))
        assert (await log.append(under(batch(b"v", keys=[b"k"]), expected_offset=4))).offset == 4

    @needs(Capability.COMPACT)
    async def test_when_a_pass_is_due(self, log: PartitionLog) -> None:
        """By the share of records that no pass has seen, or by the age of the oldest of them."""
        assert not await log.compaction_due(CONFIG, NOW)
        assert await log.compact(CONFIG, NOW) == 0
        await put_each(log, "abcdefgh")
        assert await log.compaction_due(CONFIG, NOW)
        await log.compact(CONFIG, NOW)
        assert not await log.compaction_due(CONFIG, NOW)
        await put_each(log, "aa")
        assert not await log.compaction_due(CONFIG, NOW)
        assert await log.compaction_due(config(min_cleanable_dirty_ratio=0.2), NOW)
        aging = config(max_compaction_lag_ms=HOUR)
        assert not await log.compaction_due(aging, NOW + HOUR - 1)
        assert await log.compaction_due(aging, NOW + HOUR)

    @needs(Capability.COMPACT, Capability.TRIM)
    async def test_retention_counts_what_is_there(self, engine: Engine) -> None:
        """A compacted log with fewer records than retention.records keeps all, however far apart."""
        both = config(cleanup_policy=tuple(CleanupPolicy), retention_records=4)
        log = (await engine.create_topic(spec("orders", config=CONFIG))).partitions[0]
        await put_each(log, "abcaaaaaaaaaaab")
        await log.compact(CONFIG, NOW)
        await changed(engine, spec("orders", config=both))
        before = await kept(log)
        assert [offset for offset, *_ in before] == [2, 13, 14]
        await engine.retain()
        assert await kept(log) == before
        await put_each(log, "wxyz")
        await engine.retain()
        assert [key for _, key, _ in await kept(log)] == ["w", "x", "y", "z"]

    @needs(Capability.COMPACT)
    async def test_a_closed_log_is_not_compacted(self, engine: Engine, log: PartitionLog) -> None:
        """The log of a deleted topic says so."""
        await engine.delete_topic("orders")
        with pytest.raises(UnknownTopicError):
            await log.compact(CONFIG, NOW)

    @needs(Capability.COMPACT, Capability.DURABLE)
    async def test_what_was_removed_stays_removed(self, life: Life) -> None:
        """After the engine was opened again the log reads the same, counts the same, and goes on."""
        log = (await life.engine.create_topic(spec("orders"))).partitions[0]
        lasting = config(delete_retention_ms=HOUR)
        await put_each(log, "abcab")
        await put(log, ("c", None))
        await put_each(log, "d")
        assert await log.compact(lasting, NOW) == 3
        before = await read_all(log)
        await life.reopen()
        log = life.log("orders")
        assert (await read_all(log), log.record_count) == (before, 4)
        await put_each(log, "ae")
        assert await log.compact(lasting, NOW + HOUR) == 2
        assert [key for _, key, _ in await kept(log)] == ["b", "d", "a", "e"]
