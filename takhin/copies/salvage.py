"""Makes a new file of the records that can be read in a damaged one.

Reads a closed copy, which mending.py has repaired as far as it could. Page checksums tell which records can
be believed. Knows the tables through the statements of takhin/disk alone, and no folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import apsw

from takhin import topic_configs
from takhin.clock import system_clock
from takhin.disk import statements as sql
from takhin.disk import versions
from takhin.disk.connection import close_whole, open_writer
from takhin.disk.header import file_header
from takhin.disk.identity import LogRow, read_log_row
from takhin.schema import VERSION
from takhin.schema.checksums import RESERVED_BYTES, SINCE_VERSION, load
from takhin.settings import Settings

CHUNK = 4_096
"""Offsets that are read at once."""
PROBES = 64
"""Offsets that are tried, evenly spread, before each one is."""


class Run(NamedTuple):
    """Offsets [start, end)."""

    start: int
    end: int


class Expected(NamedTuple):
    """What the log should hold, from other sources where the file itself cannot be read."""

    log: LogRow
    num_partitions: int
    """What the new file says of the topic if it is partition 0's."""


class Salvage:
    """A new file, and the old one whose readable records it gets."""

    def __init__(self, old: Path, new: Path) -> None:
        """old: a closed copy of the damaged file. new: where there is no file yet.

        Raises OSError, apsw.Error.
        """
        versions.build(new)
        self._db = open_writer(new)
        self.notes: list[str] = []
        """What was lost besides records, as clauses."""
        self._version = VERSION
        try:
            header = file_header(old)
            self._version = header.user_version
            # With another number of reserved bytes SQLite would not compare checksums.
            self.readable = header.user_version < SINCE_VERSION or header.reserved_bytes == RESERVED_BYTES
            if self.readable:
                self._db.execute(sql.ATTACH_OLD, (str(old),))
                self._db.execute(sql.TOUCH_OLD).fetchall()
        except (apsw.Error, ValueError):
            self.readable = False

    def close(self) -> None:
        close_whole(self._db)

    def longest_run(self, start: int, end: int) -> Run:
        """The longest run of whole records in [start, end); an empty one at `end` if there is none."""
        longest, run = Run(end, end), Run(start, start)
        for piece in self._runs(start, end):
            run = Run(run.start, piece.end) if piece.start == run.end else piece
            if run.end - run.start > longest.end - longest.start:
                longest = run
        return longest

    def end(self, known: int) -> int:
        """Where the records of the old file end, but at least `known`."""
        try:
            highest = self._db.execute(sql.OLD_LAST_OFFSET).get if self.readable else None
        except apsw.Error:
            highest = None
        return max(known, highest + 1 if highest is not None else 0)

    def _runs(self, start: int, end: int) -> Iterator[Run]:
        if not self.readable or not self._anything(start, end):
            return
        for first in range(start, end, CHUNK):
            yield from self._split(first, min(first + CHUNK, end))

    def _anything(self, start: int, end: int) -> bool:
        """True if any of some evenly spread offsets can be read. If not, it is useless to try each one."""
        step = max(1, (end - start) // PROBES)
        return any(self._try(at, at + 1) is not None for at in range(start, end, step))

    def _split(self, start: int, end: int) -> Iterator[Run]:
        """The runs of [start, end). A range that cannot be read as a whole is read by halves."""
        runs = self._try(start, end)
        if runs is not None:
            yield from runs
        elif end - start > 1:
            middle = (start + end) // 2
            yield from self._split(start, middle)
            yield from self._split(middle, end)

    def _try(self, start: int, end: int) -> Sequence[Run] | None:
        """The runs of records in [start, end); None if a record or a header in it cannot be read."""
        runs: list[Run] = []
        try:
            for offset, *_ in self._db.execute(sql.OLD_RECORDS, (start, end)):
                if runs and runs[-1].end == offset:
                    runs[-1] = Run(runs[-1].start, offset + 1)
                else:
                    runs.append(Run(offset, offset + 1))
            for _ in self._db.execute(sql.OLD_HEADERS, (start, end)):
                pass
        except apsw.Error:
            return None
        return runs

    def write(self, run: Run, expected: Expected) -> None:
        """Fill the new file: the records of the run, what groups have committed, whose log it is."""
        log = expected.log
        with self._db:
            for statement in sql.COPY_RECORDS:
                if run.start < run.end:
                    self._db.execute(statement, run)
            self._try_copy(sql.COPY_TIMES, run, None)
            self._try_copy(sql.COPY_COMMITTED, run, "the groups' committed offsets")
            if self._version >= versions.PRODUCERS_SINCE:
                self._try_copy(sql.COPY_PRODUCERS, (run.end,), "what its producers have sent last")
            identity = (log.topic, log.partition, log.topic_id, log.incarnation_id)
            self._db.execute(sql.PUT_LOG, (*identity, *run, log.commits, system_clock()))
            if log.partition == 0:
                self._db.execute(sql.PUT_NUM_PARTITIONS, (expected.num_partitions,))
                self._try_copy(sql.COPY_CONFIGS, (), "the topic's configs, which are the defaults now")
                if not self._db.execute(sql.COUNT_CONFIGS).get:
                    configs = topic_configs.as_texts(topic_configs.parse({}, Settings()))
                    self._db.executemany(sql.PUT_CONFIG, configs.items())

    def _try_copy(self, statement: str, bindings: Sequence[int], what: str | None) -> None:
        """Copy a small table, all of it or nothing. what: the note if it is lost; None for none."""
        try:
            if not self.readable:
                raise apsw.CorruptError
            with self._db:  # a savepoint
                self._db.execute(statement, bindings)
        except apsw.Error:
            if what is not None:
                self.notes.append(what)


def readable_log_row(path: Path) -> LogRow | None:
    """What a damaged copy says of its log, if that can be read."""
    try:
        load()
        connection = apsw.Connection(str(path))
    except apsw.Error:
        return None
    try:
        return read_log_row(connection)
    except apsw.Error:
        return None
    finally:
        connection.close()
