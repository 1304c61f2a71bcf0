"""Makes a new file of what can be read in a damaged one: table by table, and records page by page.

Reads a closed copy, which mending.py has repaired as far as it could. Page checksums tell what can be
believed. The two files have a connection each: an error in reading the one undoes nothing in the other.
Knows the tables through the statements of takhin/disk alone, and no folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import apsw

from takhin.clock import system_clock
from takhin.copies.leaves import Leaf, lend_root, record_leaves, roots
from takhin.copies.mending import hide_zeroed_pages, move_roots
from takhin.copies.runs import Run, joined, said, within, without
from takhin.copies.small_tables import (
    COMMITTED,
    COMPACTIONS,
    CONFIGS,
    LOST,
    PASSES,
    PRODUCERS,
    SINCE,
    SOURCES,
    TAILS,
    Layout,
    Table,
    has_migrations_index,
    layouts,
    whole_batches,
)
from takhin.disk import statements as sql
from takhin.disk import statements_compaction as compaction_sql
from takhin.disk import versions
from takhin.disk.connection import close_whole, open_copy, open_writer
from takhin.disk.header import file_header
from takhin.disk.identity import LogRow, num_partitions
from takhin.disk.layout import wal_bytes
from takhin.disk.zero_tails import check_committed, check_header, check_record, tails_in
from takhin.model import INT64_MAX
from takhin.schema import VERSION
from takhin.schema.checksums import RESERVED_BYTES, SINCE_VERSION
from takhin.topic_configs import DEFAULTS, ROWS, as_texts

CHUNK = 4_096
"""Offsets that are read at once, and written in one transaction."""
PROBES = 64
"""Offsets that are tried, evenly spread, before each one is."""
TIME_BLOCK_RECORDS = 1_024
"""Offsets for which the new file has a row about times."""

UNREADABLE = (apsw.Error, ValueError)
"""What reading a damaged file raises. ValueError: text that is no UTF-8, in a file without checksums."""


class Salvage:
    """A new file, and the old one whose readable content it gets. Life: `records`, `others`, `close`."""

    def __init__(self, old: Path, new: Path, *, lent: bool) -> None:
        """old: a closed copy of the damaged file. new: where there is no file yet.

        lent: the first page of the old file is that of a new file, see mending.py.
        Raises OSError, apsw.Error.
        """
        versions.build(new)
        self._path = old
        self._new = open_writer(new)
        self._old: apsw.Connection | None = None
        self._told_apart = True  # zeros at the end of a record, and a lost page
        self.notes: list[str] = []
        """What was lost besides records, as clauses."""
        self._version = VERSION
        self._compacted_below = self._tombstones = 0
        self._end_lost = False  # the old log's last record is not there
        with suppress(*UNREADABLE):
            header = file_header(old)
            self._version = header.user_version
            # With another number of reserved bytes SQLite would not compare checksums.
            if header.user_version < SINCE_VERSION or header.reserved_bytes == RESERVED_BYTES:
                self._open()
        if lent:
            self._find_later_tables()

    def close(self) -> None:
        self._close_old()
        close_whole(self._new)

    def _open(self) -> None:
        """Open the old file. It stays closed if SQLite cannot do anything with it."""
        self._close_old()
        self._old = open_copy(self._path)
        try:
            self._old.execute(sql.TOUCH).fetchall()
        except apsw.Error:
            self._close_old()

    def _close_old(self) -> None:
        if self._old is not None:
            self._old.close()
            self._old = None

    def _find_later_tables(self) -> None:
        """Find out of which version the file is, and where its later tables are."""
        best = max(layouts(), key=self._likeness)  # the first of those that are equally likely
        self._lay_out(best)
        self._version = best.version

    def _likeness(self, layout: Layout) -> int:
        """How many tables are found where the layout has them, less those that are not."""
        self._lay_out(layout)
        found = [has_migrations_index(self._path, layout.migrations), *map(self._is_there, layout.roots)]
        return 2 * sum(found) - len(found)

    def _lay_out(self, layout: Layout) -> None:
        self._close_old()
        with suppress(*UNREADABLE):
            move_roots(self._path, {table.name: root for table, root in layout.roots.items()})
        self._open()

    def _is_there(self, table: Table) -> bool:
        with suppress(*UNREADABLE):
            rows = sum(1 for _ in self._rows_of(table))
            return rows == 1 or table is not COMPACTIONS
        return False

    # Records and their headers

    def records(self, log: LogRow) -> tuple[int, list[Run]]:
        """Take over all records from the log's start on that can be read, with their headers.

        Returns (where the log ended, at least where `log` says, the runs of records that were kept).
        """
        if not self._zeros_known(log.start_offset):
            self._hide_zeros()
        self._read_compaction()
        leaves = self._leaves()
        end = max(log.end_offset, self._beyond_last(), *(leaf.last + 1 for leaf in leaves))
        kept: list[Run] = []
        self._take([Run(log.start_offset, end)], kept)
        missing = without([Run(log.start_offset, end)], kept)
        root = self._root()
        if root is not None and missing:
            wanted = [
                leaf
                for leaf in leaves
                if any(run.start <= leaf.last and leaf.first < run.end for run in missing)
            ]
            for some in roots(wanted):
                self._close_old()
                lend_root(self._path, root, some)
                self._open()
                bounds = [Run(leaf.first, leaf.last + 1) for leaf in some]
                self._take(within(without(missing, kept), bounds), kept)
        kept = joined(kept)
        self._end_lost = bool(without([Run(max(log.start_offset, end - 1), end)], kept))
        self._take_headers(kept)
        return end, kept

    def _read_compaction(self) -> None:
        """Find out below which offset records may be missing without a fault."""
        if self._version < SINCE[COMPACTIONS]:
            return
        with suppress(*UNREADABLE):
            ((self._compacted_below, _, self._tombstones),) = self._rows_of(COMPACTIONS)
            return
        with suppress(*UNREADABLE):  # the passes that have ended
            self._compacted_below = max((end for end, _ in self._rows_of(PASSES)), default=0)
            return
        self._compacted_below = INT64_MAX
        self.notes.append(
            "where compaction has been, which is taken to be the whole log: a record that another program "
            "deleted is not missed"
        )

    def _zeros_known(self, start: int) -> bool:
        """True if the file says of all its records from `start` on which of them end in zeros."""
        with suppress(*UNREADABLE):
            if self._version >= SINCE[TAILS]:
                return all(offset >= 0 or length <= start for offset, _, length in self._rows_of(TAILS))
        return False

    def _hide_zeros(self) -> None:
        self._told_apart = False
        if self._old is not None and not wal_bytes(self._path):
            self._close_old()
            hide_zeroed_pages(self._path)
            self._open()

    def _leaves(self) -> list[Leaf]:
        if wal_bytes(self._path):  # which may have later versions of the same pages
            return []
        try:
            return record_leaves(self._path)
        except apsw.Error:
            return []

    def _beyond_last(self) -> int:
        with suppress(*UNREADABLE):
            for (offset,) in self._rows(sql.LAST_OFFSET):
                return offset + 1 if offset is not None else 0
        return 0

    def _root(self) -> int | None:
        with suppress(*UNREADABLE):
            for (root,) in self._rows(sql.ROOT_OF_RECORDS):
                return int(root)
        return None

    def _take(self, wanted: Iterable[Run], kept: list[Run]) -> None:
        """Take over what can be read of these records, and add it to `kept`."""
        for start, end in wanted:
            for run in self._readable(self._record_runs, start, end):
                for first in range(run.start, run.end, CHUNK):
                    with self._new:
                        bounds = first, min(first + CHUNK, run.end)
                        self._new.executemany(sql.PUT_RECORD, self._rows(sql.OLD_RECORDS, bounds))
                kept.append(run)

    def _take_headers(self, kept: Sequence[Run]) -> None:
        lost: list[Run] = []
        for start, end in kept:
            taken = []
            for run in self._readable(self._header_run, start, end):
                with self._new:
                    self._new.executemany(sql.INSERT_HEADER, self._rows(sql.OLD_HEADERS, run))
                taken.append(run)
            lost += without([Run(start, end)], joined(taken))
        if lost:
            some = ", ".join(said(run) for run in lost[:5]) + (", …" if len(lost) > 5 else "")
            self.notes.append(f"the headers that offsets {some} may have had")

    def _readable(self, read: Callable[[int, int], Sequence[Run]], start: int, end: int) -> Iterator[Run]:
        """The runs of [start, end) that `read` finds. It raises for a range that it cannot read whole."""
        step = max(1, (end - start) // PROBES)
        if not any(_can(read, at) for at in range(start, end, step)):
            return  # it is useless to try each one
        for first in range(start, end, CHUNK):
            yield from _split(read, first, min(first + CHUNK, end))

    def _record_runs(self, start: int, end: int) -> Sequence[Run]:
        """The runs of records in [start, end); where compaction has been, what can be read has no gaps."""
        compacted = Run(start, min(end, self._compacted_below))
        runs = [compacted] if start < compacted.end else []
        for offset, timestamp, *contents in self._rows(sql.OLD_RECORDS, (start, end)):
            if not isinstance(timestamp, int) or not all(isinstance(it, bytes | None) for it in contents):
                raise ValueError(offset)
            self._check(check_record, offset, *contents)
            if offset < compacted.end:
                continue
            if runs and runs[-1].end == offset:
                runs[-1] = Run(runs[-1].start, offset + 1)
            else:
                runs.append(Run(offset, offset + 1))
        return runs

    def _header_run(self, start: int, end: int) -> Sequence[Run]:
        for offset, position, key, value in self._rows(sql.OLD_HEADERS, (start, end)):
            if not isinstance(key, str) or not isinstance(value, bytes):
                raise ValueError(key)  # noqa: TRY004  as for what cannot be read
            self._check(check_header, offset, position, key.encode(), value)
        return [Run(start, end)]

    def _check(self, check: Callable[..., None], *content: Any) -> None:
        if self._told_apart and self._old is not None:
            check(self._old, *content)

    def _rows(self, statement: str, bindings: Sequence[int] = ()) -> Iterator[Sequence[Any]]:
        if self._old is None:
            raise apsw.CorruptError
        return iter(self._old.execute(statement, bindings))

    # The other tables

    def others(self, log: LogRow, kept: Sequence[Run], partitions: int) -> None:
        """Fill the other tables of the new file. log: as it is from now on.

        kept: the runs of its records. partitions: how many the topic has if the old file does not say.
        """
        gaps = [Run(one.end, other.start) for one, other in pairwise(kept)]
        with self._new:
            self._new.execute(sql.INDEX_TIMES, (TIME_BLOCK_RECORDS, INT64_MAX))
            self._new.executemany(sql.PUT_LOST, gaps)
            self._compaction(log)
            self._new.executemany(sql.PUT_ZERO_TAIL, list(tails_in(self._new)))
            self._committed(log)
            if self._version >= SINCE[PRODUCERS]:
                self._producers(without([Run(0, log.end_offset)], gaps))
            self._sources()
            identity = (log.topic, log.partition, log.topic_id, log.incarnation_id)
            range_ = (log.start_offset, log.end_offset)
            self._new.execute(sql.PUT_LOG, (*identity, *range_, log.commits, system_clock()))
            if log.partition == 0:
                self._new.execute(sql.PUT_NUM_PARTITIONS, (self._num_partitions() or partitions,))
                self._configs()

    def _compaction(self, log: LogRow) -> None:
        """Say where compaction has been. A pass that was under way is over, and no pass saw a tombstone."""
        below = min(self._compacted_below, log.end_offset)
        count = self._new.execute(sql.COUNT_RECORDS_BELOW, (below,)).get
        self._new.execute(compaction_sql.PUT_GAPS, (below, count, self._tombstones))

    def lost_before(self) -> list[Run]:
        """What an earlier recovery has given up."""
        with suppress(*UNREADABLE):
            if self._version >= SINCE[LOST]:
                return [Run(*row) for row in self._rows_of(LOST)]
        return []

    def _committed(self, log: LogRow) -> None:
        rows = self._table(COMMITTED, "the groups' committed offsets")
        for group_id, offset, *rest in rows:
            within_log = max(log.start_offset, min(log.end_offset, offset))
            self._new.execute(sql.PUT_COMMITTED, (group_id, within_log, *rest))

    def _producers(self, whole: Sequence[Run]) -> None:
        """Take over what producers have sent last, as long as all of it is there."""
        rows = self._table(PRODUCERS, "what its producers have sent last")
        self._new.executemany(sql.PUT_PRODUCER_BATCH, whole_batches(rows, whole))

    def _sources(self) -> None:
        """Take over what was taken of sources, unless the log's last record is lost.

        Then the last batches are, which are the ones that may be sent again: they are to be stored.
        """
        if self._version >= SINCE[SOURCES] and not self._end_lost:
            rows = self._table(SOURCES, "what its records were made of")
            self._new.executemany(sql.PUT_SOURCE, rows)

    def _configs(self) -> None:
        what = (
            f"the topic's configs or some of them (of {', '.join(sorted(ROWS))}), which are the defaults now"
        )
        notes = len(self.notes)
        configs = {str(key): str(value) for key, value in self._table(CONFIGS, what)}
        if len(self.notes) > notes:  # the defaults are stored: a broker's retention must not delete records
            configs = as_texts(DEFAULTS) | configs
        self._new.executemany(sql.PUT_CONFIG, configs.items())

    def _num_partitions(self) -> int | None:
        with suppress(*UNREADABLE):
            return None if self._old is None else num_partitions(self._old)
        return None

    def _table(self, table: Table, what: str) -> list[Sequence[Any]]:
        """The rows of a small table that can be read, from both ends up to the damage.

        what: the note if some cannot be.
        """
        rows: dict[Sequence[Any], None] = {}
        damaged = False
        try:
            for row in self._rows_of(table):
                rows[row] = None
        except UNREADABLE:
            damaged = True
            with suppress(*UNREADABLE):
                for row in self._rows_of(table, descending=True):
                    rows[row] = None
        if damaged:
            self.notes.append(f"some of {what}" if rows else what)
        return list(rows)

    def _rows_of(self, table: Table, *, descending: bool = False) -> Iterator[Sequence[Any]]:
        """The rows of a small table. Raises UNREADABLE, also for rows that are of another table."""
        for row in self._rows(sql.old_rows(table.name, table.columns, table.key, descending=descending)):
            if tuple(map(type, row)) != table.types:
                raise ValueError(row)
            if table is COMMITTED:
                check_committed(row[0], row[-1])
            yield tuple(row)


def _can(read: Callable[[int, int], Sequence[Run]], at: int) -> bool:
    try:
        read(at, at + 1)
    except UNREADABLE:
        return False
    return True


def _split(read: Callable[[int, int], Sequence[Run]], start: int, end: int) -> Iterator[Run]:
    """The runs of [start, end). A range that cannot be read as a whole is read by halves."""
    try:
        yield from read(start, end)
    except UNREADABLE:
        if end - start > 1:
            middle = (start + end) // 2
            yield from _split(read, start, middle)
            yield from _split(read, middle, end)
