"""How far a group is behind: how many records it has yet to read, and how old the first of them is.

Whoever watches asks every second, so it is answered from memory: the engine knows when the next record of
each group was stamped. Only where records were removed since, a file is read, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from takhin.clock import Clock
from takhin.errors import TakhinError
from takhin.model import NO_TIMESTAMP, CommittedOffset, TopicPartition
from takhin.storage.contract import Engine, PartitionLog
from takhin.turns import in_turns

AT_ONCE = 200
"""Partitions that are looked at in one turn of the loop. Each may be read, in 20 µs."""
WAIT_SECONDS_MAX = 1.0
"""How long a question waits for files to be opened, all together."""
UNKNOWN = -1
"""Stands for an age that cannot be told."""


class Ages:
    """Knows the age of the oldest record that a group has not committed."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def of(
        self, committed: Mapping[TopicPartition, CommittedOffset], deadline: float | None = None
    ) -> dict[TopicPartition, int]:
        """The age in ms in each partition; 0: there is no such record, UNKNOWN: it cannot be told.

        deadline: how long it may take to open files, in the loop's time; None: WAIT_SECONDS_MAX.
        """
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + WAIT_SECONDS_MAX
        now = self._clock()
        ages = dict.fromkeys(committed, 0)
        async for at, of in in_turns(committed.items(), at_once=AT_ONCE):
            topic = self._engine.topics.get(at.topic)  # it may be in the course of its deletion
            if topic is None or at.partition >= len(topic.partitions):
                continue
            log = topic.partitions[at.partition]
            if (timestamp := log.known_timestamp(max(of.offset, log.start_offset))) is None:
                timestamp = await _read(log, of.offset, deadline)
            if timestamp is None:
                ages[at] = UNKNOWN
            elif timestamp != NO_TIMESTAMP:
                ages[at] = max(0, now - timestamp)
        return ages


def lag(log: PartitionLog, committed: CommittedOffset | None) -> int:
    """How many records the group has yet to read, at most. A group that has committed nothing: all."""
    first = log.start_offset if committed is None else max(committed.offset, log.start_offset)
    return min(log.end_offset - first, log.record_count)


async def _read(log: PartitionLog, offset: int, deadline: float) -> int | None:
    try:
        async with asyncio.timeout_at(deadline):
            return await log.timestamp_from(offset)
    except (TimeoutError, TakhinError):  # the partition's own trouble says why
        return None
