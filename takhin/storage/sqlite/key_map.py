"""The last record of each key in a range of one partition, as a scratch database that is bounded in memory.

It is made on the event loop. Every other method runs on the checkpoint thread, for some ms, while the
partition's file is open: closing a file is work of the same thread, so it never happens in between. Each is
one statement or a few that run in C, so the event loop goes on beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from takhin.disk import statements_compaction as sql
from takhin.disk.connection import open_scratch, reading_of
from takhin.disk.faults import NotNowError, is_full, quota_is_full, sentence
from takhin.storage.compaction import Pass

SLICE_RECORDS = 10_000
SLICE_BYTES = 16 << 20
"""Records whose keys are noted at once, and what is read of them: 10 to 25 ms."""
STEPS_AT_ONCE = 6
"""Steps that are looked for at once: some 10 ms."""
STEP_RECORDS = 4_000
STEP_WEIGHT = 3_000_000
ROW_WEIGHT = 512
"""What one removal covers, in bytes with 512 for each row. Its DELETE takes the event loop 1 to 2 ms."""


Bindings = Sequence[Any] | Mapping[str, Any]


class KeyMapLostError(Exception):
    """What has been noted is of no use any more: a statement that has failed may have done half of its work.

    The scratch database has no journal to undo it with. Another key map is to be made, and filled again.
    """


class Keys(NamedTuple):
    """What a slice has noted: all from `first` on.

    long: records whose keys may end on a page of their own, which may be lost.
    """

    first: int
    long: Sequence[int]


class Kept(NamedTuple):
    """What a slice has chosen.

    next_key: where the next slice begins; None after the last one. lowest_tombstone: the offset of the first
    tombstone; None: there is none.
    """

    next_key: bytes | None
    tombstones: int
    lowest_tombstone: int | None


class RemovalStep(NamedTuple):
    """Some records of [first, beyond) are to be removed, all but `kept` (a JSON array of offsets).

    blocks: the highest timestamps that are left (null: none) in the blocks of records that end there; a JSON
    array of [the block's end, timestamp].
    """

    first: int
    beyond: int
    kept: str
    blocks: str


class Removable(NamedTuple):
    """What is to be removed below `beyond`, in order."""

    beyond: int
    steps: Sequence[RemovalStep]


class Share:
    """How many rows of a table weigh no more than a slice may. Remembers it for the next slice."""

    def __init__(self, rows_max: int, weight_max: int) -> None:
        self._rows_max = rows_max
        self._weight_max = weight_max
        self._rows = rows_max

    def take(self, weigh: Callable[[int], tuple[int, int]]) -> tuple[int, int]:
        """(a limit that fits, how many rows there are within it). One row always fits.

        weigh: returns (how many rows there are within a limit, what they weigh).
        """
        limit = min(self._rows_max, 2 * self._rows)
        while True:
            rows, weight = weigh(limit)
            if weight <= self._weight_max or rows <= 1:
                self._rows = limit
                return limit, rows
            limit = max(1, rows * self._weight_max // weight * 9 // 10)


class KeyMap:
    """Life: `note` downwards until all is noted, `keep` until all is chosen, `removable` upwards, `close`.

    Raises KeyMapLostError, NotNowError where the file cannot be attached at the moment, and apsw.Error where
    it cannot be read.
    """

    def __init__(self, path: Path, *, cache_kib: int) -> None:
        self._path = path
        self._slice = Share(SLICE_RECORDS, SLICE_BYTES)
        self._step = Share(STEP_RECORDS, STEP_WEIGHT)
        self._db = open_scratch(cache_kib=cache_kib)
        for statement in sql.SCRATCH:
            self._db.execute(statement)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _attached(self) -> Iterator[apsw.Connection]:
        """The file is attached only for a moment, so that it can be closed for another in between."""
        try:
            self._db.execute(sql.ATTACH, (reading_of(self._path),))
        except apsw.Error as error:
            if _may_pass(error):
                raise NotNowError(sentence(error)) from error
            raise
        try:
            yield self._db
        except apsw.Error as error:
            if _may_pass(error):
                raise KeyMapLostError(sentence(error)) from error
            raise
        finally:
            with self._own():
                self._db.execute(sql.DETACH)

    @contextmanager
    def _own(self) -> Iterator[None]:
        """Whatever fails in the block is the scratch database."""
        try:
            with quota_is_full(self._db):
                yield
        except apsw.Error as error:
            raise KeyMapLostError(sentence(error)) from error

    def note(self, start: int, end: int) -> Keys:
        """Note the keys of the last records in [start, end), above which all are noted."""
        with self._attached() as db:
            first = start

            def weigh(limit: int) -> tuple[int, int]:
                nonlocal first
                lowest, records, read_bytes = _row(db, sql.KEYS_BELOW, (start, end, limit))
                first = start if records < limit else lowest
                return records, read_bytes

            self._slice.take(weigh)
            try:
                with self._own():
                    db.execute(sql.NOTE_KEYS, (first, end))
            except KeyMapLostError:
                db.execute(sql.READ_KEYS, (first, end)).fetchall()  # raises if it is the file that failed
                raise
            return Keys(first, [offset for (offset,) in db.execute(sql.LONG_KEYS, (first, end))])

    def keep(self, of: Pass, key: bytes) -> Kept:
        """Choose what the pass keeps below its end, of the next keys from `key` on."""
        with self._own():
            limit, _ = self._slice.take(lambda limit: _row(self._db, sql.KEYS_FROM, (key, limit)))
            few = {"key": key, "limit": limit, "end": of.end_offset, "tombstones_below": of.tombstones_below}
            self._db.execute(sql.NOTE_KEPT, few)
            next_key = self._db.execute(sql.NEXT_KEY, (key, limit)).get
            return Kept(next_key, *_row(self._db, sql.COUNT_TOMBSTONES, few))

    def removable(self, first: int, end: int) -> Removable:
        """The next steps of a removal in [first, end), without those that remove nothing."""
        steps: list[RemovalStep] = []
        with self._attached() as db:
            for _ in range(STEPS_AT_ONCE):
                beyond, records = self._next_step(db, first, end)
                with self._own():
                    kept, count = _row(db, sql.KEPT_BETWEEN, (first, beyond))
                blocks: str = _row(db, sql.CHANGED_BLOCKS, (first, beyond))
                if count != records or blocks != "[]":
                    steps.append(RemovalStep(first, beyond, kept, blocks))
                first = beyond
                if first == end:
                    break
        return Removable(first, steps)

    def _next_step(self, db: apsw.Connection, first: int, end: int) -> tuple[int, int]:
        """(where a step ends that begins at an offset, how many records it covers)."""
        beyond = end

        def weigh(limit: int) -> tuple[int, int]:
            nonlocal beyond
            last, records, content_bytes = _row(db, sql.STEP, (first, end, limit))
            beyond = end if records < limit else last + 1
            rows = records + _row(db, sql.COUNT_HEADERS, (first, beyond))
            return records, content_bytes + ROW_WEIGHT * rows

        _, records = self._step.take(weigh)
        return beyond, records


def _may_pass(error: apsw.Error) -> bool:
    """True if a file that could not be read is not damaged: it is locked, or something has run out."""
    return isinstance(error, apsw.BusyError | apsw.CantOpenError) or is_full(error)


def _row(db: apsw.Connection, statement: str, bindings: Bindings) -> Any:
    """The one row of a statement; where it has one column, what is in there."""
    return db.execute(statement, bindings).get
