"""Consumer groups as they are described to clients: values, all immutable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from takhin.model import CommittedOffset, GroupState, TopicPartition


class GroupLag(NamedTuple):
    """A committed offset beside the end of its log.

    lag: how many records the group has yet to read, at most. Those that were trimmed do not count, nor those
    that compaction has removed, as far as one knows where they were.
    member_id: the member that owns the partition now; empty: none does.
    lag_ms: age of the oldest record that is not committed; 0: there is none; -1: it cannot be told.
    """

    topic: str
    partition: int
    committed: CommittedOffset
    end_offset: int
    lag: int
    member_id: str = ""
    lag_ms: int = 0


class ListedGroup(NamedTuple):
    """A consumer group in a list of groups. lag: GroupLag.lag of all partitions together."""

    group_id: str
    state: GroupState
    member_count: int = 0
    lag: int = 0


@dataclass(frozen=True, slots=True)
class DescribedMember:
    """A member of a consumer group as described to clients.

    state: Stable; Revoking: it has partitions to let go of; Waiting: others have some for it.
    topics: that it subscribes to and that exist, in order, the first 20 of them.
    assigned: what it may hold, sorted, each with what the group has committed there (None: nothing).
    joined_at, last_commit_at: ms since 1970; 0: it has committed nothing since it joined.
    """

    member_id: str
    instance_id: str
    client_id: str
    client_host: str
    epoch: int
    state: str
    topics: Sequence[str]
    assigned: Sequence[tuple[TopicPartition, CommittedOffset | None]]
    joined_at: int
    last_commit_at: int


@dataclass(frozen=True, slots=True)
class DescribedGroup:
    """A consumer group as described to clients: its state, and its committed offsets by partition, sorted.

    epoch, assignor: 0 and empty while it has no members.
    """

    group_id: str
    state: GroupState
    offsets: Sequence[GroupLag]
    members: Sequence[DescribedMember] = ()
    epoch: int = 0
    assignor: str = ""
