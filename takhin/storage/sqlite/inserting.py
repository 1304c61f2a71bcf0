"""How the records of a commit group get into the table: many in a statement, and not too many in a turn.

Records that came packed are read from their request by SQLite itself, with the native library. All others are
rows of values here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import apsw

from takhin.disk import statements as sql
from takhin.disk.overflow import RECORD_LAST_BYTES_MIN
from takhin.disk.zero_tails import WholeHeader, header_tails, long_headers, record_tails
from takhin.model import Batch, Header
from takhin.native import library
from takhin.packed import Packed

SLICE_BYTES = 2 << 20
SLICE_HEADERS = 2_000
SLICE_HEADERS_BYTES = 1 << 20
"""How much is written before others have their turn on the loop: 2 to 4 ms of work."""
SMALL_SLICE_BYTES = 128 << 10
"""A packed batch that weighs so little has its headers inserted in the same turn: a group may have many of
them."""
ROW_BYTES, HEADER_ROW_BYTES = 512, 256
"""What inserting a record costs besides its value, in bytes of a value, and what a packed header costs."""

Headers = Mapping[int, Sequence[Header]]
"""The headers of a batch's records by position."""


class Columns:
    """Batches that follow each other, as columns of values. first: the offset of the first record."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._columns: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        self._headers: list[tuple[int, Headers]] = []  # by the offset of a batch's first record
        self._bytes = 0

    def add(self, batch: Batch) -> None:
        """Add the next batch."""
        timestamps, keys, values = self._columns
        if batch.headers:
            self._headers.append((self._first + len(timestamps), batch.headers))
        timestamps.extend(batch.timestamps)
        keys.extend(batch.keys)
        values.extend(batch.values)
        self._bytes += batch.size_bytes

    @property
    def highest_timestamp(self) -> int:
        highest: int = max(self._columns[0])
        return highest

    @property
    def weight(self) -> int:
        """What inserting them costs, in bytes of a value."""
        return self._bytes + ROW_BYTES * len(self._columns[0])

    def insert(self, db: apsw.Connection) -> Iterator[None]:
        """Insert all; yields where others may have their turn."""
        yield from insert(db, self._first, len(self._columns[0]), self._columns, self._bytes)
        yield from insert_headers(db, self._headers, self._bytes)


class PackedRows:
    """One batch as it came. first: the offset of its first record."""

    def __init__(self, first: int, packed: Packed) -> None:
        self._first = first
        self._packed = packed

    @property
    def highest_timestamp(self) -> int:
        return self._packed.highest_timestamp

    @property
    def weight(self) -> int:
        """What inserting them costs, in bytes of a value."""
        facts = self._packed.facts
        return facts.end - facts.begin + self._row_bytes * facts.records

    @property
    def _row_bytes(self) -> int:
        """What a record costs besides its bytes, on the average, with its headers."""
        facts = self._packed.facts
        return ROW_BYTES + HEADER_ROW_BYTES * facts.headers // facts.records

    def insert(self, db: apsw.Connection) -> Iterator[None]:
        """Insert all; yields where others may have their turn."""
        packed, native = self._packed, library()
        request, facts, whole = packed.request, packed.facts, memoryview(packed.request)
        weight_max = SLICE_HEADERS_BYTES if facts.headers else SLICE_BYTES
        first, part = self._first, packed.part
        while part:
            if part.start > facts.begin:
                yield
            at, count = facts.end, facts.records
            if self.weight > weight_max:
                at, count = native.cut(request, part, weight_max=weight_max, record_weight=self._row_bytes)
            wire, part = whole[part.start : at], range(at, facts.end)
            db.execute(sql.INSERT_PACKED, (wire, first, packed.now, packed.every))
            if facts.headers:
                if self.weight > SMALL_SLICE_BYTES:
                    yield
                db.execute(sql.INSERT_PACKED_HEADERS, (wire, first))
            first += count


Rows = Columns | PackedRows


def insert_all(db: apsw.Connection, waiting: Sequence[Rows]) -> Iterator[None]:
    """Insert rows that follow each other; yields where others may have their turn."""
    in_slice = 0
    for rows in waiting:
        if in_slice and in_slice + rows.weight > SLICE_BYTES:
            yield
            in_slice = 0
        yield from rows.insert(db)
        in_slice += rows.weight
    if any(isinstance(rows, PackedRows) for rows in waiting):
        _unbind(db)


def _unbind(db: apsw.Connection) -> None:
    """Let go of the last request: a statement that apsw keeps has a copy of it until it is used again."""
    db.execute(sql.INSERT_PACKED, (b"", 0, 0, 0))
    db.execute(sql.INSERT_PACKED_HEADERS, (b"", 0))


def insert(
    db: apsw.Connection,
    first: int,
    rows: int,
    columns: tuple[list[Any], list[Any], list[Any]],
    size_bytes: int,
) -> Iterator[None]:
    """Insert records. size_bytes: of all of them, with their headers."""
    flat: list[Any] = [None] * (3 * rows)
    flat[0::3], flat[1::3], flat[2::3] = columns
    _, keys, values = columns
    may_have_tails = size_bytes >= RECORD_LAST_BYTES_MIN <= _longest(keys) + _longest(values)
    row_bytes = ROW_BYTES + size_bytes // rows
    at = in_slice = 0
    while at < rows:
        if in_slice >= SLICE_BYTES:
            yield
            in_slice = 0
        size = _rows_of_statement(rows - at)
        db.execute(sql.insert_records(size), [first + at, *flat[3 * at : 3 * (at + size)]])
        if may_have_tails:
            part = slice(at, at + size)
            if tails := record_tails(first + at, keys[part], values[part]):
                db.executemany(sql.PUT_ZERO_TAIL, tails)
        in_slice += size * row_bytes
        at += size


def insert_headers(
    db: apsw.Connection, batches: Sequence[tuple[int, Headers]], size_bytes: int
) -> Iterator[None]:
    """Insert headers. batches: by the offset of each one's first record. size_bytes: of all their records."""
    if not batches:
        return
    count = sum(len(of_record) for _, headers in batches for of_record in headers.values())
    step = min(SLICE_HEADERS, 1 + SLICE_HEADERS_BYTES * count // size_bytes)
    rows = (
        (first + position, at, key, value)
        for first, headers in batches
        for position, of_record in headers.items()
        for at, (key, value) in enumerate(of_record)
    )
    while part := list(islice(rows, step)):
        yield
        _insert_headers(db, part)
        if long := long_headers(part):
            yield
            db.executemany(sql.PUT_ZERO_TAIL, header_tails(long))


def _insert_headers(db: apsw.Connection, rows: Sequence[WholeHeader]) -> None:
    at = 0
    while at < len(rows):
        size = _rows_of_statement(len(rows) - at)
        db.execute(sql.insert_headers(size), list(chain.from_iterable(rows[at : at + size])))
        at += size


def _rows_of_statement(rows: int) -> int:
    """How many of so many rows the next statement inserts: a power of two, so that few are prepared."""
    return min(sql.ROWS_PER_STATEMENT_MAX, 1 << (rows.bit_length() - 1))


def _longest(column: Sequence[bytes | None]) -> int:
    if column.count(None) < len(column):
        return max(map(len, filter(None, column)), default=0)
    return 0
