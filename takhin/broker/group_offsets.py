"""The verbs about the offsets that consumer groups commit. They read no log: the engine knows the offsets."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from functools import partial

from takhin import limits
from takhin.broker.topics import check_incarnation, find_log
from takhin.clock import Clock
from takhin.errors import (
    FencedMemberError,
    InvalidArgumentError,
    OverloadedError,
    UnknownGroupError,
    UnknownTopicError,
)
from takhin.groups.coordinator import Coordinator
from takhin.members import Committer
from takhin.model import CommittedOffset, OffsetCommit, TopicPartition
from takhin.settings import GroupSettings
from takhin.storage.contract import Engine
from takhin.turns import in_turns


class GroupOffsetVerbs:
    """Commits offsets of consumer groups, and forgets them."""

    def __init__(
        self, engine: Engine, coordinator: Coordinator, settings: GroupSettings, clock: Clock
    ) -> None:
        self._engine = engine
        self._coordinator = coordinator
        self._settings = settings
        self._clock = clock
        self._bytes = 0
        self._commits: set[asyncio.Task[None]] = set()

    async def commit(
        self, group_id: str, offsets: Collection[OffsetCommit], committer: Committer, size_bytes: int
    ) -> None:
        """Remember offsets for a group; durable on return. size_bytes: what they take in memory meanwhile.

        All are checked before any is written. Across partitions they are separate transactions: after
        an UnavailableError some may have been remembered, and committing again is right. A commit that has
        begun goes on when its caller has gone: until it has ended, its partitions are not given to others.
        Raises UnknownMemberError, FencedMemberError with all that is refused, GroupNotEmptyError.
        """
        limit = self._settings.commit_bytes_max
        if self._bytes >= limit:  # passed by at most one, so that any allowed commit gets through
            raise OverloadedError(
                f"{self._bytes} bytes of commits are under way; the limit is {limit} "
                "(groups.commit_bytes_max)"
            )
        task = asyncio.create_task(self._commit(group_id, offsets, committer))
        self._bytes += size_bytes
        self._commits.add(task)
        task.add_done_callback(partial(self._ended, size_bytes))
        await asyncio.shield(task)

    def _ended(self, size_bytes: int, task: asyncio.Task[None]) -> None:
        self._bytes -= size_bytes
        self._commits.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have gone

    async def _commit(self, group_id: str, offsets: Collection[OffsetCommit], committer: Committer) -> None:
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
        if committer.member_id and self._coordinator.settling:
            await self._check_forward(group_id, committer, checked)
        async with self._coordinator.committing(group_id, committer, checked) as fences:
            await self._engine.offsets.commit(group_id, checked, fences)

    async def _check_forward(
        self, group_id: str, committer: Committer, offsets: Mapping[TopicPartition, CommittedOffset]
    ) -> None:
        """Raise FencedMemberError if an offset would move back, right after a start of the broker.

        The member says itself that it owns the partition. It may have been fenced in the former run, and
        would undo what the owner has committed since.
        """
        durable = self._engine.offsets.of(group_id)
        back = [
            at
            async for at, of in in_turns(offsets.items())
            if at in durable and of.offset < durable[at].offset
        ]
        if back:
            topic, partition = back[0]
            raise FencedMemberError(
                f"the offset of {topic}/{partition} would move back from {durable[back[0]].offset} to "
                f"{offsets[back[0]].offset}; no member's does right after a start of the broker",
                refused=tuple(back),
                member_id=committer.member_id[:255],
                member_epoch=committer.epoch,
            )

    async def committed(
        self, group_id: str, partitions: Sequence[TopicPartition]
    ) -> list[tuple[TopicPartition, CommittedOffset | None]]:
        """What the group committed in `partitions` (None: nothing); without any, everywhere."""
        limits.check_group_id(group_id)
        limits.check_range("partitions", len(partitions), 0, self._settings.commit_offsets_max)
        committed = self._engine.offsets.of(group_id)
        if not partitions:  # a topic may be in the course of its deletion
            found = [(at, of) async for at, of in in_turns(sorted(committed.items()))]
            return [(at, of) for at, of in found if at.topic in self._engine.topics]
        async for at in in_turns(partitions):
            log = find_log(self._engine, *at)
            if at not in committed:  # nothing is a claim, too: a reader would begin elsewhere
                log.check_available()
        return [(at, committed.get(at)) for at in partitions]

    async def delete_group(self, group_id: str) -> None:
        """Drop all that the group committed, and what logs know of its sources; durable on return.

        Raises UnknownGroupError, GroupNotEmptyError.
        """
        limits.check_group_id(group_id)
        self._coordinator.check_empty(group_id)
        if not await self._engine.offsets.forget(group_id):
            raise UnknownGroupError(group_id)

    async def delete_offsets(self, group_id: str, topics: Collection[str]) -> None:
        """Drop what the group committed in some topics; durable on return.

        Raises UnknownGroupError, UnknownTopicError for a name that is no topic's, with nothing done, and
        GroupNotEmptyError if a member subscribes to one of them.
        """
        limits.check_group_id(group_id)
        limits.check_range("topics", len(topics), 1, self._settings.commit_offsets_max)
        wanted = frozenset([name async for name in in_turns(topics)])
        for name in sorted(wanted - self._engine.topics.keys()):
            raise UnknownTopicError(name)
        self._coordinator.check_empty(group_id, wanted)
        if not await self._engine.offsets.forget(group_id, wanted):
            raise UnknownGroupError(group_id)
