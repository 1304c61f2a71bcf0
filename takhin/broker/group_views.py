"""The verbs that tell of consumer groups: their members, what they have committed, what is left to read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from heapq import nsmallest

from takhin import limits
from takhin.broker.lag import Ages, lag
from takhin.broker.topics import find_log
from takhin.clock import Clock
from takhin.errors import UnknownGroupError
from takhin.group_views import DescribedGroup, DescribedMember, GroupLag, ListedGroup
from takhin.groups.coordinator import Coordinator
from takhin.groups.deadlines import now_ms
from takhin.groups.live_group import LiveGroup
from takhin.model import CommittedOffset, GroupState, TopicPartition
from takhin.storage.contract import Engine, PartitionLog
from takhin.turns import in_turns, others_turn

NAMES_AT_ONCE = 2_000
"""Topics and partitions of members that are sorted in one turn of the loop, or those of one member."""
JUDGED_AT_ONCE = 100
"""Topics of which a caller's rights are asked in one turn of the loop: rules can make each one 100 µs."""
TOPICS_SHOWN_MAX = 20
"""Topics of a member that a description has: all of them, of each of a thousand members, would be hundreds of
MB. Not a setting: the interface promises it."""

Committed = Mapping[TopicPartition, CommittedOffset]


class GroupViewVerbs:
    """Lists and describes consumer groups."""

    def __init__(self, engine: Engine, coordinator: Coordinator, ages: Ages, clock: Clock) -> None:
        self._engine = engine
        self._coordinator = coordinator
        self._ages = ages
        self._clock = clock

    async def list_groups(self, counts: Callable[[str], bool] | None = None) -> list[ListedGroup]:
        """Every group that has committed an offset or has members, sorted.

        Its lag is that of all partitions in which it has committed something, or which a member owns.
        counts: whether a topic is among those whose lag counts; None: all are.
        """
        names = sorted({*self._engine.offsets.groups(), *self._coordinator.populated})
        listed, looked_at = [], 0
        for group_id in names:
            committed = self._engine.offsets.of(group_id)
            read = {**dict.fromkeys(self._owned(group_id)), **committed}
            if counts is not None:
                turns = in_turns(read.items(), at_once=JUDGED_AT_ONCE)
                read = {at: of async for at, of in turns if counts(at.topic)}
            lag = sum(self._lag(at, of) for at, of in read.items())
            state, members = self._coordinator.state(group_id)
            listed.append(ListedGroup(group_id, state, members, lag))
            looked_at += 1 + len(read) + members
            if looked_at >= NAMES_AT_ONCE:
                looked_at = 0
                await others_turn()
        return listed

    def _owned(self, group_id: str) -> Collection[TopicPartition]:
        live = self._coordinator.live(group_id)
        return () if live is None else live.value.owner

    def _lag(self, at: TopicPartition, committed: CommittedOffset | None) -> int:
        """Of one partition; 0 for one that is in the course of its deletion."""
        topic = self._engine.topics.get(at.topic)
        if topic is None or at.partition >= len(topic.partitions):
            return 0
        return lag(topic.partitions[at.partition], committed)

    async def describe_group(self, group_id: str) -> DescribedGroup:
        """A group with its members and all that it has committed. Raises UnknownGroupError."""
        limits.check_group_id(group_id)
        committed = self._engine.offsets.of(group_id)
        ages = await self._ages.of(committed)
        live = self._coordinator.live(group_id)
        owner = {} if live is None else live.value.owner
        offsets = [
            _with_lag(at, of, find_log(self._engine, *at), owner.get(at, ""), ages[at])
            async for at, of in in_turns(sorted(committed.items()))
            if at.topic in self._engine.topics  # else the topic is being deleted right now
        ]
        if live is None:
            if not offsets:
                raise UnknownGroupError(group_id)
            return DescribedGroup(group_id, GroupState.EMPTY, offsets)
        value = live.value
        members = [member async for member in self._members(live, committed)]
        return DescribedGroup(group_id, value.state, offsets, members, value.epoch, value.assignor)

    async def _members(self, live: LiveGroup, committed: Committed) -> AsyncIterator[DescribedMember]:
        value, catalogue = live.value, live.value.catalogue
        since_epoch = self._clock() - now_ms()  # members go by the loop's time
        looked_at = 0
        for member in value.members.values():
            names = member.subscription.names
            looked_at += len(names) + len(member.held)
            if looked_at >= NAMES_AT_ONCE:
                looked_at = 0
                await others_turn()
            attendance = live.attendance.get(member.member_id)  # it may have gone meanwhile
            yield DescribedMember(
                member.member_id,
                member.instance_id,
                member.client_id,
                member.client_host,
                max(0, member.epoch),
                str(member.state),
                nsmallest(TOPICS_SHOWN_MAX, (name for name in names if name in catalogue)),
                [(at, committed.get(at)) for at in sorted(member.held)],
                member.joined_at + since_epoch,
                0 if attendance is None else attendance.last_commit_at,
            )


def _with_lag(
    at: TopicPartition, committed: CommittedOffset, log: PartitionLog, member_id: str, lag_ms: int
) -> GroupLag:
    return GroupLag(*at, committed, log.end_offset, lag(log, committed), member_id, lag_ms)
