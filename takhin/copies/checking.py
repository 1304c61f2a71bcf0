"""Whether what one file holds is whole: its pages, whose log it is, its records, headers and offsets.

`integrity_check` reads every page, and so compares every checksum; the other queries touch few pages or
only count. Knows one connection at a time; nothing of folders.
"""

from __future__ import annotations

from collections.abc import Iterator

import apsw

from takhin.disk.beside import Log, read_log
from takhin.disk.faults import sentence
from takhin.disk.witness import Mark

INTEGRITY = "PRAGMA integrity_check(3)"

RANGE = "SELECT count(*) FROM records"
"""Count alone is fast; the offsets are unique, so that a count and two bounds say that they are dense."""
LOWEST = "SELECT min(offset) FROM records"
HIGHEST = "SELECT max(offset) FROM records"
STRAY_HEADER = (
    "SELECT offset FROM headers WHERE offset < :start UNION ALL "
    "SELECT offset FROM headers WHERE offset >= :end LIMIT 1"
)
BAD_COMMITTED = (
    "SELECT group_id, offset FROM committed_offsets WHERE offset NOT BETWEEN 0 AND :end ORDER BY group_id"
)
BAD_PRODUCER = (
    "SELECT lower(hex(producer_id)), offset + record_count FROM producer_batches "
    "WHERE offset < 0 OR record_count < 1 OR offset + record_count > :end ORDER BY offset DESC LIMIT 3"
)
PRODUCERS_SINCE = 3
"""The schema version that first had producer_batches."""


def log_of(connection: apsw.Connection, topic: str, partition: int) -> tuple[Log | None, list[str]]:
    """The file's log row, and what is wrong with it at this place."""
    log = read_log(connection)
    if log is None:
        return None, ["it does not say whose log it is: its table log is empty"]
    if (log.topic, log.partition) != (topic, partition):
        of = f"partition {log.partition} of topic {log.topic!r}"
        return log, [f"it is misplaced: it holds {of}, not partition {partition} of topic {topic!r}"]
    if not 0 <= log.start_offset <= log.end_offset:
        return log, [f"its range is impossible: {log.start_offset} to {log.end_offset}"]
    return log, []


def content_faults(connection: apsw.Connection, log: Log) -> list[str]:
    """What is wrong with the pages, records, headers and committed offsets. Reads the whole file."""
    try:
        return [*_integrity(connection), *_content(connection, log)]
    except apsw.Error as error:
        return [sentence(error)]


def _integrity(connection: apsw.Connection) -> Iterator[str]:
    for (message,) in connection.execute(INTEGRITY):
        if message != "ok":
            yield f"integrity_check: {' '.join(str(message).split())}"


def _content(connection: apsw.Connection, log: Log) -> Iterator[str]:
    count = connection.execute(RANGE).get
    bounds = connection.execute(LOWEST).get, connection.execute(HIGHEST).get
    expected = (log.start_offset, log.end_offset - 1) if log.end_offset > log.start_offset else (None, None)
    if (count, bounds) != (log.end_offset - log.start_offset, expected):
        found = f"{count} from {bounds[0]} to {bounds[1]}" if count else "none"
        yield (
            f"records do not lie densely from {log.start_offset} to {log.end_offset - 1}: there are {found}"
        )
    for (offset,) in connection.execute(STRAY_HEADER, {"start": log.start_offset, "end": log.end_offset}):
        yield f"there is a header of offset {offset}, which has no record"
    for group_id, offset in connection.execute(BAD_COMMITTED, {"end": log.end_offset}):
        yield f"group {group_id!r} has committed offset {offset}, and the log ends at {log.end_offset}"
    if connection.pragma("user_version") >= PRODUCERS_SINCE:
        for producer_id, end in connection.execute(BAD_PRODUCER, {"end": log.end_offset}):
            yield (
                f"producer {producer_id} is said to have sent records up to {end - 1}, and the log ends at "
                f"{log.end_offset}"
            )


def witness_fault(log: Log, noted: Mark | None) -> str | None:
    """What the witness knows of that the log has lost."""
    lost = None if noted is None else Mark(log.commits, log.end_offset).missing(noted)
    if lost is None:
        return None
    return f"it is short: {lost} (its write-ahead log was damaged or removed, or this is an older copy)"
