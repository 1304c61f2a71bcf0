"""The verbs about the offsets that consumer groups commit. They read no log: the engine knows the offsets."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from takhin import limits
from takhin.broker.topics import check_incarnation, find_log
from takhin.clock import Clock
from takhin.errors import InvalidArgumentError, UnknownGroupError
from takhin.group_views import DescribedGroup, GroupLag, ListedGroup
from takhin.model import (
    CommittedOffset,
    GroupState,
    OffsetCommit,
    TopicPartition,
)
from takhin.settings import GroupSettings
from takhin.storage.contract import Engine, PartitionLog
from takhin.turns import in_turns


class GroupOffsetVerbs:
    """Commits offsets; lists, describes and deletes consumer groups."""

    def __init__(self, engine: Engine, settings: GroupSettings, clock: Clock) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock

    async def commit(self, group_id: str, offsets: Collection[OffsetCommit]) -> None:
        """Remember offsets for a group; durable on return.

        All are checked before any is written. Across partitions they are separate transactions: after
        an UnavailableError some may have been remembered, and committing again is right.
        """
        limits.check_group_id(group_id)
        limits.check_range("offsets", len(offsets), 0, self._settings.commit_offsets_max)
        now = self._clock()
        checked: dict[TopicPartition, CommittedOffset] = {}
        async for at, offset, metadata, incarnation_id in in_turns(offsets):
            topic, partition = at
            log = check_incarnation(find_log(self._engine, topic, partition), incarnation_id)
            if at in checked:
                raise InvalidArgumentError(
                    f"topic {topic!r} partition {partition} stands twice in the commit", field="offsets"
                )
            log.check_available()
            limits.check_commit_offset(topic, partition, offset, log.end_offset)
            checked[at] = CommittedOffset(offset, limits.check_metadata(metadata), now)
        await self._engine.offsets.commit(group_id, checked)

    async def committed(
        self, group_id: str, partitions: Sequence[TopicPartition]
    ) -> list[tuple[TopicPartition, CommittedOffset | None]]:
        """What the group committed in `partitions` (None: nothing); without any, everywhere."""
        limits.check_group_id(group_id)
        limits.check_range("partitions", len(partitions), 0, self._settings.commit_offsets_max)
        if not partitions:
            offsets = await self._offsets(group_id)
            return [(TopicPartition(of.topic, of.partition), of.committed) for of in offsets]
        committed = self._engine.offsets.of(group_id)
        async for at in in_turns(partitions):
            log = find_log(self._engine, *at)
            if at not in committed:  # nothing is a claim, too: a reader would begin elsewhere
                log.check_available()
        return [(at, committed.get(at)) for at in partitions]

    def list_groups(self) -> list[ListedGroup]:
        """Every group that has committed an offset, sorted."""
        return [ListedGroup(group_id, GroupState.EMPTY) for group_id in self._engine.offsets.groups()]

    async def describe_group(self, group_id: str) -> DescribedGroup:
        """A group with all that it has committed. Raises UnknownGroupError."""
        limits.check_group_id(group_id)
        offsets = await self._offsets(group_id)
        if not offsets:
            raise UnknownGroupError(group_id)
        return DescribedGroup(group_id, GroupState.EMPTY, offsets)

    async def delete_group(self, group_id: str) -> None:
        """Drop all that the group committed; durable on return. Raises UnknownGroupError."""
        limits.check_group_id(group_id)
        if not self._engine.offsets.of(group_id):
            raise UnknownGroupError(group_id)
        await self._engine.offsets.forget(group_id)

    async def _offsets(self, group_id: str) -> list[GroupLag]:
        """All that the group has committed beside the ends of the logs, by topic and partition."""
        return [
            _with_lag(at, committed, find_log(self._engine, *at))
            async for at, committed in in_turns(sorted(self._engine.offsets.of(group_id).items()))
            if at.topic in self._engine.topics  # else the topic is being deleted right now
        ]


def _with_lag(at: TopicPartition, committed: CommittedOffset, log: PartitionLog) -> GroupLag:
    end = log.end_offset
    lag = min(end - max(committed.offset, log.start_offset), log.record_count)
    return GroupLag(*at, committed, end, lag)
