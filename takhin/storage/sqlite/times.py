"""When the records of a log were stamped and appended: what is known of it while the file is closed.

The file has a row for each block of records, with the highest timestamp in it: a search for a time looks at
the rows, and reads the records of one block. What a trim leaves of a block keeps the block's row. The records
behind the last block, at most as many as a block and a commit group have, are the tail.
"""

from __future__ import annotations

from typing import NamedTuple

import apsw

from takhin.disk import statements as sql
from takhin.disk.faults import is_damage
from takhin.model import INT64_MAX, NO_TIMESTAMP
from takhin.storage.retention import AHEAD_MS, Oldest

BLOCK_RECORDS = 1_024
"""Records of a block, at least: a row in every commit would cost it a page more."""
BLOCK_MS = 600_000
"""A block also ends after so long: else `appended` would say little about the records of a slow log."""
CLEARED_AT_A_TIME = 1_000
"""Blocks of one step of `cleared`, which takes 1 ms."""


class Times(NamedTuple):
    """The times of a log, as its commits have made them. All in ms since 1970."""

    blocked: int
    """Below this offset, each record belongs to a block."""
    highest: int
    """The highest timestamp in the tail, or a higher one; -1 where it has none."""
    appended: int
    """When the last record was appended, or not before that."""
    began: int
    """When the last block ended, or the file was opened."""

    def block_due(self, end: int, now: int) -> bool:
        """True if the tail, which ends at `end`, is to become a block."""
        records = end - self.blocked
        return records >= BLOCK_RECORDS or (records > 0 and not 0 <= now - self.began < BLOCK_MS)

    def after(self, highest: int, now: int) -> Times:
        """With more records in the tail. highest: their highest timestamp."""
        return Times(self.blocked, max(self.highest, highest), now, self.began)

    def trimmed(self, start: int, end: int) -> Times:
        """Without the records below `start`, of a log that ends at `end`."""
        highest = self.highest if start < end else -1
        return self._replace(blocked=max(self.blocked, start), highest=highest)

    def with_block(self, db: apsw.Connection, end: int, now: int) -> Times:
        """With the tail, which ends at `end`, as a block. Writes its row."""
        appended = min(self.appended, now)
        db.execute(sql.PUT_BLOCK, (end, self.highest, appended))
        return Times(end, -1, appended, now)

    def cleared(self, db: apsw.Connection, at: int, end: int, now: int) -> tuple[Times, int | None]:
        """With records that are ahead of the clock counted as appended now, unless they were before.

        at: the end of the last block of the step before, or 0. Returns the same for the next step; None: this
        was the last one.
        """
        last: int | None = db.execute(sql.NTH_BLOCK, (at, CLEARED_AT_A_TIME - 1)).get
        bounds = {"now": now, "first": at, "last": INT64_MAX if last is None else last}
        db.execute(sql.LOWER_APPENDED, bounds)
        if last is not None or self.highest <= now + AHEAD_MS:
            return self, last
        return self.with_block(db, end, now), None


class Sought(NamedTuple):
    """What a search by time looks for: the first record stamped at or after `timestamp` (ms).

    believed: a record with a later timestamp is passed over if its block was appended before `timestamp`,
    since what its producer's clock said cannot be true.
    """

    timestamp: int
    believed: int = INT64_MAX

    def times(self, appended: int) -> tuple[int, int]:
        """The lowest and the highest timestamp that such a record has, among some appended by then."""
        return self.timestamp, INT64_MAX if appended >= self.timestamp else self.believed


def read_times(db: apsw.Connection, start: int, now: int) -> Times:
    """The times of a log that begins at `start`, from its file that has just been opened."""
    blocked = max(db.execute(sql.LAST_BLOCK).get or 0, start)
    highest = db.execute(sql.HIGHEST_TIME_FROM, (blocked,)).get
    return Times(blocked, -1 if highest is None else highest, now, now)


class Ends(NamedTuple):
    """The timestamps of the first and the last record: NO_TIMESTAMP without any, None for an unreadable one.

    first_appended: the first record was there by then, by the broker's clock; None: unknown.
    """

    first: int | None
    last: int | None
    first_appended: int | None

    def after(self, first: int, last: int) -> Ends:
        """With more records behind them. first, last: timestamps of those."""
        if self.first == NO_TIMESTAMP:
            return Ends(first, last, None)
        return Ends(self.first, last, self.first_appended)

    @property
    def oldest(self) -> Oldest | None:
        """What tells the age of the first record; None where nothing does."""
        return None if self.first in (None, NO_TIMESTAMP) else Oldest(self.first, self.first_appended)


def read_ends(db: apsw.Connection) -> Ends:
    """The ends of a log, from its file."""
    first, last = (_read(db, each, NO_TIMESTAMP) for each in (sql.FIRST_TIMESTAMP, sql.LAST_TIMESTAMP))
    return Ends(first, last, _read(db, sql.FIRST_APPENDED, None))


def _read(db: apsw.Connection, statement: str, without_records: int | None) -> int | None:
    """What a statement returns; None if its page is damaged."""
    try:
        found: int | None = db.execute(statement).get
    except apsw.Error as error:
        if not is_damage(error):
            raise
        return None
    return without_records if found is None else found
