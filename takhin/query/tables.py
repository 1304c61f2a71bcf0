"""The tables of a query: their columns, and how the wanted rows are read from the files.

A comparison that is passed down here only saves reading: SQLite checks each row again. Knows nothing of
virtual tables; the SQL is in takhin/disk/statements.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import apsw

from takhin.disk import statements, versions
from takhin.disk.identity import LogRow
from takhin.disk.zero_tails import check_committed, check_offset
from takhin.json_bytes import json_bytes
from takhin.model import INT64_MAX
from takhin.query.topic import TopicFiles

SPAN_OFFSETS_MIN = 100
SPAN_OFFSETS_MAX = 10_000
"""Offsets that one read covers: few at first, because the query may want no more."""
READ_BYTES = 4 << 20
"""A read ends, also within its span, after this many bytes of keys, values and headers."""

COMPARISONS = frozenset({"=", "<", "<=", ">", ">="})
MATCHES = frozenset({"=", "LIKE", "GLOB"})

Row = tuple[Any, ...]


class Column(NamedTuple):
    """A column of a table."""

    name: str
    sql: str
    """The expression in a partition's file; {partition} stands for the partition's number."""
    kind: str = ""
    """The declared type, which decides how SQLite compares values."""
    operators: frozenset[str] = frozenset()
    """The operators of comparisons that save reading."""
    shown: Callable[[Any], Any] | None = None
    """Converts a value that is not NULL."""
    hidden: bool = False
    """True if `SELECT *` leaves the column out."""


class Comparison(NamedTuple):
    """A condition that every wanted row fulfils."""

    column: str
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class Wanted:
    """The part of a table that is read. columns: the wanted ones; the others may be NULL."""

    columns: frozenset[str]
    conditions: Sequence[Comparison]
    descending: bool


class Table(Protocol):
    """A table over all partitions of a topic."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> Sequence[Column]: ...

    @property
    def key(self) -> Sequence[str]:
        """The columns that identify a row."""

    @property
    def ordered(self) -> bool:
        """True if rows come in the order of the key, or in the opposite order."""

    def scan(self, topic: TopicFiles, wanted: Wanted) -> Iterator[list[Row]]:
        """The rows of each read, with a value for each column. Raises QueryError."""


@dataclass(frozen=True, slots=True)
class LogTable:
    """A table of data that producers have sent. Its first two columns are partition and offset."""

    name: str
    columns: Sequence[Column]
    key: Sequence[str]
    long: Mapping[str, str]
    """By column, a condition: it may end on a page of its own, which may be lost."""
    ordered = True

    def scan(self, topic: TopicFiles, wanted: Wanted) -> Iterator[list[Row]]:
        for partition in _partitions(topic, wanted):
            yield from self._scan(topic, partition, wanted)

    def _scan(self, topic: TopicFiles, partition: int, wanted: Wanted) -> Iterator[list[Row]]:
        left = _narrowed(range(INT64_MAX), "offset", wanted.conditions)
        span = SPAN_OFFSETS_MIN

        def work(connection: apsw.Connection, log: LogRow) -> tuple[list[Row], range]:
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
        """(rows of these offsets, True if they are all of them). Rows of one offset stay together."""
        conditions: list[str] = []
        values: list[Any] = [offsets.start, offsets.stop]
        for column, operator, value in wanted.conditions:
            if column not in ("partition", "offset"):
                condition, comparable = self._condition(column, operator, value)
                # What is lost would compare as something else.
                conditions.append(statements.either((condition, *self._long({column}))))
                values.append(comparable)
        select = statements.select_offsets(
            [*self._columns(partition, wanted), statements.either(self._long(wanted.columns))],
            self.name,
            conditions,
            self.key[1:],
            descending=wanted.descending,
        )
        cursor = connection.execute(select, values)
        sized = [
            at for at, of in enumerate(self.columns) if of.shown is not None and of.name in wanted.columns
        ]
        rows: list[Row] = []
        size_bytes = 0
        checked = -1
        for row in cursor:
            if size_bytes > READ_BYTES and row[1] != rows[-1][1]:
                cursor.close()
                return rows, False
            if row[-1] and row[1] != checked:
                checked = row[1]
                check_offset(connection, checked)
            rows.append(row)
            for at in sized:
                size_bytes += len(row[at] or b"")
        return rows, True

    def _columns(self, partition: int, wanted: Wanted) -> list[str]:
        needed = {*wanted.columns, "offset"}
        return [of.sql.format(partition=partition) if of.name in needed else "NULL" for of in self.columns]

    def _long(self, columns: AbstractSet[str]) -> list[str]:
        return [condition for column, condition in self.long.items() if column in columns]

    def _condition(self, name: str, operator: str, value: Any) -> tuple[str, Any]:
        """(SQL that is true for every row that fulfils the comparison, its parameter)."""
        if operator not in COMPARISONS:
            return statements.compare_text(name, operator), value
        (column,) = (column for column in self.columns if column.name == name)
        if column.shown is text and isinstance(value, str):
            value = value.encode()
        return statements.compare(name, operator), value


@dataclass(frozen=True, slots=True)
class StateTable:
    """A table of which each partition has only a few rows.

    source: what stands after FROM. since: the first schema version whose files have it; others have no rows.
    """

    name: str
    columns: Sequence[Column]
    key: Sequence[str]
    source: str
    check: Callable[[Row], None] = lambda _row: None
    """Raises LostPageError for a row whose end is lost."""
    since: int = 0
    ordered = False

    def scan(self, topic: TopicFiles, wanted: Wanted) -> Iterator[list[Row]]:
        for partition in _partitions(topic, wanted):
            columns = [column.sql.format(partition=partition) for column in self.columns]
            select = statements.select(columns, self.source)
            yield topic.read(partition, partial(self._all, select))

    def _all(self, select: str, connection: apsw.Connection, _log: LogRow) -> list[Row]:
        if int(connection.pragma("user_version")) < self.since:
            return []
        rows = connection.execute(select).fetchall()
        for row in rows:
            self.check(row)
        return rows


def _partitions(topic: TopicFiles, wanted: Wanted) -> Sequence[int]:
    found = _narrowed(range(len(topic.paths)), "partition", wanted.conditions)
    return found[::-1] if wanted.descending else found


def _narrowed(numbers: range, column: str, conditions: Sequence[Comparison]) -> range:
    """The part of `numbers` for which the comparisons of the column can be true."""
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


def _offset_before(connection: apsw.Connection, conditions: Sequence[Comparison]) -> int:
    """An offset below which every timestamp is too low, by the blocks of times."""
    times = [
        value for of, operator, value in conditions if of == "timestamp" and operator in ("=", ">", ">=")
    ]
    found = (connection.execute(statements.FIRST_FROM_TIME, (value,)).get or 0 for value in times)
    return max(found, default=0)


def text(content: bytes) -> str | bytes:
    """Bytes as SQL shows them: text if they are UTF-8 without NUL, at which SQLite's text functions stop."""
    if b"\0" not in content:
        try:
            return content.decode()
        except UnicodeDecodeError:
            pass
    return content


def _headers(in_hex: str) -> str:
    """A JSON array of headers, made of a JSON array of [key, value in hexadecimal]."""
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
            statements.HEADERS_AS_JSON,
            "TEXT",
            shown=_headers,
        ),
        Column("time", statements.TIME_AS_TEXT, "TEXT", hidden=True),
    ),
    ("partition", "offset"),
    {
        "key": statements.LONG_KEY,
        "value": statements.LONG_RECORD,
        "headers": statements.HAS_LONG_HEADER,
    },
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
    {"key": statements.LONG_HEADER, "value": statements.LONG_HEADER},
)
COMMITTED_OFFSETS = StateTable(
    "committed_offsets",
    (
        Column("group_id", "group_id", "TEXT"),
        PARTITION,
        Column("committed_offset", "offset", "INTEGER"),
        Column("end_offset", "end_offset", "INTEGER"),
        Column("lag", statements.LAG, "INTEGER"),
        Column("committed_at", "committed_at", "INTEGER"),
        Column("metadata", "metadata", "TEXT"),
    ),
    ("group_id", "partition"),
    statements.COMMITTED_AND_LOG,
    lambda row: check_committed(row[0], row[5]),
)
SOURCES = StateTable(
    "sources",
    (
        Column("group_id", "group_id", "TEXT"),
        PARTITION,
        Column("source_topic", "topic", "TEXT"),
        Column("source_partition", "partition", "INTEGER"),
        Column("source_offset", "offset", "INTEGER"),
        Column("source_incarnation_id", "incarnation_id", "TEXT"),
    ),
    ("group_id", "partition", "source_incarnation_id"),
    "sources",
    since=versions.SOURCES_SINCE,
)
"""What the records were made of, by programs that read as a group, transform and write."""
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
CONFIGS = StateTable(
    "configs",
    (Column("name", "key", "TEXT"), Column("value", "value", "TEXT")),
    ("name",),
    "topic_configs",
)
"""What the topic says itself. Only partition 0's file has rows of it."""
TABLES: Sequence[Table] = (RECORDS, HEADERS, COMMITTED_OFFSETS, SOURCES, PARTITIONS, CONFIGS)
