"""The tasks that send: one for each partition that has something to send, and none while there is nothing.

One request is under way for each partition, so order is kept, a retry repeats exactly what was sent, and the
next batch grows meanwhile. Every batch is settled by its deadline. The policy of an attempt is in sending.py.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from contextlib import suppress
from functools import partial

from takhin.client.calls import Calls
from takhin.client.clock import monotonic
from takhin.client.errors import ClosedError, Failure, FlushError, NotSentError
from takhin.client.producing.batches import PendingBatch
from takhin.client.producing.buffer import Buffer
from takhin.client.producing.doubts import Doubts
from takhin.client.producing.options import SendOptions
from takhin.client.producing.queue import PartitionQueue
from takhin.client.producing.sending import Sender
from takhin.errors import RefusedError
from takhin.model import TopicPartition

FAILURES_KEPT_MAX = 1_000

BUSY: dict[asyncio.AbstractEventLoop, set[Outbox]] = {}
"""By loop, the outboxes that have something to send: what keeps them and their tasks, as a loop does not.

Each loop's own thread changes its entry; there is none while it has nothing to send.
"""

logger = logging.getLogger("takhin.client")


class Outbox:
    """Starts the workers of one producer, waits for them and stops them.

    doubts: where senders note a topic that may have been deleted and created again.
    """

    def __init__(self, calls: Calls, options: SendOptions, buffer: Buffer, doubts: Doubts) -> None:
        self.options = options
        self.buffer = buffer
        self._calls = calls
        self._doubts = doubts
        self._slots = asyncio.Semaphore(options.in_flight_max)
        self._working: dict[Worker, asyncio.Task[None]] = {}
        self._failed: deque[tuple[PendingBatch, Failure]] = deque()
        self._dropped = 0  # records of failures that are not kept
        self._cancelled = False

    def queue(self, at: TopicPartition, topic_id: str, end_offset: int) -> PartitionQueue:
        """A new queue, whose batches a worker of its own sends to that topic. Call it on the loop.

        end_offset: where the partition's log ended not long ago.
        """
        sender = Sender(self._calls, topic_id, self.options, self._slots, self._doubts, end_offset=end_offset)
        return Worker(self, at, sender).queue

    def sends(self, topic: str) -> bool:
        """True if records of the topic are on their way. On any thread."""
        return any(worker.queue.at.topic == topic for worker in list(self._working))

    async def flush(self) -> None:
        """Return when all that is there now is settled. Raises FlushError for what nobody was told."""
        for last in [worker.queue.end() for worker in self._working]:
            if last is not None:
                await last.wait()
        await asyncio.sleep(0)  # those who wait for a delivery are told first
        untold = [failure for batch, failure in self._failed if not batch.told]
        record_count = sum(failure.record_count for failure in untold) + self._dropped
        self._failed.clear()
        self._dropped = 0
        if untold:
            raise FlushError(untold, record_count) from untold[0].error

    async def cancel(self) -> None:
        """Stop at once. Batches under way fail with OutcomeUnknownError, waiting ones with ClosedError."""
        self._cancelled = True
        tasks = list(self._working.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def settle(self, batch: PendingBatch) -> None:
        """All outcomes of the batch are known: tell its senders, and give back its room."""
        batch.settle()
        self.buffer.give_back(batch.size_bytes)
        if (failure := batch.failure) is None:
            return
        level = logging.DEBUG if isinstance(failure.error, RefusedError) else logging.WARNING
        logger.log(
            level,
            "%d records for topic %r partition %d were not acknowledged: %s",
            failure.record_count,
            failure.topic,
            failure.partition,
            failure.error,
        )
        if len(self._failed) == FAILURES_KEPT_MAX and self._failed[0][0].told:
            self._failed.popleft()
        if len(self._failed) < FAILURES_KEPT_MAX:
            self._failed.append((batch, failure))
        else:
            self._dropped += failure.record_count

    def start(self, worker: Worker) -> bool:
        """Start the worker's task. Returns False if it runs already."""
        if worker in self._working:
            return False
        loop = asyncio.get_running_loop()
        task = loop.create_task(worker.work())
        self._working[worker] = task
        BUSY.setdefault(loop, set()).add(self)
        # A callback runs in every case. No line of a task does that is cancelled before its first step.
        task.add_done_callback(partial(self._ended, worker))
        return True

    def _ended(self, worker: Worker, task: asyncio.Task[None]) -> None:
        """The worker's task has ended: in order, or cancelled, by `cancel` or by anybody, or by a fault."""
        del self._working[worker]
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            logger.error("the task that sends to %s partition %d failed", *worker.queue.at, exc_info=fault)
        if fault is not None or task.cancelled():
            self._fail_waiting(worker, fault)
        elif not worker.queue.is_empty:  # a record came since the task looked for the last time
            self.start(worker)
        if not self._working:
            self._rest(task.get_loop())

    def _rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing is left to send."""
        busy = BUSY[loop]
        busy.discard(self)
        if not busy:
            del BUSY[loop]

    def _fail_waiting(self, worker: Worker, fault: BaseException | None) -> None:
        """Settle the batches that nobody sends any more. The next record starts another task."""
        error: Exception
        if self._cancelled:
            error = ClosedError("the producer was closed before the record was sent")
        elif fault is None:
            error = NotSentError("the task that was to send the record was cancelled from outside")
        else:
            error = NotSentError(f"the task that was to send the record failed: {fault!r}")
        while (batch := worker.queue.take()) is not None:
            batch.outcomes.append((0, error))
            self.settle(batch)


class Worker:
    """Sends what is put into the queue of one partition."""

    def __init__(self, outbox: Outbox, at: TopicPartition, sender: Sender) -> None:
        self.queue = PartitionQueue(at, outbox.options, outbox.buffer, self.wake)
        self._outbox = outbox
        self._sender = sender
        self._nudged = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()

    def wake(self) -> None:
        """Send what is new in the queue. Runs on any thread, as blocking producers put records in."""
        if threading.get_ident() == self._thread_id:
            self._wake()
        else:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._outbox.start(self):
            self._nudged.set()

    async def work(self) -> None:
        """Send until the queue is empty."""
        await self._linger()
        while (batch := self.queue.take()) is not None:
            try:
                await self._sender.send(batch)
            finally:
                self._outbox.settle(batch)
            await self._linger()

    async def _linger(self) -> None:
        """Wait until linger_ms after the growing batch's first record, or until it grows no more."""
        until = self.queue.lingers_until if self._outbox.options.linger_s else None
        if until is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(until - monotonic()):
                while not self.queue.has_ready:
                    self._nudged.clear()
                    await self._nudged.wait()
