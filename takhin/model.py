"""The values that Takhin's parts hand to each other, all immutable. Knows neither SQL nor the wire.

A batch travels as columns and a read as rows, because that is how they come from protobuf and go to
SQLite (and back) without a Python object for every record: at half a million records a second, one
object each is the difference between fast and slow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from takhin.sizes import HEADER_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES, response_bytes

if TYPE_CHECKING:
    from takhin.packed import Encoded, Packed

INT64_MAX = (1 << 63) - 1
NO_TIMESTAMP = -1
"""Stands for the timestamp of a record that is not there."""
EARLIEST = -1
LATEST = -2
CHOOSE_PARTITION = -1


class Header(NamedTuple):
    """A record header. Keys may repeat; order is kept; the value is bytes of any kind."""

    key: str
    value: bytes


Row = tuple[int, int, bytes | None, bytes | None]
"""A stored record: (offset, timestamp in ms, key, value). None and b"" differ."""


class Source(NamedTuple):
    """The input record that a batch was made of, by a program that consumes as a group.

    incarnation_id: of the log that the record is from; empty in a request: of the one that has the name now.
    """

    group_id: str
    topic: str
    partition: int
    offset: int
    incarnation_id: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for a batch to be appended. It is judged when the batch gets its offsets.

    producer_id: 16 bytes, or none. A batch that this producer has sent before is not stored again.
    sequence: the number of the batch's first record among all that this producer sent to the partition. The
    first is 0, and no number is left out.
    expected_offset: where the log must end; None: anywhere.
    maybe_stored_from: an earlier attempt of the batch may have been stored, at this offset or after it; None:
    there was none.
    source: what the batch was made of. It is not stored if one made of that record, or of a later one of the
    same log, was stored for the same group. None: it does not say.
    """

    producer_id: bytes = b""
    sequence: int = 0
    expected_offset: int | None = None
    maybe_stored_from: int | None = None
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one request for one partition, as columns of equal length (at least one record).

    keys, values: None and b"" differ.
    timestamps: ms since 1970. The broker has put its clock in place of zeros.
    headers: by position in the batch; records without headers have no entry.
    size_bytes: at least the bytes of all keys, values and headers.
    condition: None: the batch is appended in any case.
    packed: the same records as they came, for the native library; the columns are then made when they are
    asked for. None: there is nothing but the columns.
    """

    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    timestamps: Sequence[int]
    headers: Mapping[int, Sequence[Header]]
    size_bytes: int
    condition: Condition | None = None
    packed: Packed | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def header_count(self) -> int:
        """The headers of all records together."""
        if self.packed is not None:
            return self.packed.facts.headers
        return sum(map(len, self.headers.values())) if self.headers else 0

    @property
    def first_timestamp(self) -> int:
        return self.timestamps[0] if self.packed is None else self.packed.first_timestamp

    @property
    def last_timestamp(self) -> int:
        return self.timestamps[-1] if self.packed is None else self.packed.last_timestamp

    @property
    def lowest_timestamp(self) -> int:
        return min(self.timestamps) if self.packed is None else self.packed.lowest_timestamp

    @property
    def highest_timestamp(self) -> int:
        return max(self.timestamps) if self.packed is None else self.packed.highest_timestamp

    @property
    def has_keyless(self) -> bool:
        """True if a record has no key."""
        return None in self.keys if self.packed is None else self.packed.facts.keyless > 0

    @property
    def queued_bytes(self) -> int:
        """The bytes that the batch counts for in a queue: an empty record or header takes memory too."""
        overhead = RECORD_OVERHEAD_BYTES * len(self.values) + HEADER_OVERHEAD_BYTES * self.header_count
        return self.size_bytes + overhead


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Records:
    """What a read returns: rows in offset order, and the headers of those that have any.

    Compared by identity: rpc uses that to encode a read once for all consumers that share it.
    headers: by offset.
    next_offset: where to go on. The log may have gaps, so it cannot be computed from the rows.
    encoded: the same records as a response has them, made by the native library; rows and headers are then
    made when they are asked for. None: there is nothing but them.
    """

    rows: Sequence[Row]
    headers: Mapping[int, Sequence[Header]]
    next_offset: int
    encoded: Encoded | None = None

    @property
    def first_offset(self) -> int:
        """The offset of the first record. There must be one."""
        return self.rows[0][0] if self.encoded is None else self.encoded.first_offset

    @property
    def size_bytes(self) -> int:
        """What they take in a response, rounded up."""
        if self.encoded is not None:
            return self.encoded.size_bytes
        return response_bytes(self.rows, self.headers)


class PartitionState(StrEnum):
    """What an engine does with a partition's log now."""

    CLOSED = "closed"
    """Its file is closed, and opened again when it is used."""
    OPEN = "open"
    FAILED = "failed"
    """It is not served, or takes no writes: its disk or its file has failed. It is tried again later."""
    RECOVERING = "recovering"
    """It is being tried again."""


class Appended(NamedTuple):
    """Where a batch landed.

    offset: the first record's offset; -1 if the batch is only queued (required_acks=0).
    timestamp: the first record's timestamp, ms.
    duplicate: the batch had been stored before; offset and timestamp are those of the first time, or -1 where
    the log knows only that its source was taken.
    """

    partition: int
    offset: int
    timestamp: int
    record_count: int
    duplicate: bool = False


class CommittedOffset(NamedTuple):
    """A group's position in a partition: `offset` is the next one to read."""

    offset: int
    metadata: str
    committed_at: int  # ms since 1970


class TopicPartition(NamedTuple):
    """A partition by name."""

    topic: str
    partition: int


class OffsetAtTime(NamedTuple):
    """The first record of a log at or after a time; without one, the log's end and -1 as timestamp (ms)."""

    offset: int
    timestamp: int


class OffsetCommit(NamedTuple):
    """What a group commits in one partition: the next offset to read.

    incarnation_id: of the log that was read, which must still be there; empty: any.
    """

    at: TopicPartition
    offset: int
    metadata: str = ""
    incarnation_id: str = ""


class GroupState(StrEnum):
    """The states of a consumer group, named as in Kafka."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


class TimestampType(StrEnum):
    """Whose clock stamps records. The values are those of Kafka's message.timestamp.type."""

    CREATE_TIME = "CreateTime"
    LOG_APPEND_TIME = "LogAppendTime"


class CleanupPolicy(StrEnum):
    """What is removed from a log over time. The values are those of Kafka's cleanup.policy."""

    DELETE = "delete"
    COMPACT = "compact"


NO_LIMIT = -1
"""How a number says that there is no limit, as in Kafka."""


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """The configs of a topic as the code reads them: the values in force.

    Each field but the last has a row in `takhin.topic_configs`, whose doc says what it means.
    retention_ms, retention_bytes, retention_records: NO_LIMIT where there is none.
    inherited: the fields that the topic leaves to the broker's settings. They are not stored with it.
    """

    max_message_bytes: int
    timestamp_type: TimestampType = TimestampType.CREATE_TIME
    timestamp_before_max_ms: int = INT64_MAX
    timestamp_after_max_ms: int = INT64_MAX
    read_only: bool = False
    cleanup_policy: tuple[CleanupPolicy, ...] = (CleanupPolicy.DELETE,)
    retention_ms: int = NO_LIMIT
    retention_bytes: int = NO_LIMIT
    retention_records: int = NO_LIMIT
    retention_consumed: bool = False
    delete_retention_ms: int = 86_400_000
    min_compaction_lag_ms: int = 0
    max_compaction_lag_ms: int = INT64_MAX
    min_cleanable_dirty_ratio: float = 0.5
    inherited: frozenset[str] = frozenset()

    @property
    def deletes(self) -> bool:
        """True if what is past the retention limits is deleted."""
        return CleanupPolicy.DELETE in self.cleanup_policy

    @property
    def compacts(self) -> bool:
        """True if of each key only the last record is kept."""
        return CleanupPolicy.COMPACT in self.cleanup_policy


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic that is to be created, after the checks of `limits.py` and `topic_configs.py`."""

    name: str
    num_partitions: int
    config: TopicConfig


ANONYMOUS = "anonymous"
"""The principal of callers that have not said who they are."""


class Caller(NamedTuple):
    """Who makes a call, and from where.

    principal: "anonymous" for one who has not proved who it is.
    address: HOST:PORT of the other end of the connection.
    proof: the id of the token by which it is the principal, or one of the words below.
    """

    principal: str
    address: str
    proof: str = ""


NO_PROOF = ""
CERTIFICATE = "certificate"
OWN_SOCKET = "own unix socket"
"""A socket file that the broker's user alone may use, who may change the tokens and rules anyway."""
SHARED_SOCKET = "unix socket"
"""A socket file that others may use, too. A token's id is none of these words: it is hexadecimal."""


class ProduceRequest(NamedTuple):
    """A produce call.

    partition: CHOOSE_PARTITION leaves the choice to the broker.
    required_acks: None, 1 and -1: the answer comes when the batch is durable. 0: when it is queued.
    timeout_ms: how long to wait for durability; 0: no bound but the call's own.
    topic_id: of the topic that the batch is meant for; empty: any.
    """

    topic: str
    partition: int
    batch: Batch
    required_acks: int | None = None
    timeout_ms: int = 0
    topic_id: str = ""


@dataclass(frozen=True, slots=True)
class ConsumeRequest:
    """A consume call.

    offset: an offset, EARLIEST or LATEST; not used when start_timestamp is set.
    start_timestamp: start at the first record at or after this time (ms).
    max_bytes: the size of a response; 0 means the broker's default.
    min_bytes: the size that a response waits for.
    max_wait_ms: how long to wait for min_bytes.
    stop_at_end: end at the end offset as of the start of the call.
    stop_offset: end before this offset.
    max_records: end after as many records; 0 means no bound.
    incarnation_id: of the log that is to be read; empty: any.
    response_records: how many records a response may have; 0: as many as the settings allow.
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
    incarnation_id: str = ""
    response_records: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """One response of a consume call. One without rows says that the stream is idle and alive.

    throttled_ms: for so long the stream was held back by a quota since its last response.
    """

    records: Records
    end_offset: int
    throttled_ms: int = 0


class BrokerHealth(NamedTuple):
    """The state of the broker.

    uptime_seconds: since the broker was put together.
    troubles: a sentence for each thing that is wrong now, which the broker goes on without.
    """

    version: str
    uptime_seconds: int
    troubles: Sequence[str]

    @property
    def status(self) -> str:
        return "degraded" if self.troubles else "healthy"
