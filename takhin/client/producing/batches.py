"""A batch on its way to the broker, and the delivery of each of its records.

Knows neither gRPC nor retries. The only object made for each record is its delivery: a batch and a position.
A batch does not keep them. Many records may be on their way, and Python's garbage collector would look at the
deliveries of all of them again and again; so whoever is called back gets one that is made then.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Generator
from operator import itemgetter, length_hint
from typing import Any

from takhin.client.clock import monotonic
from takhin.client.errors import Failure
from takhin.client.model import RecordMetadata
from takhin.client.producing import per_record
from takhin.model import Source, TopicPartition


class PendingBatch(per_record.Batch):
    """Records for one partition, from the first one put in until the outcome of all is known.

    records: encoded; given up when the batch is settled.
    began, deadline: of clock.monotonic().
    whole: an `append`: stored as it is or not at all, at expected_offset if there is one, and not if its
    source was taken before.
    outcomes: (position of the first record, its offset or error) of each run of records with a common fate,
    in order. There is one run unless the broker refused some of the records. The offset is -1 where the
    source was taken before.
    told: somebody has seen an error of it.
    entry_type: of its records' deliveries.
    """

    __slots__ = (
        "_settled",
        "began",
        "deadline",
        "entry_type",
        "expected_offset",
        "outcomes",
        "record_count",
        "source",
        "told",
        "whole",
    )

    def __init__(self, at: TopicPartition, seconds_max: float, entry_type: type[per_record.Entry]) -> None:
        self.at = at
        self.entry_type = entry_type
        self.began = monotonic()
        self.deadline = self.began + seconds_max
        self.records = []
        self.size_bytes = 0
        self.whole = False
        self.expected_offset: int | None = None
        self.source: Source | None = None
        self.outcomes: list[tuple[int, int | Exception]] = []
        self.record_count = 0  # once it is settled
        self.done = False
        self.told = False
        self._settled: asyncio.Event | None = None
        self.first_offset = None
        self.callbacks = []

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        """What `copy` and `pickle` ask for: they do not see what the compiled part keeps."""
        names = *per_record.PythonBatch.__slots__, *self.__slots__
        return None, {name: getattr(self, name) for name in names}

    def settle(self) -> None:
        """Release everybody who waits. Call when `outcomes` is complete."""
        self.record_count = len(self.records)
        self.records = []
        if len(self.outcomes) == 1 and isinstance(first_offset := self.outcomes[0][1], int):
            self.first_offset = first_offset
        self.done = True
        if self._settled is not None:
            self._settled.set()
        if self.callbacks:
            asyncio.get_running_loop().call_soon(self.call_back)

    def when_done(self, callback: Callable[[Any], object], position: int) -> bool:
        """Have the loop call `callback(entry)`, with the one of `position`, soon after the batch is settled.

        May run on any thread. Returns True if that is so already; the caller has to let the loop run
        `call_back` then.
        """
        self.callbacks.extend((callback, position))  # before the look, so that `settle` cannot miss it
        return self.done

    def call_back(self) -> None:
        """Call those who want to know. Runs on the loop.

        What one of them raises goes to the loop's exception handler, and concerns nobody else. But what ends
        a program ends the loop, where entries may.
        """
        waiting, entry_type = self.callbacks, self.entry_type
        called = waiting[:]
        del waiting[: len(called)]  # what they add meanwhile, or another thread, has a turn of its own
        one_by_one = iter(called)
        while length_hint(one_by_one):
            try:
                self.call_each(entry_type, one_by_one)
            except BaseException as error:
                loop = asyncio.get_running_loop()
                if entry_type.may_end_loop and isinstance(error, SystemExit | KeyboardInterrupt):
                    waiting[:0] = one_by_one  # those who are left
                    loop.call_soon(self.call_back)
                    raise
                callback = called[-2 - length_hint(one_by_one)]
                loop.call_exception_handler(
                    {"message": f"exception in a delivery's callback {callback!r}", "exception": error}
                )

    def call_back_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self.call_back)

    async def wait(self) -> None:
        """Return when the batch is settled."""
        if not self.done:
            if self._settled is None:
                self._settled = asyncio.Event()
            await self._settled.wait()

    def outcome(self, position: int) -> RecordMetadata:
        topic, partition = self.at
        outcomes = self.outcomes
        start, outcome = outcomes[bisect_right(outcomes, position, key=itemgetter(0)) - 1]
        if isinstance(outcome, Exception):
            self.told = True
            raise outcome.with_traceback(None)
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


class Delivery(per_record.Outcome):
    """One record's outcome. Awaited, it gives RecordMetadata or raises why the record was not stored.

    It may be awaited never, once or often, by any number of tasks. A failure that nobody awaited is
    raised by `flush` and `close`.
    """

    __slots__ = ()

    _batch: PendingBatch

    @property
    def done(self) -> bool:
        """True if awaiting it would return or raise at once."""
        return self._batch.done

    async def wait(self) -> None:
        """Return when it is done."""
        await self._batch.wait()

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        batch = self._batch
        if not batch.done:
            yield from batch.wait().__await__()
        return batch.metadata(self._position)
