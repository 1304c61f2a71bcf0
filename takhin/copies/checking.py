"""Whether the content of one file is whole: its pages, whose log it is, its records, headers and offsets.

`integrity_check` reads every page, and so compares every checksum; the other queries read few pages or
only count. Knows one connection at a time and no folder.

Offsets have to be dense but for what `takhin recover` has given up, and where compaction has been. There the
file says how many records are left, so a count finds a record that is missing without reading any.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import apsw

from takhin.disk import statements as sql
from takhin.disk.faults import sentence
from takhin.disk.identity import LogRow, identity_fault, read_log_row
from takhin.disk.statements_compaction import GET_GAPS
from takhin.disk.tables import tables_fault
from takhin.disk.versions import COMPACTION_SINCE, LOST_SINCE, PRODUCERS_SINCE, SOURCES_SINCE
from takhin.disk.witness import Mark
from takhin.disk.zero_tails import faults_in

LOST_PAGES_MAX = 3
"""As many complaints of each kind as integrity_check is asked for."""


def log_of(connection: apsw.Connection, topic: str, partition: int) -> tuple[LogRow | None, list[str]]:
    """(the file's row of the table `log`, what is wrong with it at this place, as sentences)."""
    if (altered := tables_fault(connection)) is not None:
        return None, [f"it {altered}"]
    log = read_log_row(connection)
    fault = identity_fault(log, topic, partition)
    if log is None or fault is not None:
        return log, [f"it {fault}"]
    return log, []


def content_faults(connection: apsw.Connection, log: LogRow) -> list[str]:
    """Faults of pages, records, headers and committed offsets, as sentences. Reads the whole file."""
    try:
        return [*_integrity(connection), *_content(connection, log)]
    except apsw.Error as error:
        return [sentence(error)]


def _integrity(connection: apsw.Connection) -> Iterator[str]:
    found = dict.fromkeys(row for each in (sql.INTEGRITY, sql.FREE_LIST) for row in connection.execute(each))
    for (message,) in found:
        if message != "ok":
            yield f"integrity_check: {' '.join(str(message).split())}"


def _content(connection: apsw.Connection, log: LogRow) -> Iterator[str]:
    version = connection.pragma("user_version")
    range_ = {"start": log.start_offset, "end": log.end_offset}
    yield from _missing(connection, log, version)
    for (offset,) in connection.execute(sql.STRAY_HEADER, range_):
        yield f"there is a header of offset {offset}, which has no record"
    for group_id, offset in connection.execute(sql.BAD_COMMITTED, {"end": log.end_offset}):
        yield f"group {group_id!r} has committed offset {offset}, and the log ends at {log.end_offset}"
    yield from islice(faults_in(connection), LOST_PAGES_MAX)
    if version >= PRODUCERS_SINCE:
        for producer_id, end in connection.execute(sql.BAD_PRODUCER, {"end": log.end_offset}):
            yield (
                f"producer {producer_id} is said to have sent records up to {end - 1}, and the log ends at "
                f"{log.end_offset}"
            )
    if version >= SOURCES_SINCE:
        for group_id, topic, partition, offset in connection.execute(sql.BAD_SOURCE):
            yield f"offset {offset} of topic {topic!r} partition {partition} was taken for group {group_id!r}"


def _missing(connection: apsw.Connection, log: LogRow, version: int) -> Iterator[str]:
    """Records that are missing where there should be one, or one too many."""
    compacted = version >= COMPACTION_SINCE
    below, records_below = connection.execute(GET_GAPS).get if compacted else (0, 0)
    dense = max(log.start_offset, below)
    count_below = connection.execute(sql.COUNT_RECORDS_BELOW, (dense,)).get if below else 0
    if count_below != records_below:
        yield (
            f"compaction has left {records_below} records below offset {below}, and there are {count_below}"
        )
    range_ = {"start": dense, "end": log.end_offset}
    given_up = connection.execute(sql.COUNT_LOST, range_).get if version >= LOST_SINCE else 0
    count = connection.execute(sql.COUNT_RECORDS).get - count_below
    first, last = connection.execute(sql.FIRST_OFFSET).get, connection.execute(sql.LAST_OFFSET).get
    within = count + count_below == 0 or (first >= log.start_offset and last < log.end_offset)
    if dense < log.end_offset:
        within &= last == log.end_offset - 1 and (below > log.start_offset or first == log.start_offset)
    if count != log.end_offset - dense - given_up or not within:
        there = count + count_below
        found = f"it has {there}, with offsets from {first} to {last}" if there else "it has none"
        yield f"not every record from offset {dense} to {log.end_offset - 1} is in the file: {found}"


def witness_fault(log: LogRow, noted: Mark | None) -> str | None:
    """What the log has lost, as a sentence, if the witness has noted more than it holds."""
    lost = None if noted is None else log.mark.missing(noted)
    if lost is None:
        return None
    return f"it is short: {lost} (its write-ahead log was damaged or removed, or this is an older copy)"
