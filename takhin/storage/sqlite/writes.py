"""Every kind of write that a partition's file takes, as a value with an answer.

A write is applied inside a commit group's transaction, on the loop. What it returns is its answer, given
when the group is durable. It may refuse instead, by raising a RefusedError BEFORE it has written anything;
a refusal is an answer like any other, given when what it was judged by is durable. So one write never fails
its neighbours, and no savepoint is needed. To add a write: a class here, its twin in memory.py, its
statements in takhin/disk/statements.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import apsw

from takhin.disk import statements as sql
from takhin.disk import statements_compaction as compaction_sql
from takhin.model import Appended, Batch, CommittedOffset
from takhin.storage.compaction import Gaps, Pass, PassSeen, lost_between, passes_after
from takhin.storage.sqlite.group import Draft
from takhin.storage.sqlite.times import read_oldest

GIVE_BACK_PAGES = 64
"""Pages of one step after a trim.

SQLite moves as many from the file's end into free ones, on the event loop.
"""


@dataclass(frozen=True, slots=True)
class Append:
    """Append a batch; the answer is where it landed."""

    batch: Batch

    @property
    def record_count(self) -> int:
        return len(self.batch.values)

    @property
    def queued_bytes(self) -> int:
        return self.batch.queued_bytes

    def apply(self, draft: Draft) -> Appended:
        batch = self.batch
        if batch.condition is not None:
            stored = draft.producers.judge(batch, batch.condition, draft.end_offset)
            if stored is not None:
                return stored
        return draft.append(batch)


class SmallWrite:
    """What all writes but appends have in common: they add no records and weigh next to nothing."""

    __slots__ = ()
    record_count = 0
    queued_bytes = 0


@dataclass(frozen=True, slots=True)
class Trim(SmallWrite):
    """Move the log's start up and delete the records below it."""

    start_offset: int

    def apply(self, draft: Draft) -> None:
        db = draft.with_records()
        for statement in (*sql.TRIM, sql.SET_START):
            db.execute(statement, (self.start_offset,))
        draft.start_offset = max(draft.start_offset, self.start_offset)
        draft.times = draft.times._replace(oldest=read_oldest(db, draft.start_offset))
        draft.gaps = stored_gaps(db)


def stored_gaps(db: apsw.Connection) -> Gaps:
    """What the file says of its gaps."""
    return Gaps(*db.execute(compaction_sql.GET_GAPS).get)


@dataclass(frozen=True, slots=True)
class BeginPass(SmallWrite):
    """Begin a pass of compaction; the answer is the pass that is under way then.

    From this commit on readers know that records may be missing below its end: none is removed before.
    """

    planned: Pass

    def apply(self, draft: Draft) -> Pass:
        under_way = draft.db.execute(compaction_sql.GET_RUN).get
        if under_way is not None:
            return Pass(*under_way)
        end = self.planned.end_offset
        below, records = draft.gaps
        first = max(below, draft.start_offset)
        if end > first:
            records += end - first - lost_between(first, end, draft.lost)
        draft.gaps = Gaps(max(below, end), records)
        draft.db.execute(compaction_sql.BEGIN_RUN, (*draft.gaps, *self.planned))
        return self.planned


@dataclass(frozen=True, slots=True)
class RemoveRecords(SmallWrite):
    """Remove what lies in [first, beyond) with its headers, but for `kept`; the answer is how many records.

    kept: offsets as a JSON array.
    """

    first: int
    beyond: int
    kept: str

    def apply(self, draft: Draft) -> int:
        db, bounds = draft.db, (self.first, self.beyond, self.kept)
        db.execute(compaction_sql.REMOVE_RECORDS, bounds)
        removed = db.changes()
        for statement in compaction_sql.REMOVE_WITH_THEM:
            db.execute(statement, bounds)
        db.execute(compaction_sql.STEP_RUN, (removed, self.beyond))
        draft.gaps = stored_gaps(db)
        draft.times = draft.times._replace(oldest=read_oldest(db, draft.start_offset))
        return removed


@dataclass(frozen=True, slots=True)
class EndPass(SmallWrite):
    """End the pass that is under way. tombstones: how many it has kept for a later one."""

    tombstones: int

    def apply(self, draft: Draft) -> None:
        under_way = draft.db.execute(compaction_sql.GET_RUN).get
        if under_way is None:  # it has ended, and its answer was lost
            return
        seen = [PassSeen(*row) for row in draft.db.execute(compaction_sql.GET_SEEN)]
        draft.db.execute(compaction_sql.DELETE_SEEN)
        draft.db.executemany(compaction_sql.PUT_SEEN, passes_after(seen, Pass(*under_way)))
        draft.db.execute(compaction_sql.END_RUN, (self.tombstones,))


@dataclass(frozen=True, slots=True)
class GivePagesBack(SmallWrite):
    """Give some of the free pages back to the file system; the answer is how many free ones are left."""

    def apply(self, draft: Draft) -> int:
        draft.db.execute(sql.give_pages_back(GIVE_BACK_PAGES)).fetchall()
        left: int = draft.db.execute(sql.FREE_PAGES).get
        return left


@dataclass(frozen=True, slots=True)
class CommitOffset(SmallWrite):
    """Remember how far a group has come."""

    group_id: str
    committed: CommittedOffset

    def apply(self, draft: Draft) -> None:
        draft.db.execute(sql.PUT_COMMITTED, (self.group_id, *self.committed))
        draft.offsets.append((self.group_id, self.committed))


@dataclass(frozen=True, slots=True)
class ForgetOffset(SmallWrite):
    """Drop what a group has committed."""

    group_id: str

    def apply(self, draft: Draft) -> None:
        draft.db.execute(sql.FORGET_GROUP, (self.group_id,))
        draft.offsets.append((self.group_id, None))


@dataclass(frozen=True, slots=True)
class AlterTopic(SmallWrite):
    """Change what partition 0's file says of its topic. configs: those that it says itself, as text."""

    num_partitions: int
    configs: Mapping[str, str]

    def apply(self, draft: Draft) -> None:
        draft.db.execute(sql.SET_NUM_PARTITIONS, (self.num_partitions,))
        draft.db.execute(sql.DELETE_CONFIGS)
        draft.db.executemany(sql.PUT_CONFIG, self.configs.items())


@dataclass(frozen=True, slots=True)
class CommitOnly(SmallWrite):
    """Change nothing but the number of commits, so that SQLite restarts a WAL that is wholly copied."""

    def apply(self, draft: Draft) -> None:
        """There is nothing to do: every group counts its commit."""
