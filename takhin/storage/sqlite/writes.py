"""Every kind of write that a partition's file takes, as a value with an answer.

A write is applied inside a commit group's transaction, on the loop. What it returns is its answer, given
when the group is durable. It may refuse instead, by raising a RefusedError BEFORE it has written anything;
a refusal is an answer like any other, given when what it was judged by is durable. So one write never fails
its neighbours, and no savepoint is needed. To add a write: a class here, its twin in memory_log.py, its
statements in takhin/disk/statements.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from takhin.disk import statements as sql
from takhin.model import Appended, Batch, CommittedOffset
from takhin.storage.contract import Fence
from takhin.storage.sqlite.group import Draft, LongWrite, SmallWrite
from takhin.storage.sqlite.writes_compaction import read_history

TRIM_RECORDS_MAX = 5_000
TRIM_HEADERS_MAX = 5_000
TRIM_BYTES_MAX = 2 << 20
"""What one step of a trim deletes at most, unless it is one record: 1 ms on the event loop."""
GUESS_SHARE = 0.8
"""How much of that is tried first, as records are of different sizes."""
GIVE_BACK_PAGES = 32
"""Pages of one step: SQLite moves as many from the file's end into free ones, on the loop, in 1 to 2 ms."""


@dataclass(frozen=True, slots=True)
class Append:
    """Append a batch; the answer is where it landed."""

    batch: Batch
    own_turn = False

    @property
    def record_count(self) -> int:
        return len(self.batch.values)

    @property
    def queued_bytes(self) -> int:
        return self.batch.queued_bytes

    def apply(self, draft: Draft) -> Appended:
        batch = self.batch
        if batch.condition is not None:
            stored = draft.senders.judge(batch, batch.condition, draft.end_offset)
            if stored is not None:
                return stored
        return draft.append(batch)


@dataclass(frozen=True, slots=True)
class Trim(LongWrite):
    """Move the log's start up towards an offset, and delete the records below it: as many as one step may.

    bytes_max: how many bytes of them, unless it is one record. over_gap: the log then begins with a record,
    if it has any, and not in a gap before one. The answer is where the log begins then.
    """

    towards: int
    bytes_max: int | None = None
    over_gap: bool = False

    def apply(self, draft: Draft) -> int:
        if self.towards <= draft.start_offset:
            return draft.start_offset
        db = draft.with_records()
        bytes_max = TRIM_BYTES_MAX if self.bytes_max is None else min(TRIM_BYTES_MAX, self.bytes_max)
        start = _start_after(draft, min(self.towards, draft.end_offset), bytes_max)
        if self.over_gap:
            start = db.execute(sql.OFFSET_FROM, (start,)).get or start
        for statement in (*sql.TRIM, sql.SET_START):
            db.execute(statement, (start,))
        draft.start_offset = start
        draft.history = read_history(db)
        draft.times = draft.times.trimmed(start, draft.end_offset)
        draft.removed = True
        return start


def _start_after(draft: Draft, wanted: int, bytes_max: int) -> int:
    """The start after one step of a trim: `wanted`, or less where the step has enough to do.

    How much that is, is guessed from the log's average, and asked once where that is right: each statement
    more costs producers something.
    """
    start = draft.start_offset
    if draft.has_gaps:
        most = draft.db.execute(sql.NTH_OFFSET, (start, wanted, TRIM_RECORDS_MAX)).get or wanted
    else:
        most = min(wanted, start + TRIM_RECORDS_MAX)
    guess = max(1, int(GUESS_SHARE * bytes_max / draft.record_bytes))
    while True:
        end: int = min(most, start + guess)
        stored_bytes, headers = draft.db.execute(sql.STORED, (start, end)).get
        if (stored_bytes <= bytes_max and headers <= TRIM_HEADERS_MAX) or guess == 1:
            return end
        guess = max(1, min(guess, end - start) // 4)


@dataclass(frozen=True, slots=True)
class ClearTimes(LongWrite):
    """Count records that are ahead of the clock as appended now, where nobody knows when they were.

    One step of that, from the block on that ends behind an offset. The answer is where the next one begins;
    None: all is done.
    """

    at: int

    def apply(self, draft: Draft) -> int | None:
        db = draft.with_records()
        draft.times, next_at = draft.times.cleared(db, self.at, draft.end_offset, draft.now)
        draft.removed = True
        return next_at


@dataclass(frozen=True, slots=True)
class GivePagesBack(LongWrite):
    """Give some of the free pages back to the file system."""

    def apply(self, draft: Draft) -> None:
        draft.db.execute(sql.give_pages_back(GIVE_BACK_PAGES)).fetchall()


@dataclass(frozen=True, slots=True)
class CommitOffset(SmallWrite):
    """Remember how far a group has come, unless its member owns the partition no more."""

    group_id: str
    committed: CommittedOffset
    fence: Fence | None = None

    def apply(self, draft: Draft) -> None:
        if self.fence is not None:
            self.fence.check()
        with draft.of_groups():
            draft.db.execute(sql.PUT_COMMITTED, (self.group_id, *self.committed))
        offset = self.committed.offset
        timestamp = draft.db.execute(sql.TIMESTAMP_FROM, (offset, draft.end_offset)).get
        if timestamp is not None:  # else the next one that is appended is the next one to read
            draft.next_times.setdefault(offset, timestamp)
        draft.offsets.append((self.group_id, self.committed))


@dataclass(frozen=True, slots=True)
class ForgetOffset(SmallWrite):
    """Drop what a group has committed."""

    group_id: str

    def apply(self, draft: Draft) -> None:
        with draft.of_groups():
            draft.db.execute(sql.FORGET_GROUP, (self.group_id,))
        draft.offsets.append((self.group_id, None))


@dataclass(frozen=True, slots=True)
class ForgetSources(SmallWrite):
    """Forget what was taken of a group's sources, or of those in some topics."""

    group_id: str
    topics: Collection[str] | None

    def apply(self, draft: Draft) -> None:
        draft.senders.sources.forget(self.group_id, self.topics)


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
