"""How the records of a commit group get into the table: many in a statement, and not too many in a turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import apsw

from takhin.disk import statements as sql
from takhin.disk.overflow import RECORD_LAST_BYTES_MIN
from takhin.disk.zero_tails import header_tails, long_headers, record_tails
from takhin.model import Header

SLICE_BYTES = 2 << 20
SLICE_HEADERS = 2_000
SLICE_HEADERS_BYTES = 1 << 20
"""How much is written before others have their turn on the loop: 2 to 4 ms of work."""
ROW_BYTES = 512
"""What inserting a row costs besides its value, in bytes of a value."""

Headers = Mapping[int, Sequence[Header]]
"""The headers of a batch's records by position."""


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
        size = min(sql.ROWS_PER_STATEMENT_MAX, 1 << ((rows - at).bit_length() - 1))
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
        db.executemany(sql.INSERT_HEADER, part)
        if long := long_headers(part):
            yield
            db.executemany(sql.PUT_ZERO_TAIL, header_tails(long))


def _longest(column: Sequence[bytes | None]) -> int:
    if column.count(None) < len(column):
        return max(map(len, filter(None, column)), default=0)
    return 0
