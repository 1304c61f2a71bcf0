"""What is done for each record that is sent: parts of a buffer, a batch, its entries, a queue and a router.

Where there is the compiled part, the same classes come from there (native/client).
tests/client/test_compiled.py holds both against each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextvars import copy_context
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from takhin.client import compiled
from takhin.client.model import Headers, RecordMetadata
from takhin.model import TopicPartition
from takhin.partitioner import partition_for_key

WAITING_RECORD_BYTES = 64
"""Memory that a waiting record takes besides its bytes, so that empty records fill the buffer too.

(`RECORD_OVERHEAD_BYTES` of takhin.sizes is another thing: what a record takes in a response.)
"""

_new_tuple = tuple.__new__
"""Makes a NamedTuple in half the time that its own __new__ takes."""


class PythonCounted:
    """A number of bytes."""

    bytes: int


class PythonBatch:
    """A batch as its records know it.

    callbacks: one, a record's position, the next one, …: no object for each pair.
    first_offset: once it is settled, if all records were stored together.
    """

    __slots__ = ("at", "callbacks", "done", "first_offset", "records", "size_bytes")

    at: TopicPartition
    records: list[bytes]
    size_bytes: int
    callbacks: list[Any]
    first_offset: int | None
    done: bool

    def call_each(self, entry_type: type[PythonEntry], callbacks: Iterator[Any]) -> None:
        """Call each callback, in a context of its own, with the entry of the position that follows it."""
        for callback, position in zip(callbacks, callbacks, strict=True):
            entry = entry_type()
            entry._batch, entry._position = self, position  # noqa: SLF001  see PythonEntry
            copy_context().run(callback, entry)

    def metadata(self, position: int) -> RecordMetadata:
        """Where the record at `position` was stored; raises why it was not. Call when it is settled."""
        if self.first_offset is None:
            return self.outcome(position)
        topic, partition = self.at
        return _new_tuple(RecordMetadata, (topic, partition, self.first_offset + position))

    def outcome(self, position: int) -> RecordMetadata:
        """The same for a batch that was not stored together."""
        raise NotImplementedError

    def call_back_soon(self) -> None:
        """Have the loop call the callbacks."""
        raise NotImplementedError


class PythonEntry:
    """A record's place in a batch, which a queue gives it: what the deliveries of both faces are.

    Made without an __init__, which would take as long as all else that is done to make one. Two of the same
    record are equal.
    """

    __slots__ = ("_batch", "_position")

    may_end_loop: ClassVar[bool] = True
    """Whether SystemExit and KeyboardInterrupt of a callback end the loop that calls it, as in asyncio."""

    _batch: PythonBatch
    _position: int

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PythonEntry):
            return NotImplemented
        return self._batch is other._batch and self._position == other._position

    def __hash__(self) -> int:
        return hash((self._batch, self._position))


class PythonOutcome(PythonEntry):
    """An entry that tells of its outcome on the producer's loop."""

    __slots__ = ()

    def result(self) -> RecordMetadata:
        """Where the record was stored; raises why it was not. Raises InvalidStateError before it is done."""
        if not self._batch.done:
            raise asyncio.InvalidStateError("the record has no outcome yet")
        return self._batch.metadata(self._position)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Have the loop call `callback(delivery)` soon after it is done; `result` says how it ended.

        What the callback gets is equal to this delivery, and may be another object.
        """
        batch = self._batch
        batch.callbacks.extend((callback, self._position))  # before the look, so that `settle` cannot miss it
        if batch.done:
            batch.call_back_soon()


E = TypeVar("E", bound=PythonEntry)


class PythonQueue:
    """A queue as records are put into it."""

    _growing: PythonBatch | None
    _buffer: PythonCounted
    _batch_bytes_max: int
    _batch_records_max: int
    _awake: bool
    _wake: Callable[[], None]

    def put(self, record: bytes, entry_type: type[E]) -> E:
        """Add an encoded record to the growing batch. Returns the entry that stands for it."""
        size = len(record) + WAITING_RECORD_BYTES
        batch = self._growing
        if batch is None or batch.size_bytes + size > self._batch_bytes_max:
            batch = self._begin_growing(entry_type)
        records = batch.records
        position = len(records)
        entry = entry_type()
        entry._batch, entry._position = batch, position  # noqa: SLF001  see PythonEntry
        records.append(record)
        batch.size_bytes += size
        self._buffer.bytes += size
        if position + 1 >= self._batch_records_max:
            self._end_growing()
        if not self._awake:
            self._awake = True
            self._wake()
        return entry

    def _begin_growing(self, entry_type: type[PythonEntry]) -> PythonBatch:
        """Make the growing batch ready, and begin another one."""
        raise NotImplementedError

    def _end_growing(self) -> None:
        """Make the growing batch ready, and wake the task if it lingers over the batch."""
        raise NotImplementedError


class PythonRouter:
    """A router as it puts records into queues.

    _plain_bytes_max: a value and a key of so many bytes may be encoded without asking `encode`.
    """

    _queues: tuple[PythonQueue, ...]
    _plain_bytes_max: int
    encode: Callable[..., bytes]

    def put(  # noqa: PLR0917  as a call with names takes longer
        self,
        entry_type: type[E],
        value: bytes | None,
        key: bytes | None,
        headers: Headers,
        timestamp: datetime | int | None,
        partition: int | None,
    ) -> E:
        """Encode a record, and put it into the queue that `queue` says. Raises as both do."""
        record = self.encode(value, key, headers, timestamp)
        queues = self._queues
        if partition is None and len(queues) == 1:
            queue = queues[0]
        elif partition is None and key is not None:
            queue = queues[partition_for_key(key, len(queues))]
        else:
            queue = self.queue(key, partition)
        return queue.put(record, entry_type)

    def queue(self, key: bytes | None, partition: int | None) -> PythonQueue:
        """Which queue a record goes to."""
        raise NotImplementedError


if TYPE_CHECKING or compiled.module is None:
    Counted = PythonCounted
    Batch = PythonBatch
    Entry = PythonEntry
    Outcome = PythonOutcome
    Queue = PythonQueue
    Router = PythonRouter
else:
    Counted = compiled.module.Counted
    Batch = compiled.module.Batch
    Entry = compiled.module.Entry
    Outcome = compiled.module.Outcome
    Queue = compiled.module.Queue
    Router = compiled.module.Router
