"""The writes of compaction; writes.py has all others. What a pass removes: storage/compaction.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apsw

from takhin.disk import statements_compaction as sql
from takhin.storage.compaction import Gaps, History, Pass, PassSeen, lost_between, passes_after
from takhin.storage.sqlite.group import Draft, LongWrite, SmallWrite


def read_history(db: apsw.Connection) -> History:
    """What the file says of its compaction."""
    row: Any = db.execute(sql.GET_COMPACTION).get
    gaps, tombstones, under_way = Gaps(*row[:2]), row[2], row[3:]
    passes = tuple(PassSeen(*seen) for seen in db.execute(sql.GET_SEEN)) if gaps.compacted_below else ()
    read_to = under_way[1] or 0  # stays when the pass has ended
    return History(gaps, passes, tombstones, None if under_way[0] is None else Pass(*under_way), read_to)


@dataclass(frozen=True, slots=True)
class BeginPass(SmallWrite):
    """Begin a pass; the answer is the pass that is under way then.

    From this commit on readers know that records may be missing below its end: none is removed before.
    """

    planned: Pass

    def apply(self, draft: Draft) -> Pass:
        if draft.history.under_way is not None:
            return draft.history.under_way
        end, (below, records) = self.planned.end_offset, draft.history.gaps
        first = max(below, draft.start_offset)
        if end > first:
            records += end - first - lost_between(first, end, draft.lost)
        draft.db.execute(sql.BEGIN_RUN, (max(below, end), records, *self.planned))
        draft.history = read_history(draft.db)
        return self.planned


@dataclass(frozen=True, slots=True)
class RemoveRecords(LongWrite):
    """Remove what lies in [first, beyond) with its headers, but for `kept`; the answer is how many records.

    A block without records is removed, and what it was about belongs to the next one: a search by time would
    look into each of them in vain. kept, blocks: see key_map.RemovalStep.
    """

    first: int
    beyond: int
    kept: str
    blocks: str

    def apply(self, draft: Draft) -> int:
        db, bounds = draft.db, (self.first, self.beyond, self.kept)
        db.execute(sql.REMOVE_RECORDS, bounds)
        removed = db.changes()
        for statement in sql.REMOVE_WITH_THEM:
            db.execute(statement, bounds)
        for statement in (sql.EMPTY_BLOCKS, sql.LOWER_BLOCKS):
            db.execute(statement, (self.blocks,))
        db.execute(sql.STEP_RUN, (removed, self.beyond))
        draft.history = read_history(db)
        draft.removed = draft.compacted = True
        return removed


@dataclass(frozen=True, slots=True)
class EndPass(SmallWrite):
    """End the pass that is under way.

    tombstones: how many it has kept for a later one. lowest_tombstone: the offset of the first of them.
    """

    tombstones: int
    lowest_tombstone: int | None

    def apply(self, draft: Draft) -> None:
        if draft.history.under_way is None:  # it has ended, and its answer was lost
            return
        draft.db.execute(sql.DELETE_SEEN)
        seen = passes_after(draft.history.passes, draft.history.under_way, self.lowest_tombstone)
        draft.db.executemany(sql.PUT_SEEN, seen)
        draft.db.execute(sql.END_RUN, (self.tombstones,))
        draft.history = read_history(draft.db)
