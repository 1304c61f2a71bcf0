"""One query over a topic: what it may do, how long it may take, and what its errors mean.

It runs in a database in memory whose tables are virtual, so that it can reach nothing but the topic. Knows no
file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import apsw
from apsw.ext import query_info

from takhin.disk import statements
from takhin.disk.faults import sentence
from takhin.errors import QueryError
from takhin.query.tables import TABLES
from takhin.query.topic import TopicFiles
from takhin.query.virtual import Module
from takhin.sentences import shown

READING = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE})
"""What a query may do (sqlite.org/c3ref/c_alter_table.html)."""

ONLY_READS = "a query only reads: it is a SELECT, WITH, VALUES or EXPLAIN"

STEPS_BETWEEN_LOOKS = 100_000
"""Steps of SQLite's virtual machine between two looks at the time: some milliseconds."""
CACHE_KIB = 32_768
"""Larger sorts and groups go to a temporary file."""


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a query.

    columns: their names. rows: read while they are iterated over, which may raise QueryError.
    """

    columns: Sequence[str]
    rows: Iterator[tuple[Any, ...]]


def run(topic: TopicFiles, sql: str, *, timeout_s: float | None = None) -> Result:
    """Run one SELECT. timeout_s: how long it may take, from now on. Raises QueryError."""
    connection = _connection(topic)
    if timeout_s is not None:
        connection.set_progress_handler(_past(time.monotonic() + timeout_s), STEPS_BETWEEN_LOOKS)
    else:  # Ctrl-C is handled only when Python code runs
        connection.set_progress_handler(lambda: False, STEPS_BETWEEN_LOOKS)
    with _explained(sql, timeout_s):
        details = query_info(connection, sql)
    if not details.has_vdbe:
        raise QueryError("the query is empty")
    if not details.description:
        raise QueryError(ONLY_READS)
    if details.query_remaining:
        raise QueryError(
            f"there must be one query, and nothing after it: {details.query_remaining.strip()!r}"
        )

    def rows() -> Iterator[tuple[Any, ...]]:
        with _explained(sql, timeout_s):
            yield from connection.execute(sql)

    return Result([str(name) for name, _ in details.description], rows())


def _connection(topic: TopicFiles) -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.pragma("temp_store", 1)  # in files, so that memory is bounded
    connection.pragma("cache_size", -CACHE_KIB)
    for table in TABLES:
        module = cast("apsw.VTModule", Module(table, topic))  # its protocol has optional methods, too
        connection.create_module(
            table.name, module, use_bestindex_object=True, eponymous_only=True, read_only=True
        )
        connection.execute(statements.touch_table(table.name))  # declares it, which a query may not do
    connection.authorizer = lambda action, *_: apsw.SQLITE_OK if action in READING else apsw.SQLITE_DENY
    return connection


def _past(deadline: float) -> Callable[[], bool]:
    return lambda: time.monotonic() > deadline


@contextmanager
def _explained(sql: str, timeout_s: float | None) -> Iterator[None]:
    """Errors of SQLite leave the block as QueryError; those of reading files are that already."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise QueryError(
            f"the query makes text that is not UTF-8, {error.object[:40]!r}: use the BLOB itself, or its "
            "hex(…), instead of a cast to text"
        ) from error
    except apsw.AuthError as error:
        raise QueryError(ONLY_READS) from error
    except apsw.InterruptError as error:
        raise QueryError(f"the query was given up after {timeout_s:g} s") from error
    except apsw.Error as error:
        at = getattr(error, "error_offset", -1)
        rest = sql.encode()[at:].decode(errors="replace") if at >= 0 else ""
        where = f", at {shown(rest)}" if rest else ""
        raise QueryError(f"{sentence(error)}{where}") from error
