"""The last record of each key in a range of one partition, as a scratch database that is bounded in memory.

Every method runs on the checkpoint thread, for some ms, while the partition's file is open: closing a file is
work of the same thread, so it never happens in between. Each is one statement or a few that run in C, so the
event loop goes on beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from takhin.disk import statements_compaction as sql
from takhin.disk.connection import open_scratch, reading_of
from takhin.storage.compaction import Pass

SLICE_RECORDS = 10_000
"""Records whose keys are noted at once: 10 ms."""
STEP_RECORDS = 4_000
STEP_WEIGHT = 3_000_000
ROW_WEIGHT = 512
"""What one removal covers, in bytes with 512 for each row. Its DELETE takes the event loop 1 to 2 ms."""


class Keys(NamedTuple):
    """What a slice has noted. long: records whose keys may end on a page of their own, which may be lost."""

    beyond: int
    long: Sequence[int]


class Removable(NamedTuple):
    """Some records of [first, beyond) are to be removed, all but `kept` (a JSON array of offsets).

    kept: empty where there is nothing to remove.
    """

    first: int
    beyond: int
    kept: str


class KeyMap:
    """Life: `note` until all is noted, `finish`, `removable` until the pass ends, `close`."""

    def __init__(self, path: Path, *, cache_kib: int) -> None:
        self._path = path
        self._db = open_scratch(cache_kib=cache_kib)
        for statement in sql.SCRATCH:
            self._db.execute(statement)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _attached(self) -> Iterator[apsw.Connection]:
        """The file is attached only for a moment, so that it can be closed for another in between."""
        self._db.execute(sql.ATTACH, (reading_of(self._path),))
        try:
            yield self._db
        finally:
            self._db.execute(sql.DETACH)

    def note(self, first: int, end: int) -> Keys:
        """Note the keys of the next records in [first, end). Raises apsw.Error."""
        with self._attached() as db:
            beyond = db.execute(sql.BEYOND_ROWS, (first, end, SLICE_RECORDS)).get or end
            db.execute(sql.NOTE_KEYS, (first, beyond))
            long = [offset for (offset,) in db.execute(sql.LONG_KEYS, (first, beyond))]
        return Keys(beyond, long)

    def finish(self, of: Pass) -> int:
        """Choose what the pass keeps below its end. Returns how many tombstones are among that."""
        bounds = {"end": of.end_offset, "tombstones_below": of.tombstones_below}
        self._db.execute(sql.NOTE_KEPT, bounds)
        tombstones: int = self._db.execute(sql.COUNT_TOMBSTONES, bounds).get
        return tombstones

    def removable(self, first: int, end: int) -> Removable:
        """The next step of a removal in [first, end). Raises apsw.Error."""
        with self._attached() as db:
            for _ in range(SLICE_RECORDS // STEP_RECORDS):
                beyond, records = _step(db, first, end)
                if not records:
                    return Removable(end, end, "")
                kept, count = _row(db, sql.KEPT_BETWEEN, (first, beyond))
                if count != records:
                    return Removable(first, beyond, kept)
                first = beyond
        return Removable(first, first, "")


def _step(db: apsw.Connection, first: int, end: int) -> tuple[int, int]:
    """(where a step ends that begins at an offset, how many records it covers)."""
    beyond, records, content_bytes = _row(db, sql.STEP, (first, end, STEP_RECORDS))
    if records:
        rows = records + _row(db, sql.COUNT_HEADERS, (first, beyond))
        if content_bytes + ROW_WEIGHT * rows > STEP_WEIGHT:
            beyond, records = _row(db, sql.BEYOND_WEIGHT, (first, end, STEP_RECORDS, STEP_WEIGHT))
    return beyond, records


def _row(db: apsw.Connection, statement: str, bindings: Sequence[int]) -> Any:
    """The one row of a statement."""
    return db.execute(statement, bindings).get
