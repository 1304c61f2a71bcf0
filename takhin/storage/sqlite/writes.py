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

from takhin.disk import statements as sql
from takhin.model import Appended, Batch, CommittedOffset
from takhin.storage.sqlite.group import Draft

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
        draft.removed = True


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
