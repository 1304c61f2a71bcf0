"""When the records of a log were stamped and appended: what is known of it while the file is closed.

The file has a row for each block of records, with the highest timestamp in it: a search for a time looks at
the rows, and reads the records of one block. What a trim leaves of a block keeps the block's row. The records
behind the last block, at most as many as a block and a commit group have, are the tail.
"""

from __future__ import annotations

from typing import NamedTuple

import apsw

from takhin.disk import statements as sql
from takhin.model import INT64_MAX
from takhin.storage.retention import AHEAD_MS, Oldest

BLOCK_RECORDS = 1_024
"""Records of a block, at least: a row in every commit would cost it a page more."""
BLOCK_MS = 600_000
"""A block also ends after so long: else `appended` would say little about the records of a slow log."""


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
    oldest: Oldest | None
    """None: the log has no record."""

    def block_due(self, end: int, now: int) -> bool:
        """True if the tail, which ends at `end`, is to become a block."""
        records = end - self.blocked
        return records >= BLOCK_RECORDS or (records > 0 and not 0 <= now - self.began < BLOCK_MS)

    def after(self, timestamps: list[int], now: int) -> Times:
        """With more records in the tail."""
        highest = max(self.highest, *timestamps)
        oldest = self.oldest or Oldest(timestamps[0], None)
        return Times(self.blocked, highest, now, self.began, oldest)

    def with_block(self, db: apsw.Connection, end: int, now: int) -> Times:
        """With the tail, which ends at `end`, as a block. Writes its row."""
        appended = min(self.appended, now)
        db.execute(sql.PUT_BLOCK, (end, self.highest, appended))
        return Times(end, -1, appended, now, self.oldest)

    def cleared(self, db: apsw.Connection, start: int, end: int, now: int) -> Times:
        """With records that are ahead of the clock counted as appended now, unless they were before."""
        db.execute(sql.LOWER_APPENDED, (now,))
        times = self.with_block(db, end, now) if self.highest > now + AHEAD_MS else self
        return times._replace(oldest=read_oldest(db, start))


class Sought(NamedTuple):
    """What a search by time looks for: the first record stamped at or after `timestamp` (ms).

    believed: a block with a later timestamp is passed over if it was appended before `timestamp`, since what
    its producer's clock said cannot be true.
    """

    timestamp: int
    believed: int = INT64_MAX

    def passes_over(self, times: Times) -> bool:
        """True if the tail has no such record."""
        not_believed = times.highest > self.believed and times.appended < self.timestamp
        return not_believed or times.highest < self.timestamp


def read_times(db: apsw.Connection, start: int, now: int) -> Times:
    """The times of a log that begins at `start`, from its file that has just been opened."""
    blocked = max(db.execute(sql.LAST_BLOCK).get or 0, start)
    highest = db.execute(sql.HIGHEST_TIME_FROM, (blocked,)).get
    return Times(blocked, -1 if highest is None else highest, now, now, read_oldest(db, start))


def read_oldest(db: apsw.Connection, start: int) -> Oldest | None:
    """The first record of a log that begins at `start`."""
    row = db.execute(sql.OLDEST, (start,)).get
    return None if row is None else Oldest(*row)
