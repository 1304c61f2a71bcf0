"""Records of one request, from the first one put in to the broker's answer, and what `send` gives for each.

Knows neither gRPC nor retries. No object is made for a record but its Delivery: a batch and a number.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Generator
from operator import itemgetter
from typing import Any

from takhin.client.model import RecordMetadata

RECORD_COST_BYTES = 64
"""What a record that waits takes besides its bytes, so that empty records fill a buffer, too."""


class Batch:
    """Records for one partition, sent as one request.

    records: encoded; given up when the batch is settled.
    began, deadline: of time.monotonic().
    whole: stored as it is or not at all, at expected_offset if there is one: an `append`.
    outcomes: (first position, offset or error) of each run of records with one fate, in order; one run,
    but where the broker refused some of them.
    told: somebody saw an error of it.
    """

    __slots__ = (
        "_settled",
        "began",
        "deadline",
        "done",
        "expected_offset",
        "outcomes",
        "partition",
        "records",
        "size_bytes",
        "told",
        "topic",
        "whole",
    )

    def __init__(self, topic: str, partition: int, seconds_max: float) -> None:
        self.topic = topic
        self.partition = partition
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
        """All outcomes are there: let those go on who wait."""
        self.records = []
        self.done = True
        if self._settled is not None:
            self._settled.set()

    async def wait(self) -> None:
        """Return when it is settled."""
        if not self.done:
            if self._settled is None:
                self._settled = asyncio.Event()
            await self._settled.wait()

    def metadata(self, position: int) -> RecordMetadata:
        """Where the record at `position` was stored; raises why it was not. For a settled batch."""
        start, outcome = self.outcomes[bisect_right(self.outcomes, position, key=itemgetter(0)) - 1]
        if isinstance(outcome, Exception):
            self.told = True
            raise outcome.with_traceback(None)
        return RecordMetadata(self.topic, self.partition, outcome + position - start)

    @property
    def error(self) -> Exception | None:
        """The first one."""
        return next((outcome for _, outcome in self.outcomes if isinstance(outcome, Exception)), None)


class Delivery:
    """One record's outcome. Awaited, it gives RecordMetadata or raises why the record was not stored.

    It may be awaited never, once or often, by any number of tasks. A failure that nobody awaited is
    raised by `flush` and `close`.
    """

    __slots__ = ("_batch", "_position")

    def __init__(self, batch: Batch, position: int) -> None:
        self._batch = batch
        self._position = position

    @property
    def done(self) -> bool:
        """Whether awaiting it would not wait."""
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
