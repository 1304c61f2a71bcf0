"""A commit group: the batches and other writes of one transaction, and how they become rows.

Knows the file's tables and where the log ends; when a group is formed and committed is the writer's matter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import apsw

from takhin.disk import statements as sql
from takhin.disk.witness import Mark
from takhin.errors import RefusedError
from takhin.model import Appended, Batch
from takhin.settings import StorageSettings
from takhin.storage.sqlite.producers import Producers

TIME_INDEX_RECORDS = 1_024
"""Records between two rows of the time index: a row in every commit would cost it a page more."""

Change = Callable[[apsw.Connection], None]
"""What a write other than an append does inside the transaction. It runs after the group's appends."""


@dataclass(slots=True)
class Tail:
    """The end of a log as its commits have made it."""

    topic: str
    partition: int
    mark: Mark
    highest_timestamp: int
    """Of all records below the end, or higher; -1 where there have been none."""
    indexed_offset: int
    """Of the last row of the time index; 0 where there is none."""
    producers: int
    """How many the file remembers."""

    @property
    def end_offset(self) -> int:
        return self.mark.end_offset

    def times_due(self) -> bool:
        """True when as many records have come since the last row of the time index as one row is for."""
        return self.end_offset - self.indexed_offset >= TIME_INDEX_RECORDS

    def move(self, written: Written) -> bool:
        """A group has become durable. True if that has moved the end."""
        moved = written.mark.end_offset > self.end_offset
        self.mark = written.mark
        self.highest_timestamp = written.highest_timestamp
        self.indexed_offset = written.indexed_offset
        self.producers = written.producers
        return moved


@dataclass(frozen=True, slots=True)
class Written:
    """What a group's COMMIT makes true. answers: one for each append, in order."""

    answers: Sequence[Appended | RefusedError]
    mark: Mark
    highest_timestamp: int
    indexed_offset: int
    producers: int


@dataclass(frozen=True, slots=True)
class Group:
    """The writes of one transaction, each with the future of the one who waits for it."""

    appends: Sequence[tuple[Batch, asyncio.Future[Appended]]]
    changes: Sequence[tuple[Change, asyncio.Future[None]]]
    queued_bytes: int

    @classmethod
    def of(
        cls,
        waiting: deque[tuple[Batch, asyncio.Future[Appended]]],
        changes: deque[tuple[Change, asyncio.Future[None]]],
        settings: StorageSettings,
    ) -> Group:
        """Take what waits off both queues, within the settings' limits, but at least one batch."""
        appends: list[tuple[Batch, asyncio.Future[Appended]]] = []
        records = queued_bytes = 0
        while waiting:
            batch = waiting[0][0]
            records += len(batch)
            if appends and (
                records > settings.commit_group_records_max
                or queued_bytes + batch.queued_bytes > settings.commit_group_bytes_max
            ):
                break
            queued_bytes += batch.queued_bytes
            appends.append(waiting.popleft())
        group = cls(appends, list(changes), queued_bytes)
        changes.clear()
        return group

    def write(self, tail: Tail, db: apsw.Connection, *, producers_max: int) -> Written:
        """Write all of it into the open transaction, behind `tail`, which stays as it is.

        producers_max: how many producers the file may remember.
        """
        first = end = tail.end_offset
        highest, indexed = tail.highest_timestamp, tail.indexed_offset
        columns: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        headers: list[tuple[int, int, str, bytes]] = []
        answers: list[Appended | RefusedError] = []
        producers = Producers(db, tail.topic, tail.partition, count=tail.producers, count_max=producers_max)
        for batch, _ in self.appends:
            if batch.condition is not None:
                answer = producers.answer(batch, batch.condition, end)
                if answer is not None:
                    answers.append(answer)
                    continue
            columns[0].extend(batch.timestamps)
            columns[1].extend(batch.keys)
            columns[2].extend(batch.values)
            for position, of_record in batch.headers.items():
                headers += ((end + position, i, *header) for i, header in enumerate(of_record))
            answers.append(Appended(tail.partition, end, batch.timestamps[0], len(batch)))
            end += len(batch)
        if end > first:
            _insert(db, first, end - first, columns)
            if headers:
                db.executemany(sql.INSERT_HEADER, headers)
            if tail.times_due():
                indexed = first
                db.execute(sql.PUT_TIME, (highest, first))
            highest = max(highest, *columns[0])
        for change, _ in self.changes:
            change(db)
        mark = Mark(tail.mark.commits + 1, end)
        db.execute(sql.SET_END, (mark.end_offset, mark.commits))
        return Written(answers, mark, highest, indexed, producers.count)

    def answer(self, written: Written) -> None:
        """Tell everyone that the group is durable."""
        for (_, appended), answer in zip(self.appends, written.answers, strict=True):
            if appended.done():  # the one who waited may have gone
                continue
            if isinstance(answer, RefusedError):
                _refuse(appended, answer)
            else:
                appended.set_result(answer)
        for _, changed in self.changes:
            if not changed.done():
                changed.set_result(None)

    def fail(self, error: Exception) -> None:
        """Tell everyone that it is not."""
        for _, future in chain[tuple[Any, asyncio.Future[Any]]](self.appends, self.changes):
            if not future.done():  # the one who waited may have gone
                _refuse(future, error)


def _refuse(future: asyncio.Future[Any], error: Exception) -> None:
    future.set_exception(error)
    future.exception()  # nobody may be waiting any more: not worth a warning


def _insert(
    db: apsw.Connection, first: int, rows: int, columns: tuple[list[Any], list[Any], list[Any]]
) -> None:
    flat: list[Any] = [None] * (3 * rows)
    flat[0::3], flat[1::3], flat[2::3] = columns
    at = 0
    while at < rows:
        size = min(sql.ROWS_PER_STATEMENT_MAX, 1 << ((rows - at).bit_length() - 1))
        db.execute(sql.insert_records(size), [first + at, *flat[3 * at : 3 * (at + size)]])
        at += size
