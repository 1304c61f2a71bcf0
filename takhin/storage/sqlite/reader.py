"""Reads of one partition's file: one short statement each, never a transaction that outlives it.

They run on the event loop, not on a thread: a scan of 1,000 rows takes 0.3 ms there, while on a thread
beside a busy loop each row waits for the GIL (measured: 130 ms). The limits of `read` bound the time.
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import closing

import apsw

from takhin import topic_configs
from takhin.disk import statements as sql
from takhin.disk.identity import num_partitions
from takhin.disk.overflow import HEADER_LAST_BYTES_MIN, RECORD_LAST_BYTES_MIN
from takhin.disk.witness import PARTITIONS_MAX
from takhin.disk.zero_tails import check_header, check_record
from takhin.model import (
    Header,
    Records,
    Row,
    TopicConfig,
)
from takhin.sizes import HEADER_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES, size_bytes
from takhin.storage.sqlite.file import LogFile

READ_HEADERS_MAX = 2_000
"""Headers of one read, unless its first record has more. Each occupies the event loop for about 2 µs."""


class Reader:
    """Reads through a file's reading connection; the file must be open."""

    def __init__(self, file: LogFile) -> None:
        self._file = file

    def read(self, offset: int, end: int, *, max_bytes: int, max_records: int) -> Records:
        """Records from offset on, below end, within both limits: at least one, unless that offset has none.

        What lies behind a gap is not read: it would be taken for the log's next record.
        Raises LostPageError, apsw.Error.
        """
        rows: list[Row] = []
        total = 0
        # A statement that is not closed would keep its snapshot, which is that of the checks, too.
        with closing(self._file.reader.execute(sql.READ, (offset, end, max_records))) as cursor:
            for row in cursor:
                size = len(row[2] or b"") + len(row[3] or b"")
                total += RECORD_OVERHEAD_BYTES + size
                if total > max_bytes and rows:
                    break
                if size >= RECORD_LAST_BYTES_MIN:
                    check_record(self._file.reader, row[0], row[2], row[3])
                rows.append(row)
        if rows and rows[-1][0] - offset != len(rows) - 1:
            del rows[next(at for at, row in enumerate(rows) if row[0] != offset + at) :]
        return self._with_headers(rows, max_bytes) if rows else Records((), {}, offset)

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

    def offset_for_time(self, timestamp: int, start: int, end: int) -> int:
        """The first offset of [start, end) stamped at or after `timestamp` (ms), else end.

        Below the offset of an index row everything is stamped at or below the row's time: the search
        begins at the last row before the time.
        """
        begin = self._file.reader.execute(sql.LAST_BEFORE_TIME, (timestamp,)).get
        bounds = (max(begin or 0, start), end, timestamp)
        found: int | None = self._file.reader.execute(sql.FIRST_AT_TIME, bounds).get
        return end if found is None else found


def topic_facts(connection: apsw.Connection) -> tuple[int, TopicConfig] | None:
    """(partition count, config) of the topic, which partition 0's file alone has.

    Raises ValueError for what no broker has written.
    """
    count = num_partitions(connection)
    if count is None:
        return None
    if not isinstance(count, int) or not 1 <= count <= PARTITIONS_MAX:
        raise ValueError(f"it says that its topic has {count} partitions")
    return count, topic_configs.from_stored(connection.execute(sql.GET_CONFIGS))
