"""One partition's batches, in order, before they are sent. The last one grows while it waits.

Knows neither requests nor tasks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from takhin.client.producing import per_record
from takhin.client.producing.batches import PendingBatch
from takhin.client.producing.buffer import Buffer
from takhin.client.producing.options import SendOptions
from takhin.client.producing.per_record import WAITING_RECORD_BYTES
from takhin.model import Source, TopicPartition
from takhin.settings import INT32_MAX


class PartitionQueue(per_record.Queue):
    """The batches of one partition that wait for their turn.

    wake: called, on any thread, when the task that takes batches out has something new to look at.
    taken: the batch that was taken last.
    """

    _growing: PendingBatch | None
    _buffer: Buffer

    def __init__(
        self, at: TopicPartition, options: SendOptions, buffer: Buffer, wake: Callable[[], None]
    ) -> None:
        self.at = at
        self.taken: PendingBatch | None = None
        self._batch_bytes_max = options.batch_bytes_max
        self._batch_records_max = min(options.batch_records_max, INT32_MAX)
        self._delivery_s_max = options.delivery_s_max
        self._linger_s = options.linger_s
        self._buffer = buffer
        self._wake = wake
        self._growing = None
        self._ready: deque[PendingBatch] = deque()
        self._awake = False

    # Putting in, as `put` does: on any thread, with the buffer's lock held, or without on the loop, if nobody
    # else puts in.

    def _begin_growing(self, entry_type: type[per_record.Entry]) -> PendingBatch:
        self._end_growing()
        self._growing = PendingBatch(self.at, self._delivery_s_max, entry_type)
        return self._growing

    def put_whole(
        self, records: list[bytes], expected_offset: int | None, source: Source | None
    ) -> PendingBatch:
        """Add a batch of exactly these records, after all that was put in before."""
        self._end_growing()
        batch = PendingBatch(self.at, self._delivery_s_max, per_record.Entry)
        batch.records = records
        batch.size_bytes = sum(map(len, records)) + WAITING_RECORD_BYTES * len(records)
        batch.whole = True
        batch.expected_offset = expected_offset
        batch.source = source
        self._ready.append(batch)
        self._buffer.bytes += batch.size_bytes
        self._awake = True
        self._wake()
        return batch

    def _end_growing(self) -> None:
        if self._growing is not None:
            self._ready.append(self._growing)
            self._growing = None
            if self._linger_s:
                self._wake()

    # Taking out: on the loop.

    @property
    def has_ready(self) -> bool:
        """True if a batch waits that grows no more."""
        return bool(self._ready)

    @property
    def lingers_until(self) -> float | None:
        """When the growing batch, if there is one, has waited for linger_ms; of clock.monotonic()."""
        batch = self._growing
        return None if batch is None else batch.began + self._linger_s

    def take(self) -> PendingBatch | None:
        """The next batch to send, which grows no more. After None, the next record calls `wake`."""
        with self._buffer.lock:
            if not self._ready:
                self._end_growing()
            self._awake = bool(self._ready)
            if not self._awake:
                return None
            self.taken = self._ready.popleft()
            return self.taken

    @property
    def is_empty(self) -> bool:
        """True if nothing waits to be taken."""
        return self._growing is None and not self._ready

    def end(self) -> PendingBatch | None:
        """End the growing batch. When the returned one is settled, so is all that was put in so far."""
        with self._buffer.lock:
            self._end_growing()
            return self._ready[-1] if self._ready else self.taken
