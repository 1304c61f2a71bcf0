"""What a partition's file remembers of producers, read and written inside a group's transaction.

So a batch is judged by what its own transaction holds: the batches before it in the group count, and of a
group that fails nothing is left. There is no other copy of it that could disagree.
"""

from __future__ import annotations

from typing import Any

import apsw

from takhin.disk import statements as sql
from takhin.model import Appended, Batch, Condition
from takhin.storage.conditions import Remembered, judge, may_have_forgotten, to_forget, to_remember


class Producers:
    """The producers of one log, while one transaction is open."""

    def __init__(self, db: apsw.Connection, topic: str, partition: int, count: int, count_max: int) -> None:
        """count: how many producers the file remembers. count_max: how many it may."""
        self.count = count
        self._db = db
        self._topic = topic
        self._partition = partition
        self._count_max = count_max
        self._oldest: int | None = None  # a lower bound of OLDEST_LAST_BATCH, until some are forgotten

    def judge(self, batch: Batch, condition: Condition, end: int) -> Appended | None:
        """The answer to a batch that was stored before; None for one to append at `end`, which is remembered.

        Raises OutOfSequenceError, EndOffsetMismatchError.
        """
        producer_id = condition.producer_id
        remembered = self._remembered(producer_id) if producer_id else []
        stored = judge(
            condition,
            len(batch),
            remembered,
            topic=self._topic,
            partition=self._partition,
            end=end,
            forgotten_before=self._forgotten_before,
        )
        if stored is None and producer_id:
            if not remembered:
                self._make_room()
            new = to_remember(batch, condition.sequence, remembered, end)
            self._db.execute(sql.PUT_PRODUCER_BATCH, (producer_id, *new))
        return stored

    def _remembered(self, producer_id: bytes) -> list[Remembered]:
        rows: Any = self._db.execute(sql.PRODUCER_BATCHES, (producer_id,))
        return [Remembered(*row) for row in rows]

    def _forgotten_before(self) -> int:
        """Producers whose last batch is at this offset or behind it are all remembered."""
        if not may_have_forgotten(self.count, self._count_max):
            return 0
        if self._oldest is None:  # it reads the whole table
            oldest: int = self._db.execute(sql.OLDEST_LAST_BATCH).get
            self._oldest = oldest
        return self._oldest

    def _make_room(self) -> None:
        """For one more producer."""
        if forgotten := to_forget(self.count, self._count_max):
            self._db.execute(sql.FORGET_PRODUCERS, (forgotten,))
            self._oldest = None
        self.count += 1 - forgotten
