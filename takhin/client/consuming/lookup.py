"""Finds out where to read: asks the broker for what the rules of positions.py need. Keeps nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import NoReturn

from takhin.client.calls import Calls
from takhin.client.consuming.positions import (
    ReadRange,
    check_span,
    check_uncommitted,
    is_committed,
    read_range,
    times_of,
    without_committed,
)
from takhin.client.model import CommittedOffset, PartitionDescription, Position, Span, TopicDescription
from takhin.client.retry import Retry, retried
from takhin.errors import InvalidArgumentError, UnknownPartitionError
from takhin.model import TopicPartition

LOOKUPS_AT_ONCE_MAX = 16
NO_GROUP = "topics and a pattern need a group_id; without one use assign_topics"
"""What a member without a group is told."""


class Lookup:
    """Turns spans into offsets.

    group_id: the group whose commits COMMITTED means. uncommitted: where to begin if it committed nothing.
    """

    def __init__(self, calls: Calls, retry: Retry, group_id: str | None, uncommitted: Position) -> None:
        self._calls = calls
        self._retry = retry
        self._group_id = group_id
        self._uncommitted = check_uncommitted(uncommitted)
        self._slots = asyncio.Semaphore(LOOKUPS_AT_ONCE_MAX)

    async def describe(self, topics: Iterable[str], deadline: float) -> list[TopicDescription]:
        """Descriptions of these topics. Raises UnknownTopicError."""
        return await asyncio.gather(
            *(retried(self._retry, deadline, self._calls.get_topic, topic) for topic in topics)
        )

    async def find(
        self, spans: Mapping[TopicPartition, Span], deadline: float
    ) -> dict[TopicPartition, ReadRange]:
        """Where to read each partition.

        Raises UnknownTopicError, UnknownPartitionError, InvalidArgumentError for a bad position, and
        PartitionUnavailableError at once for a partition that the broker does not serve: what the broker says
        of its ends is not certain.
        """
        for span in spans.values():
            check_span(span)
        partitions = await self._partitions(spans, deadline)
        for at, description in partitions.items():
            description.check_served(at.topic)
        committed = await self._committed(spans, deadline)
        spans = {
            at: without_committed(span, committed[at].offset if at in committed else None, self._uncommitted)
            for at, span in spans.items()
        }
        return await self.ranges(spans, partitions, deadline)

    async def ranges(
        self,
        spans: Mapping[TopicPartition, Span],
        partitions: Mapping[TopicPartition, PartitionDescription],
        deadline: float,
    ) -> dict[TopicPartition, ReadRange]:
        """Where to read each partition, by spans without COMMITTED and what the broker says of the logs."""
        timed = {at: times for at, span in spans.items() if (times := times_of(span))}
        found = await asyncio.gather(*(self._offsets_at(at, timed[at], deadline) for at in timed))
        offsets_at = dict(zip(timed, found, strict=True))
        return {at: read_range(span, partitions[at], offsets_at.get(at, {})) for at, span in spans.items()}

    async def _partitions(
        self, asked: Iterable[TopicPartition], deadline: float
    ) -> dict[TopicPartition, PartitionDescription]:
        topics = list(dict.fromkeys(at.topic for at in asked))
        found = {topic.name: topic.partitions for topic in await self.describe(topics, deadline)}
        for topic, partition in asked:
            if not 0 <= partition < len(found[topic]):
                raise UnknownPartitionError(topic, partition, len(found[topic]))
        return {at: found[at.topic][at.partition] for at in asked}

    async def _committed(
        self, spans: Mapping[TopicPartition, Span], deadline: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        asked = [at for at, span in spans.items() if any(map(is_committed, span))]
        if not asked:
            return {}
        group_id = self._group_id or raise_no_group()
        return await retried(self._retry, deadline, self._calls.get_committed_offsets, group_id, asked)

    async def _offsets_at(self, at: TopicPartition, times: Iterable[int], deadline: float) -> dict[int, int]:
        offsets = {}
        for ms in times:
            async with self._slots:
                found = await retried(self._retry, deadline, self._calls.get_offsets_for_times, {at: ms})
                offsets[ms] = found[at].offset
        return offsets


def raise_no_group(sentence: str = "committed offsets belong to a group; give group_id") -> NoReturn:
    """Raise InvalidArgumentError: a group id is needed, and the consumer has none."""
    raise InvalidArgumentError(sentence, field="group_id")
