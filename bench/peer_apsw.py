"""The floor of everything on SQLite: bare apsw, in the process that measures, with no broker around it.

It writes the same rows to a table of the same shape, with one transaction and one multi-row INSERT for each
batch, synchronous=FULL, and SQLite's automatic checkpoints. There is no transport and no queue. It reads all
rows with one SELECT.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from bench.common import Figures, latencies
from bench.loads import BATCHES, SERIAL, Load, Results
from bench.stopwatch import Stopwatch

TABLE = (
    "CREATE TABLE records (offset INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, key BLOB, value BLOB) "
    "STRICT"
)
SELECT = "SELECT offset, timestamp, key, value FROM records ORDER BY offset"
INSERT = "INSERT INTO records (offset, timestamp, key, value) VALUES "


@contextmanager
def serve(folder: Path, _program: str) -> Iterator[str]:
    """There is no server; the address is the folder."""
    yield str(folder)


def version(_address: str) -> str:
    return f"{apsw.apsw_version()} (SQLite {apsw.sqlite_lib_version()})"


def measure(address: str, load: Load) -> Results:
    """Run the load on a file of its own: batches, or single records one by one."""
    if load.kind not in (BATCHES, SERIAL):
        return {}
    with tempfile.TemporaryDirectory(dir=address) as folder, database(Path(folder)) as connection:
        append = appender(connection, load)
        for _ in range(load.warm_up):
            append()
        seconds = []
        watch = Stopwatch()
        for _ in range(load.requests):
            sent = time.perf_counter()
            append()
            seconds.append(time.perf_counter() - sent)
        if load.kind == SERIAL:
            return {"call": latencies(seconds)}
        records, size_bytes = load.requests * load.records, load.requests * load.payload().size_bytes
        results = {"produce": watch.rate(records, size_bytes) | latencies(seconds)}
        if load.consume:
            results["consume"] = _scan(connection, load)
        return results


def _scan(connection: apsw.Connection, load: Load) -> Figures:
    """Read all rows with every column, and look at every value."""
    records = value_bytes = 0
    watch = Stopwatch()
    for _offset, _timestamp, _key, value in connection.execute(SELECT):
        records += 1
        value_bytes += len(value)
    figures = watch.rate(records, records // load.records * load.payload().size_bytes)
    expected = (load.warm_up + load.requests) * load.records
    if (records, value_bytes) != (expected, expected * load.value_bytes):
        raise RuntimeError(f"read {records} rows with {value_bytes} bytes, not all of {expected}")
    return figures


@contextmanager
def database(folder: Path) -> Iterator[apsw.Connection]:
    connection = apsw.Connection(str(folder / "records.db"))
    try:
        for pragma, value in (("page_size", 16_384), ("journal_mode", "wal"), ("synchronous", 2)):
            connection.pragma(pragma, value)
            if connection.pragma(pragma) != value:
                raise RuntimeError(f"PRAGMA {pragma} cannot be {value}")
        connection.execute(TABLE)
        yield connection
    finally:
        connection.close()


def appender(connection: apsw.Connection, load: Load) -> Callable[[], None]:
    """A function that commits the next batch."""
    payload = load.payload()
    insert = INSERT + ",".join(["(?,?,?,?)"] * load.records)
    end = 0

    def append() -> None:
        nonlocal end
        row: list[Any] = [None] * (4 * load.records)
        row[0::4] = range(end, end + load.records)
        row[1::4] = [time.time_ns() // 1_000_000] * load.records
        row[2::4], row[3::4] = payload.keys, payload.values
        end += load.records
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(insert, row)
        connection.execute("COMMIT")

    return append
