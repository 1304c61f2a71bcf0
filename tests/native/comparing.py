"""What the native library makes of a produce request, against what protobuf and Python make of it."""

from __future__ import annotations

import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import apsw
from google.protobuf.message import DecodeError
from takhin.schema.tables import TABLES
from takhin.schema.upgrades import ZERO_TAILS

from takhin import limits
from takhin.broker.records import _stamped
from takhin.disk.native import load
from takhin.errors import RefusedError
from takhin.model import Batch, CleanupPolicy, ProduceRequest, TimestampType, TopicConfig
from takhin.native import Library
from takhin.settings import ProduceSettings
from takhin.storage.sqlite.inserting import Columns, PackedRows, insert_all
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert
from takhin.wire.packed import PackedRequest, PlainRequests

T = TypeVar("T")

NOW = 1_700_000_000_000
SETTINGS = ProduceSettings(batch_records_max=30, batch_headers_max=20, record_headers_max=5)
CONFIGS = (
    TopicConfig(1 << 20),
    TopicConfig(1 << 20, TimestampType.LOG_APPEND_TIME),
    TopicConfig(300, timestamp_after_max_ms=10, timestamp_before_max_ms=10),
    TopicConfig(20_000, cleanup_policy=(CleanupPolicy.COMPACT,)),
)
FIRST_OFFSETS = (0, 1, 127, 1 << 40, (1 << 63) - 1_000)


def finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


class Comparison:
    """Looks at requests both ways. plain: how many were stored by the native library as well."""

    def __init__(self, native: Library) -> None:
        self._plain = PlainRequests(native, SETTINGS)
        self._databases = [database() for _ in range(2)]
        self.plain = 0

    def check(self, wire: bytes, chance: random.Random) -> None:
        """Fail if the two ways differ in what they take in, refuse or store."""
        packed = self._plain(wire)
        if packed is None:  # protobuf does all of it
            return
        self.plain += 1
        try:
            message = pb.ProduceMessageRequest.FromString(wire)
        except DecodeError as error:
            raise AssertionError("protobuf does not take it") from error
        ours, theirs = converted(packed), converted(message)
        assert ours._replace(batch=theirs.batch) == theirs
        self._check_batches(ours.batch, theirs.batch, chance)

    def _check_batches(self, ours: Batch, theirs: Batch, chance: random.Random) -> None:
        assert columns(ours) == columns(theirs)
        assert (len(ours), ours.condition) == (len(theirs), theirs.condition)
        for config in CONFIGS:
            stamped = [_stamped(batch, config, NOW) for batch in (ours, theirs)]
            assert facts(stamped[0]) == facts(stamped[1])
            assert judged(stamped[0], config) == judged(stamped[1], config)
        first, config = chance.choice(FIRST_OFFSETS), chance.choice(CONFIGS)
        packed = _stamped(ours, config, NOW).packed
        assert packed is not None
        by_sql, by_values = PackedRows(first, packed), Columns(first)
        by_values.add(_stamped(theirs, config, NOW))
        assert by_sql.highest_timestamp == by_values.highest_timestamp
        assert stored(self._databases[0], by_sql) == stored(self._databases[1], by_values)


def converted(message: pb.ProduceMessageRequest | PackedRequest) -> ProduceRequest:
    def check(_count: int, _headers: object) -> None:
        """A plain request is within the limits of a batch; that is in test_requests.py."""

    return finished(convert.produce_request(message, 1, check))


def columns(batch: Batch) -> tuple[Any, ...]:
    headers = {at: [tuple(header) for header in of_record] for at, of_record in batch.headers.items()}
    return list(batch.keys), list(batch.values), list(batch.timestamps), headers


def facts(batch: Batch) -> tuple[Any, ...]:
    """All that is asked about a batch without its columns."""
    return (
        *(batch.first_timestamp, batch.last_timestamp, batch.lowest_timestamp, batch.highest_timestamp),
        *(batch.has_keyless, batch.header_count, list(batch.timestamps)),
    )


def judged(batch: Batch, config: TopicConfig) -> str:
    """Why a batch is refused; empty if it is not."""
    try:
        limits.check_batch(batch, config, now=NOW)
    except RefusedError as refusal:
        return f"{type(refusal).__name__}: {refusal}"
    return ""


def database() -> apsw.Connection:
    """One in memory with the tables of a partition's file."""
    load()
    db = apsw.Connection(":memory:")
    db.execute(TABLES)
    db.execute(ZERO_TAILS)
    db.execute("BEGIN")
    return db


def stored(db: apsw.Connection, rows: Columns | PackedRows) -> list[list[Any]]:
    """What is in the tables when the rows are in there; it is removed again."""
    for _ in insert_all(db, [rows]):
        pass
    found = []
    for table in ("records", "headers", "zero_tails"):
        found.append(db.execute(f"SELECT * FROM {table}").fetchall())
        db.execute(f"DELETE FROM {table}")
    return found
