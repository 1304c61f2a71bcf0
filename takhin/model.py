"""The values Takhin speaks of, all immutable. Knows neither SQL nor the wire.

A batch travels as columns and a read as rows, because that is how they come from protobuf and go to
SQLite (and back) without a Python object for every record: at half a million records a second, one
object each is the difference between fast and slow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from takhin.sizes import RECORD_OVERHEAD_BYTES

EARLIEST = -1
LATEST = -2
CHOOSE_PARTITION = -1


class Header(NamedTuple):
    """A record header. Keys may repeat; order is kept; the value is bytes of any kind."""

    key: str
    value: bytes


Row = tuple[int, int, bytes | None, bytes | None]
"""A stored record: (offset, timestamp in ms, key, value). None and b"" differ."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for a batch to be appended; judged where it gets its offsets.

    producer_id: 16 bytes, or none. A batch that this producer has sent before is not stored again.
    sequence: number of the first record among those this producer sent to the partition, from 0, dense.
    expected_offset: where the log must end; None: anywhere.
    """

    producer_id: bytes = b""
    sequence: int = 0
    expected_offset: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one request for one partition, as columns of equal length (at least one record).

    keys, values: None and b"" differ.
    timestamps: ms since 1970. The broker has put its clock in place of zeros.
    headers: by position in the batch; records without headers have no entry.
    size_bytes: at least what keys, values and headers weigh together.
    condition: None: it is appended in any case.
    """

    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    timestamps: Sequence[int]
    headers: Mapping[int, Sequence[Header]]
    size_bytes: int
    condition: Condition | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def queued_bytes(self) -> int:
        """Bytes that the batch counts in the queue. Empty records count too, since they take memory."""
        return self.size_bytes + RECORD_OVERHEAD_BYTES * len(self.values)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Records:
    """What a read returns: rows in offset order, and the headers of those that have any.

    One read is no other: it can be told by identity that several consumers were given the same.
    headers: by offset.
    """

    rows: Sequence[Row]
    headers: Mapping[int, Sequence[Header]]


class Appended(NamedTuple):
    """Where a batch landed.

    offset: of its first record; -1 if it is only queued (required_acks=0).
    timestamp: of its first record, ms.
    duplicate: it had been stored before: offset and timestamp are those of then.
    """

    partition: int
    offset: int
    timestamp: int
    record_count: int
    duplicate: bool = False


class CommittedOffset(NamedTuple):
    """How far a group has come in a partition: `offset` is the next one to read."""

    offset: int
    metadata: str
    committed_at: int  # ms since 1970


class TopicPartition(NamedTuple):
    """A partition by name."""

    topic: str
    partition: int


class GroupOffset(NamedTuple):
    """A committed offset beside the end of its log; lag = end_offset - committed.offset."""

    topic: str
    partition: int
    committed: CommittedOffset
    end_offset: int


class GroupState(StrEnum):
    """The states of a consumer group, named as in Kafka."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group as described to people: its state and what it has committed, sorted."""

    group_id: str
    state: GroupState
    offsets: Sequence[GroupOffset]


class TimestampType(StrEnum):
    """Whose clock stamps records; the values of Kafka's message.timestamp.type."""

    CREATE_TIME = "CreateTime"
    LOG_APPEND_TIME = "LogAppendTime"


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """The configs of a topic as the code reads them. Each field has a row in `takhin.topic_configs`."""

    max_message_bytes: int
    timestamp_type: TimestampType = TimestampType.CREATE_TIME


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic that is to be created, after the checks of `limits.py` and `topic_configs.py`."""

    name: str
    num_partitions: int
    config: TopicConfig


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """A partition as described to clients. The log is the half-open range [start, end)."""

    partition: int
    start_offset: int
    end_offset: int
    incarnation_id: str


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as described to clients."""

    name: str
    topic_id: str
    config: TopicConfig
    partitions: Sequence[PartitionInfo]


@dataclass(frozen=True, slots=True)
class ConsumeRequest:
    """A consume call after its defaults are filled in.

    offset: an offset, EARLIEST or LATEST; not used when start_timestamp is set.
    start_timestamp: ms; start at the first record at or after it.
    max_bytes: of a response; 0 means the broker's default.
    min_bytes: what a response waits for.
    max_wait_ms: how long to wait for min_bytes.
    stop_at_end: end at the end offset as of the start of the call.
    stop_offset: end before this offset.
    max_records: end after as many; 0 means no bound.
    """

    topic: str
    partition: int
    offset: int = EARLIEST
    start_timestamp: int | None = None
    max_bytes: int = 0
    min_bytes: int = 0
    max_wait_ms: int = 0
    stop_at_end: bool = False
    stop_offset: int | None = None
    max_records: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """One response of a consume call. Without rows it says: idle, and alive."""

    records: Records
    end_offset: int
