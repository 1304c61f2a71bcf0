"""The tasks that send: one for each partition that has something to send, and none while there is nothing.

One request is under way for each partition, so order is kept, a retry repeats exactly what was sent, and the
next batch grows meanwhile. Every batch is settled by its deadline. The policy of an attempt is in sending.py.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextlib import suppress

from takhin.client.calls import Calls
from takhin.client.errors import ClosedError
from takhin.client.producing.batches import PendingBatch
from takhin.client.producing.buffer import Buffer
from takhin.client.producing.doubts import Doubts
from takhin.client.producing.options import SendOptions
from takhin.client.producing.queue import PartitionQueue
from takhin.client.producing.sending import Sender
from takhin.model import TopicPartition

FAILURES_KEPT_MAX = 1_000


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
        self._failed: deque[PendingBatch] = deque(maxlen=FAILURES_KEPT_MAX)

    def queue(self, at: TopicPartition) -> PartitionQueue:
        """A new queue, whose batches a worker of its own sends. Call it on the loop."""
        return Worker(self, at, Sender(self._calls, self.options, self._slots, self._doubts)).queue

    async def flush(self) -> None:
        """Return when all that is there now is settled. Raises the first failure that nobody was told."""
        for last in [worker.queue.end() for worker in self._working]:
            if last is not None:
                await last.wait()
        await asyncio.sleep(0)  # those who wait for a delivery are told first
        untold = [batch for batch in self._failed if not batch.told]
        self._failed.clear()
        if untold and untold[0].error is not None:
            raise untold[0].error

    async def cancel(self) -> None:
        """Stop at once. Batches under way fail with OutcomeUnknownError, waiting ones with ClosedError."""
        working = dict(self._working)
        for task in working.values():
            task.cancel()
        await asyncio.gather(*working.values(), return_exceptions=True)
        for worker in working:
            while (batch := worker.queue.take()) is not None:
                batch.outcomes.append((0, ClosedError("the producer was closed before the record was sent")))
                self.settle(batch)

    def settle(self, batch: PendingBatch) -> None:
        """All outcomes of the batch are known: tell its senders, and give back its room."""
        if batch.error is not None:
            self._failed.append(batch)
        batch.settle()
        self.buffer.give_back(batch.size_bytes)

    def start(self, worker: Worker) -> bool:
        """Start the worker's task. Returns False if it runs already."""
        if worker in self._working:
            return False
        self._working[worker] = asyncio.get_running_loop().create_task(worker.work())
        return True

    def ended(self, worker: Worker) -> None:
        """The worker's task ends now."""
        del self._working[worker]


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
        try:
            await self._linger()
            while (batch := self.queue.take()) is not None:
                try:
                    await self._sender.send(batch)
                finally:
                    self._outbox.settle(batch)
                await self._linger()
        finally:
            self._outbox.ended(self)  # nothing was awaited since `take`, so no record is left behind

    async def _linger(self) -> None:
        """Wait until linger_ms after the growing batch's first record, or until it grows no more."""
        until = self.queue.lingers_until if self._outbox.options.linger_s else None
        if until is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(until - time.monotonic()):
                while not self.queue.has_ready:
                    self._nudged.clear()
                    await self._nudged.wait()
