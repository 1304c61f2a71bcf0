"""A batch on its way to the broker, and the delivery of each of its records.

Knows neither gRPC nor retries. The only object made for each record is its Delivery: a batch and a position.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Generator
from operator import itemgetter
from typing import Any

from takhin.client.model import RecordMetadata
from takhin.model import TopicPartition


class PendingBatch:
    """Records for one partition, from the first one put in until the outcome of all is known.

    records: encoded; given up when the batch is settled.
    began, deadline: of time.monotonic().
    whole: an `append`: stored as it is or not at all, at expected_offset if there is one.
    outcomes: (position of the first record, its offset or error) of each run of records with a common fate,
    in order. There is one run unless the broker refused some of the records.
    told: somebody has seen an error of it.
    """

    __slots__ = (
        "_settled",
        "at",
        "began",
        "deadline",
        "done",
        "expected_offset",
        "outcomes",
        "records",
        "size_bytes",
        "told",
        "whole",
    )

    def __init__(self, at: TopicPartition, seconds_max: float) -> None:
        self.at = at
        self.began = time.monotonic()
        self.deadline = self.began + seconds_max
        self.records: list[bytes] = []
        self.size_bytes = 0
        self.whole = False
        self.expected_offset: int | None = None
        self.outcomes: list[tuple[int, int | Exception]] = []
        self.done = False
        self.told = False
        self._settled: asyncio.Event | None = None

    def settle(self) -> None:
        """Release everybody who waits. Call when `outcomes` is complete."""
        self.records = []
        self.done = True
        if self._settled is not None:
            self._settled.set()

    async def wait(self) -> None:
        """Return when the batch is settled."""
        if not self.done:
            if self._settled is None:
                self._settled = asyncio.Event()
            await self._settled.wait()

    def metadata(self, position: int) -> RecordMetadata:
        """Where the record at `position` was stored; raises why it was not. Call when it is settled."""
        start, outcome = self.outcomes[bisect_right(self.outcomes, position, key=itemgetter(0)) - 1]
        if isinstance(outcome, Exception):
            self.told = True
            raise outcome.with_traceback(None)
        topic, partition = self.at
        return RecordMetadata(topic, partition, outcome + position - start)

    @property
    def error(self) -> Exception | None:
        """The first error among the outcomes."""
        return next((outcome for _, outcome in self.outcomes if isinstance(outcome, Exception)), None)


class Delivery:
    """One record's outcome. Awaited, it gives RecordMetadata or raises why the record was not stored.

    It may be awaited never, once or often, by any number of tasks. A failure that nobody awaited is
    raised by `flush` and `close`.
    """

    __slots__ = ("_batch", "_position")

    def __init__(self, batch: PendingBatch, position: int) -> None:
        self._batch = batch
        self._position = position

    @property
    def done(self) -> bool:
        """True if awaiting it would return or raise at once."""
        return self._batch.done

    async def wait(self) -> None:
        """Return when it is done."""
        await self._batch.wait()

    def result(self) -> RecordMetadata:
        """Where the record was stored; raises why it was not. Raises InvalidStateError before it is done."""
        if not self._batch.done:
            raise asyncio.InvalidStateError("the record has no outcome yet")
        return self._batch.metadata(self._position)

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        if not self._batch.done:
            yield from self._batch.wait().__await__()
        return self._batch.metadata(self._position)
