"""Which partition a record goes to. Knows nothing of how records are sent."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count

from takhin.client.model import NewRecord, TopicOutline
from takhin.client.producing import per_record
from takhin.client.producing.batches import PendingBatch
from takhin.client.producing.buffer import Buffer
from takhin.client.producing.queue import PartitionQueue
from takhin.client.producing.records import RecordEncoder
from takhin.errors import InvalidBatchError, UnknownPartitionError
from takhin.model import Source
from takhin.partitioner import partition_for_key


class Router(per_record.Router):
    """Puts the records of one topic into the queues of its partitions. All methods may run on any thread.

    outline: of the topic that the queues belong to; a topic created again under the name has another id.
    queues: one for each partition, in order.
    encode: makes the bytes of a record. Raises what is wrong with it.
    """

    _queues: tuple[PartitionQueue, ...]

    def __init__(
        self, outline: TopicOutline, queues: Sequence[PartitionQueue], encoder: RecordEncoder, buffer: Buffer
    ) -> None:
        self.outline = outline
        self._queues = tuple(queues)
        self._encode_by(encoder)
        self.lock = buffer.lock
        first = random.randrange(len(queues))  # noqa: S311  else the first records of all producers meet
        self._turn = count(first + 1)
        self._sticky = queues[first]
        self._sticky_taken: PendingBatch | None = None

    def alter(self, outline: TopicOutline, more: Sequence[PartitionQueue], encoder: RecordEncoder) -> None:
        """Go on with what the topic is now. more: the queues of new partitions; the others stay."""
        with self.lock:
            self.outline = outline
            self._queues = (*self._queues, *more)
            self._encode_by(encoder)

    def _encode_by(self, encoder: RecordEncoder) -> None:
        self.encode = encoder.encode
        self._plain_bytes_max = encoder.plain_bytes_max

    def put_whole(
        self,
        records: Sequence[NewRecord | bytes],
        partition: int,
        expected_offset: int | None,
        source: Source | None,
    ) -> PendingBatch:
        """Add a batch of exactly these records to a queue. Raises what is wrong with any of them."""
        if not records:
            raise InvalidBatchError("a batch has at least one record")
        encoded = [
            self.encode(record) if isinstance(record, bytes) else self.encode(*record) for record in records
        ]
        with self.lock:
            return self.queue(None, partition).put_whole(encoded, expected_offset, source)

    def queue(self, key: bytes | None, partition: int | None) -> PartitionQueue:
        """The queue of the partition that is named, else the key's, else the one whose turn it is.

        Call it with the lock held, or on the loop, if all records of the producer come there. Raises
        UnknownPartitionError.
        """
        queues = self._queues
        if partition is not None:
            if not 0 <= partition < len(queues):
                raise UnknownPartitionError(queues[0].at.topic, partition, len(queues))
            return queues[partition]
        if len(queues) == 1:
            return queues[0]
        if key is not None:
            return queues[partition_for_key(key, len(queues))]
        # A turn lasts until the queue's batch is taken, so that records without a key make batches too.
        if self._sticky.taken is not self._sticky_taken:
            self._sticky = queues[next(self._turn) % len(queues)]
            self._sticky_taken = self._sticky.taken
        return self._sticky
