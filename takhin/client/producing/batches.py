"""A batch on its way to the broker, and the delivery of each of its records.

Knows neither gRPC nor retries. The only object made for each record is its Delivery: a batch and a position.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Generator
from functools import partial
from operator import itemgetter
from typing import Any

from takhin.client.clock import monotonic
from takhin.client.errors import Failure
from takhin.client.model import RecordMetadata
from takhin.model import Source, TopicPartition


class PendingBatch:
    """Records for one partition, from the first one put in until the outcome of all is known.

    records: encoded; given up when the batch is settled.
    began, deadline: of clock.monotonic().
    whole: an `append`: stored as it is or not at all, at expected_offset if there is one, and not if its
    source was taken before.
    outcomes: (position of the first record, its offset or error) of each run of records with a common fate,
    in order. There is one run unless the broker refused some of the records. The offset is -1 where the
    source was taken before.
    told: somebody has seen an error of it.
    """

    __slots__ = (
        "_callbacks",
        "_settled",
        "at",
        "began",
        "deadline",
        "done",
        "expected_offset",
        "outcomes",
        "record_count",
        "records",
        "size_bytes",
        "source",
        "told",
        "whole",
    )

    def __init__(self, at: TopicPartition, seconds_max: float) -> None:
        self.at = at
        self.began = monotonic()
        self.deadline = self.began + seconds_max
        self.records: list[bytes] = []
        self.size_bytes = 0
        self.whole = False
        self.expected_offset: int | None = None
        self.source: Source | None = None
        self.outcomes: list[tuple[int, int | Exception]] = []
        self.record_count = 0  # once it is settled
        self.done = False
        self.told = False
        self._settled: asyncio.Event | None = None
        self._callbacks: list[Callable[[], object]] = []

    def settle(self) -> None:
        """Release everybody who waits. Call when `outcomes` is complete."""
        self.record_count = len(self.records)
        self.records = []
        self.done = True
        if self._settled is not None:
            self._settled.set()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self.when_done(callback)

    def when_done(self, callback: Callable[[], object]) -> None:
        """Have the loop call `callback` soon after the batch is settled. Runs on the loop.

        What it raises goes to the loop's exception handler, and concerns nobody else.
        """
        if self.done:
            asyncio.get_running_loop().call_soon(callback)
        else:
            self._callbacks.append(callback)

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
    def failure(self) -> Failure | None:
        """What became of the records that were not stored, once it is settled; None if all were."""
        stops = [start for start, _ in self.outcomes[1:]] + [self.record_count]
        failed = [
            (stop - start, outcome)
            for (start, outcome), stop in zip(self.outcomes, stops, strict=True)
            if isinstance(outcome, Exception)
        ]
        return Failure(*self.at, sum(count for count, _ in failed), failed[0][1]) if failed else None


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

    def add_done_callback(self, callback: Callable[[Delivery], object]) -> None:
        """Have the loop call `callback(delivery)` soon after it is done; `result` says how it ended."""
        self._batch.when_done(partial(callback, self))

    def result(self) -> RecordMetadata:
        """Where the record was stored; raises why it was not. Raises InvalidStateError before it is done."""
        if not self._batch.done:
            raise asyncio.InvalidStateError("the record has no outcome yet")
        return self._batch.metadata(self._position)

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        if not self._batch.done:
            yield from self._batch.wait().__await__()
        return self._batch.metadata(self._position)
