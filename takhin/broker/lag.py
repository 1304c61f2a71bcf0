"""How far a group is behind: how many records it has yet to read, and how old the first of them is.

Whoever watches asks every second. So the timestamp of that record is kept for as long as the group stays
where it is, and a file is read once for each move at most. A group that moves has just committed, so the file
is open; for groups that stay, closed files are opened once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from takhin.clock import Clock
from takhin.errors import TakhinError
from takhin.model import NO_TIMESTAMP, CommittedOffset, TopicPartition
from takhin.settings import GroupSettings
from takhin.storage.contract import Engine, PartitionLog
from takhin.turns import in_turns

AT_ONCE = 100
"""Partitions that are looked at in one turn of the loop. Each may be read, in 20 µs."""
WAIT_SECONDS_MAX = 1.0
"""How long a question waits for files to be opened, all together."""
UNKNOWN = -1
"""Stands for an age that cannot be told."""


class Seen(NamedTuple):
    """The first record that a group has not committed, as it was found.

    incarnation_id, position, removed: of the log, where it was looked for, and how many of the log's offsets
    have no record. As long as they stay, the record does.
    """

    incarnation_id: str
    position: int
    removed: int
    timestamp: int


class Ages:
    """Knows the age of the oldest record that a group has not committed."""

    def __init__(self, engine: Engine, settings: GroupSettings, clock: Clock) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._seen: dict[tuple[str, TopicPartition], Seen] = {}  # those longest not asked for first

    async def of(
        self, group_id: str, committed: Mapping[TopicPartition, CommittedOffset]
    ) -> dict[TopicPartition, int]:
        """The age in ms in each partition; 0: there is no such record, UNKNOWN: it cannot be told."""
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS_MAX
        ages = dict.fromkeys(committed, 0)
        async for at, of in in_turns(committed.items(), at_once=AT_ONCE):
            log = self._log(at)
            if log is None or log.end_offset <= (position := max(of.offset, log.start_offset)):
                continue
            timestamp = await self._timestamp((group_id, at), log, position, deadline)
            if timestamp is None:
                ages[at] = UNKNOWN
            elif timestamp != NO_TIMESTAMP:
                ages[at] = max(0, self._clock() - timestamp)
        return ages

    def _log(self, at: TopicPartition) -> PartitionLog | None:
        topic = self._engine.topics.get(at.topic)  # it may be in the course of its deletion
        return topic.partitions[at.partition] if topic and at.partition < len(topic.partitions) else None

    async def _timestamp(
        self, key: tuple[str, TopicPartition], log: PartitionLog, position: int, deadline: float
    ) -> int | None:
        """The timestamp of the first record at or after an offset of the log; None if it cannot be told."""
        removed = log.end_offset - log.start_offset - log.record_count
        now = (log.incarnation_id, position, removed)
        seen = self._seen.pop(key, None)
        if seen is None or seen[:3] != now:
            timestamp = await _read(log, position, deadline)
            if timestamp is None:
                return None
            seen = Seen(*now, timestamp)
        self._seen[key] = seen
        if len(self._seen) > self._settings.ages_max:
            del self._seen[next(iter(self._seen))]
        return seen.timestamp


def lag(log: PartitionLog, committed: CommittedOffset) -> int:
    """How many records the group has yet to read, at most."""
    return min(log.end_offset - max(committed.offset, log.start_offset), log.record_count)


async def _read(log: PartitionLog, position: int, deadline: float) -> int | None:
    known = NO_TIMESTAMP
    if position == log.start_offset:
        known = log.first_timestamp
    elif position == log.end_offset - 1:
        known = log.last_timestamp
    if known != NO_TIMESTAMP:
        return known
    try:
        async with asyncio.timeout_at(deadline):
            return await log.timestamp_from(position)
    except (TimeoutError, TakhinError):  # the partition's own trouble says why
        return None
