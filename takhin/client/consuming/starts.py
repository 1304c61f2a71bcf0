"""Where a member of a group begins to read: where the group left off, else where the user says."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from takhin.client.calls import Calls
from takhin.client.consuming.lookup import Lookup
from takhin.client.consuming.options import GroupOptions
from takhin.client.consuming.positions import ReadRange
from takhin.client.consuming.watch import start_of_new
from takhin.client.model import START, PartitionDescription, Position, Span, TopicOutline
from takhin.client.retry import retried
from takhin.model import TopicPartition

logger = logging.getLogger("takhin.client")


class Found(NamedTuple):
    """ranges: where to read; partitions that do not exist, or are not served, are missing.

    new: those in which the group had committed nothing, and which do not begin at the beginning.
    """

    ranges: dict[TopicPartition, ReadRange]
    new: frozenset[TopicPartition]


class Starts:
    """Asks the broker for what the group has committed, and for where its logs begin and end."""

    def __init__(self, calls: Calls, lookup: Lookup, options: GroupOptions) -> None:
        self._calls = calls
        self._lookup = lookup
        self._retry = options.retry
        self._subscription = options.subscription
        self._uncommitted = options.places.first
        self._known: Mapping[str, TopicOutline] | None = None

    async def look_around(self, deadline: float) -> None:
        """Note, once, which partitions there are: those that come later are read from their beginning."""
        if self._uncommitted != START and self._known is None:
            names: Iterable[str] = self._subscription.topics
            if not names:
                names = await retried(self._retry, deadline, self._calls.list_topics)
            self._known = await retried(self._retry, deadline, self._calls.outline_topics, list(names))

    async def find(self, partitions: Collection[TopicPartition], deadline: float) -> Found:
        """Where to begin to read each of these partitions."""
        described = await self._described(partitions, deadline)
        if not described:
            return Found({}, frozenset())
        committed = await retried(
            self._retry,
            deadline,
            self._calls.get_committed_offsets,
            self._subscription.group_id,
            list(described),
        )
        spans = {at: Span(committed[at].offset) if at in committed else self._first(at) for at in described}
        ranges = await self._lookup.ranges(spans, described, deadline)
        new = frozenset(at for at, span in spans.items() if at not in committed and span.start != START)
        return Found(ranges, new)

    async def at_place(self, at: TopicPartition, place: Position, deadline: float) -> ReadRange | None:
        """Where a place is now; None if the partition cannot be read."""
        described = await self._described([at], deadline)
        return (await self._lookup.ranges(dict.fromkeys(described, Span(place)), described, deadline)).get(at)

    def _first(self, at: TopicPartition) -> Span:
        known = (self._known or {}).get(at.topic)
        if known is None or at.partition >= known.num_partitions:
            return start_of_new(self._uncommitted)
        return Span(self._uncommitted)

    async def _described(
        self, partitions: Iterable[TopicPartition], deadline: float
    ) -> dict[TopicPartition, PartitionDescription]:
        """What the broker says of those of these partitions that it serves."""
        wanted = set(partitions)
        topics = sorted({at.topic for at in wanted})
        found = await retried(self._retry, deadline, self._calls.describe_topics, topics, sizes=False)
        described = {
            at: of
            for topic in found
            for of in topic.partitions
            if (at := TopicPartition(topic.name, of.partition)) in wanted
        }
        for of in described.values():
            if not of.served:
                logger.debug("a partition of the group cannot be read yet: %s", of.unavailable_reason)
        return {at: of for at, of in described.items() if of.served}
