"""Batches for tests, and records in a form that compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from takhin.model import Batch, Condition, Header, Records, Source, TopicConfig, TopicPartition, TopicSpec
from takhin.sizes import size_bytes
from takhin.storage.contract import Engine, PartitionLog, Topic

NOW = 1_700_000_000_000
"""The time of all that says no other (ms since 1970)."""

ALL = {"max_bytes": 1 << 30, "max_records": 1 << 30}
"""Read limits that bound nothing."""

Stored = tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]
"""A whole record: offset, timestamp, key, value, headers."""


def clock() -> int:
    """A clock that stands still at NOW."""
    return NOW


def batch(
    *values: bytes | None,
    keys: Sequence[bytes | None] | None = None,
    timestamps: Sequence[int] | None = None,
    headers: Mapping[int, Sequence[Header]] | None = None,
) -> Batch:
    """A batch of these values. Unless given, there are no keys and no headers, and each timestamp is NOW."""
    keys = keys or [None] * len(values)
    headers = headers or {}
    size = size_bytes(keys, values, headers.values())
    return Batch(keys, values, timestamps or [NOW] * len(values), headers, size)


def numbered(count: int, first: int = 0) -> Batch:
    """A batch of `count` records whose values are the numbers from `first` on."""
    return batch(*(b"%d" % n for n in range(first, first + count)))


def timed(*timestamps: int) -> Batch:
    """A batch of empty records with these timestamps."""
    return batch(*[b""] * len(timestamps), timestamps=timestamps)


def under(
    sent: Batch,
    producer_id: bytes = b"",
    sequence: int = 0,
    *,
    expected_offset: int | None = None,
    maybe_stored_from: int | None = None,
    source: Source | None = None,
) -> Batch:
    """The batch under a condition. A short producer_id is padded to 16 bytes."""
    padded = producer_id and producer_id.ljust(16)
    return replace(sent, condition=Condition(padded, sequence, expected_offset, maybe_stored_from, source))


def source_of(log: PartitionLog, offset: int, group_id: str = "g") -> Source:
    """The record at an offset of a log, as what a program that reads as a group makes others of."""
    return Source(group_id, log.topic, log.partition, offset, log.incarnation_id)


def spec(name: str, num_partitions: int = 1, config: TopicConfig | None = None) -> TopicSpec:
    """A topic that takes records of up to 1 MiB unless another config is given."""
    return TopicSpec(name, num_partitions, config or TopicConfig(1 << 20))


async def changed(engine: Engine, wanted: TopicSpec) -> Topic:
    """The topic of that name, after it was given this spec."""
    return await engine.alter_topic(wanted.name, lambda _: wanted)


def name_of(log: PartitionLog) -> TopicPartition:
    """The name by which `Engine.offsets` knows the log."""
    return TopicPartition(log.topic, log.partition)


def as_stored(records: Records) -> list[Stored]:
    """The records that a read returned, with their headers. Fails on headers without a record."""
    assert set(records.headers) <= {row[0] for row in records.rows}
    return [(*row, _as_tuples(records.headers.get(row[0], ()))) for row in records.rows]


def as_expected(appended: Batch, first: int) -> list[Stored]:
    """The records that a read should return for a batch that landed at offset `first`."""
    headers = [_as_tuples(appended.headers.get(i, ())) for i in range(len(appended))]
    offsets = range(first, first + len(appended))
    return list(zip(offsets, appended.timestamps, appended.keys, appended.values, headers, strict=True))


async def read_all(log: PartitionLog, **limits: int) -> list[Stored]:
    """The whole log, read page by page. Fails on a page that does not lead on."""
    found: list[Stored] = []
    offset = log.start_offset
    while offset < log.end_offset:
        page = await log.read(offset, **(ALL | limits))
        assert all(offset <= row[0] < page.next_offset for row in page.rows)
        assert offset < page.next_offset
        found += as_stored(page)
        offset = page.next_offset
    return found


def _as_tuples(headers: Sequence[Header]) -> tuple[tuple[str, bytes], ...]:
    return tuple((key, value) for key, value in headers)
