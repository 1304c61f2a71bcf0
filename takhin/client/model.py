"""The values of the client's interface, all immutable. Knows neither the wire nor asyncio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from takhin.errors import InvalidArgumentError, PartitionUnavailableError
from takhin.limits import check_range
from takhin.model import Header, TopicPartition

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

Headers = Sequence[tuple[str, bytes]]


class Record(NamedTuple):
    """A record that was read. None and b"" differ in key and value.

    timestamp: ms since 1970. headers: in the order they were given; keys may repeat.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]

    @property
    def time(self) -> datetime:
        """The timestamp in UTC."""
        return time_of(self.timestamp)


class NewRecord(NamedTuple):
    """A record to be stored; the fields are the arguments of `Producer.send`."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    timestamp: datetime | int | None = None


class RecordMetadata(NamedTuple):
    """Where a record was stored."""

    topic: str
    partition: int
    offset: int


class Appended(NamedTuple):
    """Where the records of one `append` were stored: at `offset` and the following ones."""

    topic: str
    partition: int
    offset: int
    record_count: int

    @property
    def duplicate(self) -> bool:
        """True if nothing was stored, because the source was taken before; `offset` is -1 then."""
        return self.offset < 0

    @property
    def end_offset(self) -> int:
        """The expected_offset of the next `append`, if nobody else writes; -1 for a duplicate."""
        return -1 if self.duplicate else self.offset + self.record_count


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a log: START, END or COMMITTED, plus or minus a number of offsets.

    END - 10 is where the last ten records begin, START + 10 the record after the first ten; where compaction
    has removed records there are fewer. If the log is shorter than that, a start is moved into it.

    records: how many offsets it is moved by, one for each record that was stored, also if it was removed.
    """

    name: str
    records: int = 0

    def __add__(self, records: int) -> Place:
        return Place(self.name, self.records + records)

    def __sub__(self, records: int) -> Place:
        return self + -records

    def __str__(self) -> str:
        return f"{self.name} {self.records:+}" if self.records else self.name


START = Place("START")
"""The first record there is."""
END = Place("END")
"""The end of the log at the time of the lookup."""
COMMITTED = Place("COMMITTED")
"""The offset that the consumer's group committed last; `Consumer(uncommitted=…)` if there is none."""

Position = Place | int | datetime
"""Where to begin: a place, an offset, or a time (aware), which means the first record at or after it."""


class Span(NamedTuple):
    """A part of a log: from `start` up to `stop`, exclusive. Without a stop it has no end.

    stop: any position. END is the end at the time of `assign`; END + 5 waits for five more records.
    """

    start: Position = START
    stop: Position | None = None


class PartitionDescription(NamedTuple):
    """A partition: its log is the half-open range [beginning_offset, end_offset).

    incarnation_id: changes when an older copy of the log is put back.
    size_bytes: the disk space that it takes; -1 where that is unknown.
    first_timestamp, last_timestamp: of the first and the last record, ms since 1970; -1 where there is none.
    record_count: how many records there are: fewer than the range is long where some were removed.
    unavailable_reason: why the broker does not serve the partition, as a sentence; empty if it does. If it
    does not, both ends are only what is known of the log, down to 0 and 0.
    """

    partition: int
    beginning_offset: int
    end_offset: int
    incarnation_id: str
    size_bytes: int = -1
    first_timestamp: int = -1
    last_timestamp: int = -1
    record_count: int = 0
    unavailable_reason: str = ""

    @property
    def served(self) -> bool:
        """False while the broker neither reads nor writes the partition."""
        return not self.unavailable_reason

    def check_served(self, topic: str) -> None:
        """Raise PartitionUnavailableError if no position in the partition is certain."""
        if not self.served:
            raise PartitionUnavailableError(self.unavailable_reason, topic=topic, partition=self.partition)

    def offset_of(self, place: Place, *, most: int) -> int:
        """The offset of START or END plus some offsets, moved to between beginning_offset and `most`."""
        near = self.beginning_offset if place.name == START.name else self.end_offset
        return min(max(near + place.records, self.beginning_offset), most)


class PartitionOffsets(NamedTuple):
    """Both ends of a log: the first offset, and the one after the last."""

    beginning_offset: int
    end_offset: int


class TopicDescription(NamedTuple):
    """A topic. topic_id: a new one for each creation.

    configs: every config with the value in force; none where partition 0, which has them, is not served.
    """

    name: str
    topic_id: str
    configs: Mapping[str, str]
    partitions: Sequence[PartitionDescription]

    @property
    def outline(self) -> TopicOutline:
        return TopicOutline(self.topic_id, self.configs, len(self.partitions))


class TopicConfigEntry(NamedTuple):
    """A config of a topic. origin: who says the value: "topic", "broker" (its settings) or "default"."""

    name: str
    value: str
    origin: str
    doc: str


class TopicOutline(NamedTuple):
    """A topic without what its partitions hold: as long as it is the same, so is where its records go."""

    topic_id: str
    configs: Mapping[str, str]
    num_partitions: int


class CommittedOffset(NamedTuple):
    """How far a group has read: `offset` is the next one to read."""

    offset: int
    metadata: str = ""


class GroupOffset(NamedTuple):
    """A committed offset beside the end of its log.

    lag: how many records the group has yet to read, at most: those that were trimmed do not count, nor those
    that compaction has removed, as far as the broker knows where they were.
    committed_at: ms since 1970.
    member_id: whose partition it is now; empty: nobody's.
    lag_ms: age of the oldest record that is not committed; 0: there is none; -1: the broker cannot tell.
    """

    topic: str
    partition: int
    committed_offset: int
    end_offset: int
    lag: int
    metadata: str
    committed_at: int
    member_id: str = ""
    lag_ms: int = 0


class GroupListing(NamedTuple):
    """A consumer group in a list. state: as in Kafka; "Empty" is a group without members.

    lag: that of all partitions together.
    """

    group_id: str
    state: str
    member_count: int
    lag: int = 0


class GroupMember(NamedTuple):
    """A member of a consumer group.

    client_host: HOST:PORT. joined_at, last_commit_at: ms since 1970; 0: it has committed nothing.
    state: "Stable"; "Revoking": it has partitions to let go of; "Waiting": others have some for it.
    topics: that it subscribes to and that exist, in order, the first 20 of them.
    """

    member_id: str
    client_id: str
    client_host: str
    instance_id: str
    member_epoch: int
    state: str
    topics: Sequence[str]
    partitions: Sequence[TopicPartition]
    joined_at: int
    last_commit_at: int


class GroupDescription(NamedTuple):
    """A consumer group, what it has committed, and who shares its work.

    epoch: rises with each change of members or of what they subscribe to. assignor: empty without members.
    """

    group_id: str
    state: str
    offsets: Sequence[GroupOffset]
    epoch: int = 0
    assignor: str = ""
    members: Sequence[GroupMember] = ()


class TokenInfo(NamedTuple):
    """What a broker keeps of a token, but its hash. token_id: is no secret.

    created_at, expires_at, last_used_at: ms since 1970; 0: never.
    """

    token_id: str
    principal: str
    created_at: int
    expires_at: int
    last_used_at: int
    note: str


class Health(NamedTuple):
    """The state of a broker. status: "healthy", or "degraded" for the given reasons, a sentence each."""

    status: str
    version: str
    uptime_seconds: int
    reasons: Sequence[str]


def time_of(timestamp: int) -> datetime:
    """ms since 1970 as a datetime in UTC. Raises OverflowError beyond the year 9999."""
    return EPOCH + timestamp * MILLISECOND


def ms_of(time: datetime | int, *, up: bool = False) -> int:
    """ms since 1970, as records carry it.

    up: round fractions of a millisecond up instead of down, for "at or after".
    Raises InvalidArgumentError for a datetime without a zone and for times before 1970.
    """
    if isinstance(time, datetime):
        if time.utcoffset() is None:
            raise InvalidArgumentError(f"the time {time} has no zone; give one, as in datetime.now(UTC)")
        since = time - EPOCH
        time = -(-since // MILLISECOND) if up else since // MILLISECOND
    if not isinstance(time, int):
        raise InvalidArgumentError(f"a time is a datetime or ms since 1970, not {time!r}")
    return check_range("timestamp", time, 0)
