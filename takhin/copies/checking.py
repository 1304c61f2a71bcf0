"""Whether the content of one file is whole: its pages, whose log it is, its records, headers and offsets.

`integrity_check` reads every page, and so compares every checksum; the other queries read few pages or
only count. Knows one connection at a time and no folder.

Offsets have to be dense, and the check relies on that on purpose: nothing removes a record from the middle of
a log, so a gap is damage, and a count finds it without reading the records. Compaction would make gaps
legitimate. The rule then has to change here, with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import apsw

from takhin.disk import statements as sql
from takhin.disk.faults import sentence
from takhin.disk.identity import LogRow, identity_fault, read_log_row
from takhin.disk.tables import tables_fault
from takhin.disk.versions import LOST_SINCE, PRODUCERS_SINCE
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
    count = connection.execute(sql.COUNT_RECORDS).get
    range_ = {"start": log.start_offset, "end": log.end_offset}
    given_up = connection.execute(sql.COUNT_LOST, range_).get if version >= LOST_SINCE else 0
    bounds = connection.execute(sql.FIRST_OFFSET).get, connection.execute(sql.LAST_OFFSET).get
    expected = (log.start_offset, log.end_offset - 1) if log.end_offset > log.start_offset else (None, None)
    if (count, bounds) != (log.end_offset - log.start_offset - given_up, expected):
        found = f"{count} from {bounds[0]} to {bounds[1]}" if count else "none"
        yield (
            f"records do not lie densely from {log.start_offset} to {log.end_offset - 1}: there are {found}"
        )
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


def witness_fault(log: LogRow, noted: Mark | None) -> str | None:
    """What the log has lost, as a sentence, if the witness has noted more than it holds."""
    lost = None if noted is None else log.mark.missing(noted)
    if lost is None:
        return None
    return f"it is short: {lost} (its write-ahead log was damaged or removed, or this is an older copy)"
