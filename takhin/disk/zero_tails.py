"""Keys and values that end in many zeros, and how it is noticed that a page of zeros is in the place of one.

The checksum of a page of zeros is zero, so it matches. SQLite refuses such a page wherever it expects a page
of a table, and in the middle of the pages that a long row overflows to (sqlite.org/fileformat2.html, 1.6).
Only the last one of those may be all zeros: the end of the row is then read as zeros. So the table
`zero_tails` has every key and value with an end that may be such a page, and the length without the zeros. A
row that ends like this and is not there has lost its last page. Every reader of a file looks for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apsw

from takhin.disk import statements as sql
from takhin.disk.overflow import HEADER_LAST_BYTES_MIN, RECORD_LAST_BYTES_MIN
from takhin.disk.versions import TAILS_SINCE

RECORD_ZEROS = bytes(RECORD_LAST_BYTES_MIN)
HEADER_ZEROS = bytes(HEADER_LAST_BYTES_MIN)
"""What ends in fewer zeros has no page of zeros at its end."""

OF_RECORD = -1
"""Stands in the column `position` for a record itself; its headers are numbered from 0."""

Tail = tuple[int, int, int]
"""A row of `zero_tails`: (offset, position, length)."""
WholeHeader = tuple[int, int, str, bytes]
"""A row of `headers`: (offset, position, key, value)."""

STEPS = (2_048, 256, 32)
"""Bytes that are compared at once."""
NOTHING = b""


class LostPageError(apsw.CorruptError):
    """A page of zeros is in the place of one that a record, a header or a committed offset has lost."""


def length_without(key: bytes, value: bytes, zeros: bytes) -> int | None:
    """The bytes of key and value together without the zeros at their end; None if those are fewer.

    zeros: so many of them count. Comparing in C, by steps, takes 2 ms for 10 MB of zeros; stripping 18.
    """
    missing = len(zeros) - len(value)
    if missing <= 0:
        if not value.endswith(zeros):
            return None
    elif not (zeros.startswith(value) and key.endswith(zeros[:missing])):
        return None
    left = _without(value)
    return len(key) + left if left else _without(key)


def _without(content: bytes) -> int:
    end = len(content)
    for step in STEPS:
        while end >= step and content.endswith(RECORD_ZEROS[:step], 0, end):
            end -= step
    begin = max(0, end - STEPS[-1])
    return begin + len(content[begin:end].rstrip(b"\0"))


def record_tails(first: int, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> list[Tail]:
    """The rows of `zero_tails` for records from offset `first` on."""
    return [
        (first + at, OF_RECORD, length)
        for at, (key, value) in enumerate(zip(keys, values, strict=True))
        if (length := length_without(key or NOTHING, value or NOTHING, RECORD_ZEROS)) is not None
    ]


def long_headers(headers: Sequence[WholeHeader]) -> list[WholeHeader]:
    """Those that may end on a page of their own. Each zero of a key is one of its characters."""
    return [header for header in headers if len(header[2]) + len(header[3]) >= HEADER_LAST_BYTES_MIN]


def header_tails(headers: Sequence[WholeHeader]) -> Iterator[Tail]:
    """The rows of `zero_tails` for headers."""
    for offset, position, key, value in headers:
        if (length := length_without(key.encode(), value, HEADER_ZEROS)) is not None:
            yield offset, position, length


def check_record(db: apsw.Connection, offset: int, key: bytes | None, value: bytes | None) -> None:
    """Raise LostPageError if the record has lost its last page."""
    length = length_without(key or NOTHING, value or NOTHING, RECORD_ZEROS)
    if length is not None:
        _check(db, offset, OF_RECORD, length)


def check_header(db: apsw.Connection, offset: int, position: int, key: bytes, value: bytes) -> None:
    """Raise LostPageError if the header has lost its last page."""
    length = length_without(key, value, HEADER_ZEROS)
    if length is not None:
        _check(db, offset, position, length)


def check_committed(group_id: str, committed_at: int) -> None:
    """Raise LostPageError if the row has lost its last page, on which its last column would be."""
    if not committed_at:
        raise LostPageError(f"what group {group_id!r} has committed has lost a page: zeros are in its place")


def check_offset(db: apsw.Connection, offset: int) -> None:
    """Raise LostPageError if the record at an offset, or a header of it, has lost its last page."""
    for found in _tails(db, sql.LONG_CONTENT_AT, (offset, offset)) if knows_tails(db) else ():
        _check(db, *found)


def knows_tails(db: apsw.Connection) -> bool:
    """False for a file of an older version, which cannot tell zeros from lost pages."""
    return int(db.pragma("user_version")) >= TAILS_SINCE


def tails_in(db: apsw.Connection) -> Iterator[Tail]:
    """The rows that `zero_tails` must have for everything in the file. Reads all that is long."""
    return _tails(db, sql.LONG_CONTENT)


def faults_in(db: apsw.Connection) -> Iterator[str]:
    """What has lost its last page, as sentences, of records, headers and committed offsets."""
    for found in tails_in(db) if knows_tails(db) else ():
        try:
            _check(db, *found)
        except LostPageError as error:
            yield str(error)
    for group_id, committed_at in db.execute(sql.ZEROED_COMMITTED):
        try:
            check_committed(group_id, committed_at)
        except LostPageError as error:
            yield str(error)


def _tails(db: apsw.Connection, statement: str, bindings: Sequence[int] = ()) -> Iterator[Tail]:
    for offset, position, key, value in db.execute(statement, bindings):
        zeros = RECORD_ZEROS if position == OF_RECORD else HEADER_ZEROS
        length = length_without(key or NOTHING, value or NOTHING, zeros)
        if length is not None:
            yield offset, position, length


def _check(db: apsw.Connection, offset: int, position: int, length: int) -> None:
    noted = db.execute(sql.GET_ZERO_TAIL, (offset, position)).get
    if noted == length or (noted is None and offset < (db.execute(sql.TAILS_UNKNOWN_BELOW).get or 0)):
        return
    what = "record" if position == OF_RECORD else f"header {position} of record"
    raise LostPageError(f"{what} {offset} has lost its last page: zeros are in its place")
