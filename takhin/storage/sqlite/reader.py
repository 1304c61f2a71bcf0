"""Reads of one partition's file: one short statement each, never a transaction that outlives it.

They run on the event loop, not on a thread: a scan of 1,000 rows takes 0.3 ms there, while on a thread
beside a busy loop each row waits for the GIL (measured: 130 ms). The limits of `read` bound the time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import apsw
import structlog

from takhin import topic_configs
from takhin.disk import statements as sql
from takhin.disk.identity import num_partitions
from takhin.disk.overflow import HEADER_LAST_BYTES_MIN, RECORD_LAST_BYTES_MIN
from takhin.disk.witness import PARTITIONS_MAX
from takhin.disk.zero_tails import check_header, check_record
from takhin.model import (
    NO_TIMESTAMP,
    Header,
    OffsetAtTime,
    Records,
    Row,
    TopicConfig,
)
from takhin.packed import Encoded, encoded_records
from takhin.sizes import HEADER_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES, size_bytes
from takhin.storage.sqlite.file import LogFile
from takhin.storage.sqlite.group import LogState
from takhin.storage.sqlite.times import Ends, Sought, Times, read_ends

logger = structlog.get_logger()

READ_HEADERS_MAX = 2_000
"""Headers of one read, unless its first record has more. Each occupies the event loop for about 2 µs."""


class Reader:
    """Reads through a file's reading connection; the file must be open."""

    def __init__(self, file: LogFile, state: LogState, *, native: bool) -> None:
        """native: SQLite has the functions of the native library."""
        self._file = file
        self._state = state
        self._native = native

    def read(self, offset: int, end: int, *, max_bytes: int, max_records: int) -> Records:
        """Records from offset on, below end, within both limits: at least one, unless none follows.

        Goes on behind a gap only where records may be missing: else what follows would be taken for the log's
        next record.
        Raises LostPageError, apsw.Error.
        """
        limits = {"records_max": max_records, "bytes_max": max_bytes}
        if self._native and (encoded := self._encoded(offset, end, limits)) is not None:
            return encoded
        with self._one_moment():
            rows = self._rows(offset, end, limits)
            return self._with_headers(rows, max_bytes) if rows else Records((), {}, end)

    @contextmanager
    def _one_moment(self) -> Iterator[None]:
        """What is read inside is of one moment: a compaction may commit meanwhile, on its thread."""
        self._file.reader.execute(sql.BEGIN_READ)
        try:
            yield
        finally:
            if self._file.reader.in_transaction:
                self._file.reader.execute(sql.COMMIT)

    def _rows(self, offset: int, end: int, limits: Mapping[str, int]) -> list[Row]:
        """Those of a read, as far as they fit without their headers."""
        rows: list[Row] = []
        total = 0
        with closing(self._file.reader.execute(sql.READ, (offset, end, limits["records_max"]))) as cursor:
            for row in cursor:
                size = len(row[2] or b"") + len(row[3] or b"")
                total += RECORD_OVERHEAD_BYTES + size
                if total > limits["bytes_max"] and rows:
                    break
                if size >= RECORD_LAST_BYTES_MIN:
                    check_record(self._file.reader, row[0], row[2], row[3])
                rows.append(row)
        if rows and rows[-1][0] - offset != len(rows) - 1:
            self._cut_at_damage(rows, offset)
        return rows

    def _encoded(self, first: int, below: int, limits: Mapping[str, int]) -> Records | None:
        """The same by the native library, or fewer records. None where it has none: read.c says when that is.

        It knows no ranges that were given up, where records are missing as well.
        """
        if self._state.lost:
            return None
        bindings = {
            **limits,
            "first": first,
            "below": below,
            "headers_max": READ_HEADERS_MAX,
            "partition": self._state.partition,
            "gaps_below": self._state.history.gaps.compacted_below,
        }
        # A statement that is not at its end would keep its snapshot.
        found: Any = self._file.reader.execute(sql.READ_ENCODED, bindings).fetchall()
        if not found:
            return None
        ((wire, count, size_bytes, first_offset, next_offset),) = found
        return encoded_records(Encoded(wire, size_bytes, first_offset), count, next_offset)

    def _cut_at_damage(self, rows: list[Row], offset: int) -> None:
        """Leave out what lies behind a record that is missing and should be there."""
        for at, row in enumerate(rows):
            if row[0] > offset and row[0] > self._state.next_record(offset):
                del rows[at:]
                return
            offset = row[0] + 1

    def _with_headers(self, rows: list[Row], max_bytes: int) -> Records:
        """Add the rows' headers; where those take up a limit, the rows after them are left out."""
        headers: dict[int, list[Header]] = {}
        total = 0
        with closing(self._file.reader.execute(sql.READ_HEADERS, (rows[0][0], rows[-1][0]))) as cursor:
            for count, (offset, key, value) in enumerate(cursor, 1):
                size = len(key.encode()) + len(value)
                total += HEADER_OVERHEAD_BYTES + size
                if (total > max_bytes or count > READ_HEADERS_MAX) and offset > rows[0][0]:  # headers alone
                    del rows[bisect_left(rows, (offset,)) :]
                    headers.pop(offset, None)
                    break
                if size >= HEADER_LAST_BYTES_MIN:
                    position = len(headers.get(offset, ()))
                    check_header(self._file.reader, offset, position, key.encode(), value)
                headers.setdefault(offset, []).append(Header(key, value))
        if headers:
            self._cut(rows, headers, max_bytes)
        return Records(rows, headers, rows[-1][0] + 1)

    def _cut(self, rows: list[Row], headers: dict[int, list[Header]], max_bytes: int) -> None:
        """Leave out what does not fit with its headers."""
        total = 0
        for at, (offset, _, key, value) in enumerate(rows):
            total += RECORD_OVERHEAD_BYTES + size_bytes([key], [value], [headers.get(offset, ())])
            if total > max_bytes and at:
                for left_out in rows[at:]:
                    headers.pop(left_out[0], None)
                del rows[at:]
                return

    def timestamp_from(self, offset: int, end: int) -> int:
        """The timestamp of the first record of [offset, end); NO_TIMESTAMP if there is none."""
        found: int | None = self._file.reader.execute(sql.TIMESTAMP_FROM, (offset, end)).get
        return NO_TIMESTAMP if found is None else found

    def search_time(self, sought: Sought, at: int, end: int, times: Times) -> tuple[OffsetAtTime | None, int]:
        """Look for a record of [at, end), but for no longer than a turn may take.

        Returns (what was found, or None, and where to go on). times: those of the log now.
        """
        if at >= times.blocked:
            found = None
            if times.highest >= sought.timestamp:
                found = self._first(sought.times(times.appended), at, end)
            return found or OffsetAtTime(end, -1), end
        row: Any = self._file.reader.execute(sql.BLOCK_FROM_TIME, (at, sought.timestamp)).fetchone()
        beyond, searched = row
        if beyond is None:
            return None, searched or times.blocked
        block: Any = self._file.reader.execute(sql.BLOCK, (beyond,)).fetchone()
        begin, appended = block
        return self._first(sought.times(appended), max(at, begin), min(beyond, end)), beyond

    def _first(self, times: tuple[int, int], start: int, end: int) -> OffsetAtTime | None:
        row: Any = self._file.reader.execute(sql.FIRST_AT_TIME, (start, end, *times)).fetchone()
        return None if row is None else OffsetAtTime(*row)

    def ends(self) -> Ends:
        """The ends of the log. Where the file cannot be read at all, they are unknown."""
        try:
            return read_ends(self._file.reader)
        except apsw.Error as error:
            logger.warning("ends_unread", path=str(self._file.path), error=str(error))
            return Ends(None, None, None)


def topic_facts(connection: apsw.Connection, defaults: TopicConfig) -> tuple[int, TopicConfig] | None:
    """(partition count, config) of the topic, which partition 0's file alone has.

    defaults: the config of a topic that says nothing. Raises ValueError for what no broker has written.
    """
    count = num_partitions(connection)
    if count is None:
        return None
    if not isinstance(count, int) or not 1 <= count <= PARTITIONS_MAX:
        raise ValueError(f"it says that its topic has {count} partitions")
    return count, topic_configs.from_stored(connection.execute(sql.GET_CONFIGS), defaults)
