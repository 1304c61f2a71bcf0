"""Topics and partitions as they are described to clients, all immutable. Knows neither SQL nor the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from takhin.model import TopicConfig


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """A partition as described to clients. The log is the half-open range [start, end).

    size_bytes: the space it takes; -1 where that cannot be told.
    first_timestamp, last_timestamp: of the first and the last record (ms), or NO_TIMESTAMP.
    unavailable_reason: why it is not served, as a sentence; both ends are then only what is known of the log.
    """

    partition: int
    start_offset: int
    end_offset: int
    incarnation_id: str
    size_bytes: int
    first_timestamp: int
    last_timestamp: int
    record_count: int
    unavailable_reason: str = ""


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as described to clients. partitions: all, or none where only their number is asked for.

    config: None where nobody knows it, because partition 0 is not served.
    """

    name: str
    topic_id: str
    config: TopicConfig | None
    num_partitions: int
    partitions: Sequence[PartitionInfo]
