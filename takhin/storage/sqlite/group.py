"""A commit group: the writes of one transaction, each with its answer, and what they make of the log.

Knows the file's tables and where the log ends; when a group is formed and committed is decided in life.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import apsw

from takhin.disk import statements as sql
from takhin.disk.witness import Mark
from takhin.errors import RefusedError
from takhin.model import Appended, Batch, CommittedOffset, TopicPartition
from takhin.schema import PAGE_BYTES
from takhin.storage import compaction
from takhin.storage.compaction import History
from takhin.storage.sqlite.course import others_turn
from takhin.storage.sqlite.inserting import Columns, PackedRows, Rows, insert_all
from takhin.storage.sqlite.senders import Producers, Senders, Sources
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.times import Ends, Times

EMPTY_PAGES = 18
"""Pages of a new file. One of them is for committed offsets."""
PRODUCER_BYTES, SOURCE_BYTES = 400, 150
"""About the space of what a file remembers of one producer, and of one source."""
FREE_PAGES_MIN = 64
"""Fewer free pages, 1 MiB, are never given back."""

SLICE_WRITES = 200
"""How many writes of a group are applied before others have their turn on the loop."""
ROW_BYTES_MIN = 16
"""The space of the smallest record in the file, about."""

Answer_co = TypeVar("Answer_co", covariant=True)


class Pages(NamedTuple):
    """How many pages a file has, how many of them are free, and how many committed offsets take."""

    total: int
    free: int
    committed: int

    @staticmethod
    def of(db: apsw.Connection, committed: int) -> Pages:
        return Pages(db.execute(sql.PAGES).get, db.execute(sql.FREE_PAGES).get, committed)

    @property
    def of_records(self) -> int:
        """How many pages records take, about: more than in an empty file, and not for anything else."""
        return max(0, self.total - self.free - self.committed - (EMPTY_PAGES - 1))

    def many_free(self, percent_max: int) -> bool:
        """True if more of them are free than are worth keeping for what comes."""
        return self.free >= FREE_PAGES_MIN and 100 * self.free > percent_max * self.total


@dataclass(slots=True)
class LogState:
    """One log as its commits have made it."""

    topic: str
    partition: int
    start_offset: int
    """What readers see as the start. A trim moves it before its COMMIT: no read may meet the gap."""
    durable_start: int
    mark: Mark
    times: Times
    pages: Pages
    producers: int
    """How many producers the file remembers."""
    sources: int
    """How many sources it remembers."""
    ends: Ends
    last_group: int
    """Where the last commit group begins that has appended records; after a start, the last record."""
    history: History
    """What compaction has done."""
    lost: Sequence[tuple[int, int]] = ()
    """Ranges [first, beyond) that `takhin recover` has given up, in order."""

    def next_record(self, offset: int) -> int:
        """Where the record at or after `offset` is at the latest, if none is missing."""
        return compaction.next_record(offset, self.history.gaps, self.lost)

    @property
    def record_count(self) -> int:
        """How many records the log has."""
        return compaction.count_records(self.start_offset, self.end_offset, self.history.gaps, self.lost)

    @property
    def records_bytes(self) -> int:
        """The space of the records in the file, about."""
        remembered = self.producers * PRODUCER_BYTES + self.sources * SOURCE_BYTES
        return max(0, int(self.pages.of_records * PAGE_BYTES) - remembered)

    @property
    def end_offset(self) -> int:
        return self.mark.end_offset

    def landed(self, written: Written) -> None:
        """Take in a group that has become durable."""
        if written.records:
            self.last_group = self.end_offset
        self.start_offset = self.durable_start = written.start_offset
        self.history = written.history
        self.mark = written.mark
        self.times = written.times
        self.pages = written.pages
        self.producers = written.producers
        self.sources = written.sources
        self.ends = written.ends


@dataclass(frozen=True, slots=True)
class Written:
    """What a group's COMMIT makes true. answers: one for each write, in order."""

    answers: Sequence[object]
    start_offset: int
    history: History
    mark: Mark
    times: Times
    pages: Pages
    producers: int
    sources: int
    source_groups: Mapping[str, bool]
    """Whether the log remembers sources of a group, of those that have changed."""
    offsets: Sequence[tuple[str, CommittedOffset | None]]
    """The groups whose committed offset has changed; None: it is forgotten."""
    next_times: Mapping[int, int]
    """The timestamps of records that a group has to read next or may have: see OffsetIndex."""
    compacted: bool
    """True if records were removed between others."""
    records: int
    """How many records were appended."""
    appended_bytes: int
    """The sum of the size_bytes of their batches."""
    ends: Ends
    removed: bool
    """True if records were removed, so that the first or the last may be another one: both are to be read."""


class Draft:
    """The log as the writes of one open transaction have made it so far."""

    def __init__(self, state: LogState, db: apsw.Connection, shared: Shared) -> None:
        self.start_offset = state.start_offset
        self.end_offset = state.end_offset
        self.history = state.history
        self.lost = state.lost
        self.times = state.times
        self.now = shared.clock()
        """The broker's clock, ms."""
        self.offsets: list[tuple[str, CommittedOffset | None]] = []
        self.next_times: dict[int, int] = {}
        at, settings = TopicPartition(state.topic, state.partition), shared.settings
        self.senders = Senders(
            at,
            Producers(db, state.producers, settings.producers_max),
            Sources(db, at, state.sources, settings.sources_max, shared.sources),
        )
        self.removed = False
        """Set by writes that remove records."""
        self.compacted = False
        """Set by those that remove some between others."""
        self.db = db
        """The connection. Records appended before in the same group are not in the table yet."""
        self._state = state
        self._committed_pages = state.pages.committed
        self._inserted = 0
        self._ends = state.ends
        self._first = state.end_offset  # of the records that are not inserted yet
        self._waiting: list[Rows] = []  # these records
        self._native = shared.native
        self._appended_bytes = 0

    @property
    def has_gaps(self) -> bool:
        """True if records may be missing between others at the log's start."""
        return bool(self.lost) or self.history.gaps.compacted_below > self.start_offset

    @property
    def record_bytes(self) -> int:
        """The space of a record, on the average."""
        return max(ROW_BYTES_MIN, self._state.records_bytes // max(1, self._state.record_count))

    def with_records(self) -> apsw.Connection:
        """The connection, once all records appended so far are in the table."""
        for _ in self._insert():
            pass
        return self.db

    async def insert(self) -> None:
        """Bring the records appended so far into the table, in turn with what else the loop has to do."""
        for _ in self._insert():
            await others_turn()

    @contextmanager
    def of_groups(self) -> Iterator[None]:
        """What is written inside is what groups have committed: the pages that it takes are no records'."""
        before = Pages.of(self.db, 0)
        yield
        after = Pages.of(self.db, 0)
        self._committed_pages += (after.total - after.free) - (before.total - before.free)

    @property
    def changes(self) -> int:
        """How many rows have changed but for the records appended."""
        return self.db.total_changes() - self._inserted

    def append(self, batch: Batch) -> Appended:
        """Append a batch at the end. Its rows are inserted later, together with those of its neighbours."""
        first = self.end_offset
        if first == self._state.end_offset:
            self.next_times[first] = batch.first_timestamp
        if self._native and batch.packed is not None:
            self._waiting.append(PackedRows(first, batch.packed))
        else:
            self._columns_at(first).add(batch)
        self._appended_bytes += batch.size_bytes
        self.end_offset = first + len(batch)
        self._ends = self._ends.after(batch.first_timestamp, batch.last_timestamp)
        return Appended(self._state.partition, first, batch.first_timestamp, len(batch))

    def _columns_at(self, first: int) -> Columns:
        """Those that the next batch belongs to."""
        last = self._waiting[-1] if self._waiting else None
        if not isinstance(last, Columns):
            last = Columns(first)
            self._waiting.append(last)
        return last

    async def finish(self, answers: Sequence[object]) -> Written:
        """Insert what is left, and count the commit."""
        await self.insert()
        mark = Mark(self._state.mark.commits + 1, self.end_offset)
        self.db.execute(sql.SET_END, (mark.end_offset, mark.commits))
        return Written(
            answers,
            self.start_offset,
            self.history,
            mark,
            self.times,
            Pages.of(self.db, self._committed_pages),
            self.senders.producers.count,
            self.senders.sources.count,
            self.senders.sources.groups,
            self.offsets,
            self.next_times,
            self.compacted,
            self.end_offset - self._state.end_offset,
            self._appended_bytes,
            self._ends,
            self.removed,
        )

    def _insert(self) -> Iterator[None]:
        """Insert the records appended so far; yields where others may have their turn."""
        if not self._waiting:
            return
        first, before = self._first, self.db.total_changes()
        yield from insert_all(self.db, self._waiting)
        if first == self._state.end_offset and self.times.block_due(first, self.now):
            self.times = self.times.with_block(self.db, first, self.now)
        self.times = self.times.after(max(rows.highest_timestamp for rows in self._waiting), self.now)
        self._first = self.end_offset
        self._waiting.clear()
        self._inserted += self.db.total_changes() - before


class Write(Protocol[Answer_co]):
    """A change of one partition's file; writes.py has them all."""

    @property
    def record_count(self) -> int:
        """How many records it appends. What appends none is taken also while the disk is full."""

    @property
    def queued_bytes(self) -> int:
        """What it weighs while it waits."""

    @property
    def own_turn(self) -> bool:
        """True if it takes so long that it has a turn of the loop for itself."""

    def apply(self, draft: Draft) -> Answer_co:
        """Make the change in the open transaction. May raise RefusedError, but only before it writes."""


class SmallWrite:
    """What all writes but appends have in common: they add no records and weigh next to nothing."""

    __slots__ = ()
    record_count = 0
    queued_bytes = 0
    own_turn = False


class LongWrite(SmallWrite):
    """A small write that takes 1 or 2 ms."""

    __slots__ = ()
    own_turn = True


Queued = tuple[Write[Any], asyncio.Future[Any]]
"""A write, and the future that gets its answer."""


@dataclass(frozen=True, slots=True)
class CommitGroup:
    """The writes of one transaction, each with the future of the one who waits for it."""

    writes: Sequence[Queued]
    queued_bytes: int

    @property
    def appends(self) -> int:
        """How many of the writes append records."""
        return sum(1 for write, _ in self.writes if write.record_count)

    async def write(self, state: LogState, db: apsw.Connection, shared: Shared) -> Written:
        """Apply all of it in the open transaction, behind `state`, which stays as it is.

        Inside a Course only. Raises whatever a write raises that is not a refusal.
        """
        draft = Draft(state, db, shared)
        answers: list[object] = []
        for count, (write, _) in enumerate(self.writes, 1):
            if write.own_turn:
                await draft.insert()  # it would do so itself, all in one turn
            if count % SLICE_WRITES == 0 or write.own_turn:
                await others_turn()
            before = draft.changes
            try:
                answers.append(write.apply(draft))
            except RefusedError as refused:
                if draft.changes != before:
                    raise AssertionError(f"{write} refused after it had written") from refused
                answers.append(refused)
        return await draft.finish(answers)

    def answer(self, written: Written) -> None:
        """Tell everyone that the group is durable."""
        for (_, future), answer in zip(self.writes, written.answers, strict=True):
            if future.done():  # the one who waited may have gone
                continue
            if isinstance(answer, RefusedError):
                fail(future, answer)
            else:
                future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Tell everyone that it is not."""
        for _, future in self.writes:
            fail(future, error)


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Give a future its error, unless the one who waited has gone."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # nobody may be waiting any more: not worth a warning
