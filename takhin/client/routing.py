"""A topic as a producer sees it: which lane a record goes to, and what can be refused before it waits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import count

from takhin import limits
from takhin.client.batches import Batch, Delivery
from takhin.client.lanes import Lane, Outbox
from takhin.client.model import Headers, NewRecord, ms_of
from takhin.errors import InvalidBatchError, InvalidRecordError, RecordTooLargeError, UnknownPartitionError
from takhin.model import Header
from takhin.partitioner import partition_for_key
from takhin.sizes import size_bytes
from takhin.topic_configs import MAX_MESSAGE_BYTES
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import requests

OPTIONAL_BYTES = (bytes, type(None))


class Topic:
    """One topic's lanes, one for each partition."""

    def __init__(self, info: pb.TopicInfo, outbox: Outbox) -> None:
        self.name = info.name
        self.topic_id = info.topic_id
        self._lock = outbox.lock
        self._max_message_bytes = int(info.configs.get(MAX_MESSAGE_BYTES, limits.INT64_MAX))
        self._lanes = [Lane(outbox, info.name, partition) for partition in range(info.num_partitions)]
        self._turn = count(1)
        self._sticky = self._lanes[0]
        self._sticky_taken: Batch | None = None

    def put(
        self,
        value: bytes | None,
        key: bytes | None,
        headers: Headers,
        timestamp: datetime | int | None,
        partition: int | None,
    ) -> Delivery:
        """Put a record in. On any thread. Raises what is wrong with it."""
        record = self.encoded(value, key, headers, timestamp)
        with self._lock:
            return self.lane(key, partition).put(record)

    def put_whole(
        self, records: Sequence[NewRecord | bytes], partition: int, expected_offset: int | None
    ) -> Batch:
        """Put in a batch of these records alone. On any thread. Raises what is wrong with any of them."""
        if not records:
            raise InvalidBatchError("a batch has at least one record")
        encoded = [
            self.encoded(*(NewRecord(record) if isinstance(record, bytes) else record)) for record in records
        ]
        with self._lock:
            return self.lane(None, partition).put_whole(encoded, expected_offset)

    def lane(self, key: bytes | None, partition: int | None) -> Lane:
        """Where a record goes."""
        lanes = self._lanes
        if partition is not None:
            if not 0 <= partition < len(lanes):
                raise UnknownPartitionError(self.name, partition, len(lanes))
            return lanes[partition]
        if len(lanes) == 1:
            return lanes[0]
        if key is not None:
            return lanes[partition_for_key(key, len(lanes))]
        # In turn, but the same one until its batch is taken, so that records without a key make batches too.
        if self._sticky.taken is not self._sticky_taken:
            self._sticky = lanes[next(self._turn) % len(lanes)]
            self._sticky_taken = self._sticky.taken
        return self._sticky

    def encoded(
        self, value: bytes | None, key: bytes | None, headers: Headers, timestamp: datetime | int | None
    ) -> bytes:
        """The record as bytes of a request. Raises InvalidRecordError, RecordTooLargeError."""
        if not isinstance(value, OPTIONAL_BYTES) or not isinstance(key, OPTIONAL_BYTES):
            raise InvalidRecordError(
                "a record's value and key are bytes or None, "
                f"not {type(value).__name__} and {type(key).__name__}"
            )
        if headers:
            _check_headers(headers)
        record = requests.record(key, value, headers, 0 if timestamp is None else ms_of(timestamp))
        if headers or len(record) > self._max_message_bytes:  # without headers, it counts less than it weighs
            size = size_bytes([key], [value], [[Header(*header) for header in headers]])
            if size > self._max_message_bytes:
                raise RecordTooLargeError(
                    f"the record has {size} bytes; the {MAX_MESSAGE_BYTES} of topic {self.name!r} is "
                    f"{self._max_message_bytes}",
                    size_bytes=size,
                    max_message_bytes=self._max_message_bytes,
                )
        return record


def _check_headers(headers: Headers) -> None:
    for number, header in enumerate(headers):
        match header:
            case (str() as key, bytes()) if key and _encodable(key):
                pass
            case _:
                raise InvalidRecordError(
                    f"header {number} must be a pair of a key, UTF-8 and not empty, and a value, bytes; "
                    f"it is {header!a}"
                )


def _encodable(text: str) -> bool:
    """Whether UTF-8 has it: a lone surrogate it has not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
