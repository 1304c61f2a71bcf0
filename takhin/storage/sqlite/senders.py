"""What a partition's file remembers of producers and of sources, inside a group's transaction.

So a batch is judged by what its own transaction holds: the batches before it in the group count, and of a
group that fails nothing is left. There is no other copy of it that could disagree.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import apsw

from takhin.disk import statements as sql
from takhin.model import Appended, Batch, Condition, Source, TopicPartition
from takhin.storage.conditions import (
    Known,
    Remembered,
    judge,
    may_have_forgotten,
    to_forget,
    to_remember,
    too_many_sources,
)
from takhin.storage.sources import SourceIndex

GONE_AT_ONCE = 500
"""Input logs that are forgotten at one time, which bounds what it takes of a turn of the loop."""


class Senders:
    """What one log remembers of those who send to it, while one transaction is open."""

    def __init__(self, at: TopicPartition, producers: Producers, sources: Sources) -> None:
        self.producers = producers
        self.sources = sources
        self._at = at

    def judge(self, batch: Batch, condition: Condition, end: int) -> Appended | None:
        """The answer to a batch that was stored before; None for one to append at `end`, which is remembered.

        Raises OutOfSequenceError, EndOffsetMismatchError, InvalidArgumentError for one source too many.
        """
        producer_id, source = condition.producer_id, condition.source
        remembered = self.producers.remembered(producer_id) if producer_id else []
        taken = None if source is None else self.sources.taken(source)
        stored = judge(
            condition,
            len(batch),
            Known(remembered, taken),
            topic=self._at.topic,
            partition=self._at.partition,
            end=end,
            forgotten_before=self.producers.forgotten_before,
        )
        if stored is None:
            if source is not None:  # before the producer's batch: it may refuse
                self.sources.take(source, is_new=taken is None)
            if producer_id:
                new = to_remember(batch, condition.sequence, remembered, end)
                self.producers.remember(producer_id, new, is_new=not remembered)
        return stored


class Producers:
    """The producers of one log, while one transaction is open. count: how many the file remembers."""

    def __init__(self, db: apsw.Connection, count: int, count_max: int) -> None:
        self.count = count
        self._db = db
        self._count_max = count_max
        self._oldest: int | None = None  # a lower bound of OLDEST_LAST_BATCH, until some are forgotten

    def remembered(self, producer_id: bytes) -> list[Remembered]:
        """The last batches of one producer."""
        rows: Any = self._db.execute(sql.PRODUCER_BATCHES, (producer_id,))
        return [Remembered(*row) for row in rows]

    def remember(self, producer_id: bytes, batch: Remembered, *, is_new: bool) -> None:
        """Remember a batch. is_new: nothing is known of its producer, so others may have to be forgotten."""
        if is_new:
            if forgotten := to_forget(self.count, self._count_max):
                self._db.execute(sql.FORGET_PRODUCERS, (forgotten,))
                self._oldest = None
            self.count += 1 - forgotten
        self._db.execute(sql.PUT_PRODUCER_BATCH, (producer_id, *batch))

    def forgotten_before(self) -> int:
        """Producers whose last batch is at this offset or behind it are all remembered."""
        if not may_have_forgotten(self.count, self._count_max):
            return 0
        if self._oldest is None:  # it reads the whole table
            oldest: int = self._db.execute(sql.OLDEST_LAST_BATCH).get
            self._oldest = oldest
        return self._oldest


class Sources:
    """The sources of one log, while one transaction is open. count: how many the file remembers.

    groups: whether it remembers any of a group, as far as that has changed.
    """

    def __init__(
        self, db: apsw.Connection, at: TopicPartition, count: int, count_max: int, index: SourceIndex
    ) -> None:
        self.count = count
        self.groups: dict[str, bool] = {}
        self._db = db
        self._at = at
        self._count_max = count_max
        self._index = index

    def taken(self, source: Source) -> int | None:
        """The highest offset that was taken of a source; None: none was."""
        found: int | None = self._db.execute(sql.GET_SOURCE, (source.group_id, source.incarnation_id)).get
        return found

    def take(self, source: Source, *, is_new: bool) -> None:
        """Remember that a batch was made of it. Raises InvalidArgumentError, with nothing written."""
        if is_new:
            self._make_room(source)
            self.count += 1
            self.groups[source.group_id] = True
        self._db.execute(
            sql.PUT_SOURCE,
            (source.group_id, source.incarnation_id, source.offset, source.topic, source.partition),
        )

    def forget(self, group_id: str, topics: Collection[str] | None) -> None:
        """Forget a group, or what it has in some topics."""
        if topics is None:
            self._db.execute(sql.FORGET_SOURCES_OF_GROUP, (group_id,))
        else:
            self._db.execute(sql.FORGET_SOURCES_OF_TOPICS, (group_id, json.dumps(list(topics))))
        self.count -= self._db.changes()
        self.groups[group_id] = bool(self._db.execute(sql.HAS_SOURCES, (group_id,)).get)

    def _make_room(self, source: Source) -> None:
        """For one more. Those whose log is gone make room; without any it is refused."""
        if self.count < self._count_max:
            return
        gone: list[str] = []
        if not self._index.is_full(self._at):
            rows: Any = self._db.execute(sql.SOURCE_LOGS)
            gone = self._index.gone(self._at, [incarnation_id for (incarnation_id,) in rows])
            del gone[GONE_AT_ONCE:]
        if not gone:
            raise too_many_sources(source, self._count_max, *self._at)
        self._db.execute(sql.FORGET_SOURCES_OF_LOGS, (json.dumps(gone),))
        self.count -= self._db.changes()
