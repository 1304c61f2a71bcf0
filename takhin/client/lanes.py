"""How records leave: a queue for each partition, one request of it under way at a time.

So order is kept, a retry repeats exactly what was sent, and while one request is under way the next batch
grows. Every batch is settled by its deadline, with what is known of it. All of it runs on one event loop;
only putting records in may happen on other threads (takhin.client.sync), hence one lock.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from takhin.client.batches import RECORD_COST_BYTES, Batch, Delivery
from takhin.client.connection import Connection
from takhin.client.errors import ClosedError, NoAnswerError
from takhin.errors import (
    InvalidArgumentError,
    InvalidBatchError,
    InvalidRecordError,
    OutcomeUnknownError,
    OutOfSequenceError,
    PartitionUnavailableError,
    RecordTooLargeError,
    RefusedError,
    TakhinError,
    UnavailableError,
    UnknownPartitionError,
    UnknownTopicError,
)
from takhin.wire import requests

PRODUCER_ID_BYTES = 16
FAILURES_KEPT_MAX = 1_000

MAYBE_STORED = (NoAnswerError, OutcomeUnknownError, PartitionUnavailableError)
"""After these a batch may be in the log, or come to be."""
OF_ONE_RECORD = (InvalidArgumentError, InvalidBatchError, InvalidRecordError, RecordTooLargeError)
"""Refusals that part of a batch may escape: its neighbours do not suffer for one record."""
ANOTHER_TOPIC = (UnknownTopicError, UnknownPartitionError, OutOfSequenceError)
"""After these the topic may be another one than it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """See Producer, whose arguments they are. delivery_s_max, linger_s: in seconds."""

    batch_records_max: int
    batch_bytes_max: int
    buffer_bytes_max: int
    in_flight_max: int
    linger_s: float
    delivery_s_max: float
    idempotent: bool


class Outbox:
    """What the lanes of one producer share: the bound on what is not acknowledged, and who is at work.

    lock: held while records are put in or taken out.
    bytes: of all records that are not settled; the bound may be passed by one of them.
    wake: called with a lane that has work for its task, on whatever thread put it there.
    doubt: called with the name of a topic that may be another one than it was.
    """

    def __init__(self, connection: Connection, limits: Limits, doubt: Callable[[str], None]) -> None:
        self.connection = connection
        self.limits = limits
        self.doubt = doubt
        self.wake: Callable[[Lane], None] = self.wake_here
        self.lock = threading.Lock()
        self.bytes = 0
        self.slots = asyncio.Semaphore(limits.in_flight_max)
        self._freed = asyncio.Event()
        self._working: dict[Lane, asyncio.Task[None]] = {}
        self._failed: deque[Batch] = deque(maxlen=FAILURES_KEPT_MAX)

    def wake_here(self, lane: Lane) -> None:
        """Let the lane's task see what is new. Runs on the loop."""
        if lane in self._working:
            lane.nudged.set()
        else:
            self._working[lane] = asyncio.get_running_loop().create_task(self._work(lane))

    @property
    def full(self) -> bool:
        return self.bytes >= self.limits.buffer_bytes_max

    async def room(self) -> None:
        """Return when a record may be put in."""
        while self.full:
            self._freed.clear()
            await self._freed.wait()

    def settle(self, batch: Batch) -> None:
        """All of the batch's outcomes are known: give back its room."""
        if batch.error is not None:
            self._failed.append(batch)
        batch.settle()
        with self.lock:
            self.bytes -= batch.size_bytes
        self._freed.set()

    async def flush(self) -> None:
        """Return when all that is there now is settled. Raises the first failure that nobody was told."""
        for last in [lane.cut() for lane in self._working]:
            if last is not None:
                await last.wait()
        await asyncio.sleep(0)  # those who wait for a delivery are told first
        untold = [batch for batch in self._failed if not batch.told]
        self._failed.clear()
        if untold and untold[0].error is not None:
            raise untold[0].error

    async def cancel(self) -> None:
        """Stop at once: what is under way fails with OutcomeUnknownError, what waits with ClosedError."""
        working = dict(self._working)
        for task in working.values():
            task.cancel()
        await asyncio.gather(*working.values(), return_exceptions=True)
        for lane in working:
            while (batch := lane.take()) is not None:
                batch.outcomes.append((0, ClosedError("the producer was closed before the record was sent")))
                self.settle(batch)

    async def _work(self, lane: Lane) -> None:
        try:
            await lane.send_all()
        finally:
            del self._working[lane]  # no await after its last look for work: the next record wakes another


class Lane:
    """The batches for one partition, in order; the last one grows while it waits.

    producer_id, sequence: as whom they are sent, and the number of the next record under that id. An empty
    id: the broker does not look for repeats.
    """

    def __init__(self, outbox: Outbox, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.nudged = asyncio.Event()
        self._outbox = outbox
        self._limits = outbox.limits
        self._growing: Batch | None = None
        self._ready: deque[Batch] = deque()
        self._sending: Batch | None = None
        self._busy = False
        self._begin_anew()

    # Putting in: on any thread, under the lock

    def put(self, record: bytes) -> Delivery:
        """Let a record, encoded, be the last one of the growing batch."""
        size = len(record) + RECORD_COST_BYTES
        batch = self._growing
        if batch is None or batch.size_bytes + size > self._limits.batch_bytes_max:
            self._cut()
            self._growing = batch = Batch(self.topic, self.partition, self._limits.delivery_s_max)
        records = batch.records
        position = len(records)
        records.append(record)
        batch.size_bytes += size
        self._outbox.bytes += size
        if position + 1 >= self._limits.batch_records_max:
            self._cut()
        if not self._busy:
            self._busy = True
            self._outbox.wake(self)
        return Delivery(batch, position)

    def put_whole(self, records: list[bytes], expected_offset: int | None) -> Batch:
        """The batch of these records alone."""
        self._cut()
        batch = Batch(self.topic, self.partition, self._limits.delivery_s_max)
        batch.records = records
        batch.size_bytes = sum(map(len, records)) + RECORD_COST_BYTES * len(records)
        batch.whole = True
        batch.expected_offset = expected_offset
        self._ready.append(batch)
        self._outbox.bytes += batch.size_bytes
        self._busy = True
        self._outbox.wake(self)
        return batch

    @property
    def taken(self) -> Batch | None:
        """The batch that was taken out last."""
        return self._sending

    def _cut(self) -> None:
        """Let the growing batch grow no more, and whoever lingers over it go on."""
        if self._growing is not None:
            self._ready.append(self._growing)
            self._growing = None
            if self._limits.linger_s:
                self._outbox.wake(self)

    # Taking out: on the loop

    def cut(self) -> Batch | None:
        """End the growing batch; gives the one after which all that was put in is settled."""
        with self._outbox.lock:
            self._cut()
            return self._ready[-1] if self._ready else self._sending

    def take(self) -> Batch | None:
        """The next batch to send, which grows no more; None: there is none, and the next record wakes."""
        with self._outbox.lock:
            if not self._ready:
                self._cut()
            self._busy = bool(self._ready)
            if not self._busy:
                return None
            self._sending = self._ready.popleft()
            return self._sending

    async def send_all(self) -> None:
        """Send until nothing is left."""
        if self._limits.linger_s:
            await self._linger()
        while (batch := self.take()) is not None:
            try:
                await self._deliver(batch, 0, len(batch.records))
            except BaseException as error:
                reason = f"sending was broken off by {type(error).__name__}"
                batch.outcomes.append((0, OutcomeUnknownError(reason)))
                raise
            finally:
                self._outbox.settle(batch)
            if self._limits.linger_s:
                await self._linger()

    async def _linger(self) -> None:
        """Wait for company, until linger_ms after the growing batch's first record, or until it is ended."""
        batch = self._growing
        if batch is None:
            return
        try:
            async with asyncio.timeout(batch.began + self._limits.linger_s - time.monotonic()):
                while not self._ready:
                    self.nudged.clear()
                    await self.nudged.wait()
        except TimeoutError:
            pass

    async def _deliver(self, batch: Batch, start: int, stop: int) -> None:
        """Find out what becomes of the batch's records from `start` up to `stop`."""
        outcome: int | Exception
        try:
            outcome = await self._stored(batch, start, stop)
        except OF_ONE_RECORD as error:
            if stop - start > 1 and not batch.whole:
                middle = (start + stop) // 2
                await self._deliver(batch, start, middle)
                await self._deliver(batch, middle, stop)
                return
            outcome = error
        except TakhinError as error:
            if isinstance(error, ANOTHER_TOPIC):
                self._outbox.doubt(self.topic)
            outcome = error
        batch.outcomes.append((start, outcome))

    async def _stored(self, batch: Batch, start: int, stop: int) -> int:
        """The first record's offset. Sequence numbers are used up by that, and by nothing else."""
        records = batch.records if stop - start == len(batch.records) else batch.records[start:stop]
        try:
            offset = await self._attempts(batch, records)
        except RefusedError:
            raise
        except BaseException:
            self._begin_anew()  # a number is never used for other records than it may have been used for
            raise
        self._sequence += stop - start
        return offset

    async def _attempts(self, batch: Batch, records: list[bytes]) -> int:
        """As many as it takes and the batch's deadline allows."""
        connection = self._outbox.connection
        maybe_stored = False
        for failures in count(1):
            try:
                return await self._attempt(batch, records)
            except OutOfSequenceError as error:
                # The log does not know us as far as we had come: it forgot us, or it is another log.
                self._outbox.doubt(self.topic)
                if maybe_stored:
                    raise OutcomeUnknownError(
                        "an attempt went unanswered, and the broker has since forgotten this producer: "
                        "the records may have been stored"
                    ) from error
                if self._sequence == 0:
                    raise
                self._begin_anew()
            except UnavailableError as error:
                maybe_stored = maybe_stored or isinstance(error, MAYBE_STORED)
                if await connection.pause(failures, error, batch.deadline):
                    continue
                if maybe_stored:
                    raise OutcomeUnknownError(
                        f"not acknowledged in time; whether the records were stored is unknown ({error})"
                    ) from error
                raise
        raise AssertionError  # count has no end

    async def _attempt(self, batch: Batch, records: list[bytes]) -> int:
        request = requests.produce(
            self.topic,
            self.partition,
            records,
            producer_id=self._producer_id,
            sequence=self._sequence,
            expected_offset=batch.expected_offset,
        )
        async with self._outbox.slots:
            connection = self._outbox.connection
            response = await connection.attempt(connection.produce, request, batch.deadline)
        return int(response.offset)

    def _begin_anew(self) -> None:
        """Go on as another producer, whose first record comes next."""
        self._producer_id = os.urandom(PRODUCER_ID_BYTES) if self._limits.idempotent else b""
        self._sequence = 0
