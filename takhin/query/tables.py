"""The tables of a query: their columns, and how the rows that are asked for are read from the files.

A condition that is told here only saves reading: SQLite looks at each row again. Knows nothing of virtual
tables.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import apsw

from takhin.disk.beside import Log
from takhin.json_bytes import json_bytes
from takhin.limits import INT64_MAX
from takhin.query.topic import Topic

SPAN_OFFSETS_MIN = 100
SPAN_OFFSETS_MAX = 10_000
"""Offsets that one read goes over: few at first, since the query may want no more."""
READ_BYTES = 4 << 20
"""A read with that many bytes of keys, values and headers ends there, within its span."""

COMPARISONS = frozenset({"=", "<", "<=", ">", ">="})
MATCHES = frozenset({"=", "LIKE", "GLOB"})

Row = tuple[Any, ...]


class Column(NamedTuple):
    """A column of a table."""

    name: str
    sql: str
    """What it is in a partition's file; {partition} stands for the partition's number."""
    kind: str = ""
    """How it is declared, which decides how SQLite compares it."""
    operators: frozenset[str] = frozenset()
    """Of conditions that save reading."""
    shown: Callable[[Any], Any] | None = None
    """What becomes of a value that is not NULL."""
    hidden: bool = False
    """Whether `SELECT *` leaves it out."""


class Condition(NamedTuple):
    """What all rows that are asked for have in common."""

    column: str
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of a table is asked for. columns: those that matter; the others may be NULL."""

    columns: frozenset[str]
    conditions: Sequence[Condition]
    descending: bool


class Table(Protocol):
    """A table over all partitions of a topic."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> Sequence[Column]: ...

    @property
    def key(self) -> Sequence[str]:
        """The columns that tell a row from all others."""

    @property
    def ordered(self) -> bool:
        """Whether rows come in the order of the key, or all the other way round."""

    def scan(self, topic: Topic, wanted: Wanted) -> Iterator[list[Row]]:
        """The rows, read by read, each with a value for each column. Raises QueryError."""


@dataclass(frozen=True, slots=True)
class LogTable:
    """A table of what producers wrote. Its first two columns are partition and offset."""

    name: str
    columns: Sequence[Column]
    key: Sequence[str]
    ordered = True

    def scan(self, topic: Topic, wanted: Wanted) -> Iterator[list[Row]]:
        for partition in _partitions(topic, wanted):
            yield from self._scan(topic, partition, wanted)

    def _scan(self, topic: Topic, partition: int, wanted: Wanted) -> Iterator[list[Row]]:
        left = _narrowed(range(INT64_MAX), "offset", wanted.conditions)
        span = SPAN_OFFSETS_MIN

        def work(connection: apsw.Connection, log: Log) -> tuple[list[Row], range]:
            first = max(left.start, log.start_offset, _offset_before(connection, wanted.conditions))
            end = min(left.stop, topic.end_offset(log))
            if wanted.descending:
                offsets = range(max(first, end - span), end)
            else:
                offsets = range(first, min(first + span, end))
            rows, whole = self._read(connection, partition, wanted, offsets)
            if wanted.descending:
                return rows, range(first, offsets.start if whole else rows[-1][1])
            return rows, range(offsets.stop if whole else rows[-1][1] + 1, end)

        while left:
            rows, left = topic.read(partition, work)
            span = min(span * 4, SPAN_OFFSETS_MAX)
            yield rows

    def _read(
        self, connection: apsw.Connection, partition: int, wanted: Wanted, offsets: range
    ) -> tuple[list[Row], bool]:
        """Rows of these offsets, and whether they are all; those of one offset stay together."""
        conditions, values = ["offset >= ?", "offset < ?"], [offsets.start, offsets.stop]
        for column, operator, value in wanted.conditions:
            if column not in ("partition", "offset"):
                condition, comparable = self._condition(column, operator, value)
                conditions.append(condition)
                values.append(comparable)
        order = ", ".join(f"{name} DESC" if wanted.descending else name for name in self.key[1:])
        cursor = connection.execute(
            f"SELECT {self._columns(partition, wanted)} FROM {self.name} "
            f"WHERE {' AND '.join(conditions)} ORDER BY {order}",
            values,
        )
        sized = [
            at for at, of in enumerate(self.columns) if of.shown is not None and of.name in wanted.columns
        ]
        rows: list[Row] = []
        size_bytes = 0
        for row in cursor:
            if size_bytes > READ_BYTES and row[1] != rows[-1][1]:
                cursor.close()
                return rows, False
            rows.append(row)
            for at in sized:
                size_bytes += len(row[at] or b"")
        return rows, True

    def _columns(self, partition: int, wanted: Wanted) -> str:
        needed = {*wanted.columns, "offset"}
        return ", ".join(
            of.sql.format(partition=partition) if of.name in needed else "NULL" for of in self.columns
        )

    def _condition(self, name: str, operator: str, value: Any) -> tuple[str, Any]:
        """SQL that is true of all rows of which the condition is true, and its parameter."""
        if operator not in COMPARISONS:
            return f"CAST({name} AS TEXT) {operator} ?", value
        (column,) = (column for column in self.columns if column.name == name)
        if column.shown is text and isinstance(value, str):
            value = value.encode()
        return f"{name} {operator} ?", value


@dataclass(frozen=True, slots=True)
class StateTable:
    """A table of which each partition has but a few rows. source: what stands behind FROM."""

    name: str
    columns: Sequence[Column]
    key: Sequence[str]
    source: str
    ordered = False

    def scan(self, topic: Topic, wanted: Wanted) -> Iterator[list[Row]]:
        for partition in _partitions(topic, wanted):
            columns = ", ".join(column.sql.format(partition=partition) for column in self.columns)
            select = f"SELECT {columns} FROM {self.source}"
            yield topic.read(partition, partial(_all, select))


def _all(select: str, connection: apsw.Connection, _log: Log) -> list[Row]:
    return connection.execute(select).fetchall()


def _partitions(topic: Topic, wanted: Wanted) -> Sequence[int]:
    found = _narrowed(range(len(topic.paths)), "partition", wanted.conditions)
    return found[::-1] if wanted.descending else found


def _narrowed(numbers: range, column: str, conditions: Sequence[Condition]) -> range:
    """Those of the numbers for which the conditions on the column can be true."""
    low, high = numbers.start, numbers.stop
    for of, operator, value in conditions:
        if of != column or not isinstance(value, int | float) or not math.isfinite(value):
            continue
        if operator in ("=", ">="):
            low = max(low, math.ceil(value))
        if operator in ("=", "<="):
            high = min(high, math.floor(value) + 1)
        if operator == ">":
            low = max(low, math.floor(value) + 1)
        if operator == "<":
            high = min(high, math.ceil(value))
    return range(low, max(low, high))


def _offset_before(connection: apsw.Connection, conditions: Sequence[Condition]) -> int:
    """An offset below which everything is stamped too early, by the sparse index of times."""
    times = [
        value for of, operator, value in conditions if of == "timestamp" and operator in ("=", ">", ">=")
    ]
    found = (connection.execute(LAST_BEFORE_TIME, (value,)).get or 0 for value in times)
    return max(found, default=0)


LAST_BEFORE_TIME = "SELECT offset FROM time_index WHERE timestamp < ? ORDER BY timestamp DESC LIMIT 1"


def text(content: bytes) -> str | bytes:
    """Bytes as SQL sees them: text where they are UTF-8 without NUL, where SQLite's text functions stop."""
    if b"\0" not in content:
        try:
            return content.decode()
        except UnicodeDecodeError:
            pass
    return content


def _headers(in_hex: str) -> str:
    """A JSON array of headers out of one of [key, value in hexadecimal]."""
    if in_hex == "[]":
        return in_hex
    headers = [{"key": key, "value": json_bytes(bytes.fromhex(value))} for key, value in json.loads(in_hex)]
    return json.dumps(headers, ensure_ascii=False)


PARTITION = Column("partition", "{partition}", "INTEGER", COMPARISONS)
OFFSET = Column("offset", "offset", "INTEGER", COMPARISONS)
VALUE = Column("value", "value", operators=MATCHES, shown=text)

RECORDS = LogTable(
    "records",
    (
        PARTITION,
        OFFSET,
        Column("timestamp", "timestamp", "INTEGER", COMPARISONS),
        Column("key", "key", operators=MATCHES, shown=text),
        VALUE,
        Column(
            "headers",
            "(SELECT json_group_array(json_array(key, hex(value))) FROM "
            "(SELECT key, value FROM headers WHERE headers.offset = records.offset ORDER BY position))",
            "TEXT",
            shown=_headers,
        ),
        Column(
            "time", "strftime('%Y-%m-%dT%H:%M:%fZ', timestamp / 1000.0, 'unixepoch')", "TEXT", hidden=True
        ),
    ),
    ("partition", "offset"),
)
HEADERS = LogTable(
    "headers",
    (
        PARTITION,
        OFFSET,
        Column("position", "position", "INTEGER"),
        Column("key", "key", "TEXT", MATCHES),
        VALUE,
    ),
    ("partition", "offset", "position"),
)
COMMITTED_OFFSETS = StateTable(
    "committed_offsets",
    (
        Column("group_id", "group_id", "TEXT"),
        PARTITION,
        Column("committed_offset", "offset", "INTEGER"),
        Column("end_offset", "end_offset", "INTEGER"),
        Column("lag", "end_offset - offset", "INTEGER"),
        Column("committed_at", "committed_at", "INTEGER"),
        Column("metadata", "metadata", "TEXT"),
    ),
    ("group_id", "partition"),
    "committed_offsets CROSS JOIN log",
)
PARTITIONS = StateTable(
    "partitions",
    (
        PARTITION,
        Column("beginning_offset", "start_offset", "INTEGER"),
        Column("end_offset", "end_offset", "INTEGER"),
        Column("incarnation_id", "incarnation_id", "TEXT"),
    ),
    ("partition",),
    "log",
)
TABLES: Sequence[Table] = (RECORDS, HEADERS, COMMITTED_OFFSETS, PARTITIONS)
