"""The coordinator of consumer groups: takes members in, and knows every group that has some.

It holds groups with their timers and streams; what they do to each other is in `state.py`. Nothing of it is
on disk but what groups commit. Epochs begin at the engine's number for this start, times 2^32, so that none
of a former run comes again. Where that number is smaller than it was, because an older copy of the data was
put back, an epoch may come again. That is harmless: it counts only together with a member's id, which a
program keeps to itself, and with partitions that this member owns now.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

import structlog

from takhin.clock import Clock
from takhin.errors import (
    FencedMemberError,
    GroupFullError,
    GroupNotEmptyError,
    InvalidArgumentError,
    ShuttingDownError,
    UnknownMemberError,
)
from takhin.groups.deadlines import now_ms
from takhin.groups.events import Join
from takhin.groups.group import JOINING, NOTHING, Group, Rules, Subscription
from takhin.groups.live_group import LiveGroup
from takhin.groups.membership import Membership
from takhin.groups.patterns import Pattern, Patterns
from takhin.groups.requests import checked_join, checked_topics
from takhin.groups.seat import Seat
from takhin.groups.state import may_commit
from takhin.members import ANYBODY, Committer, Joined, JoinGroup, Reader
from takhin.model import GroupState, TopicPartition
from takhin.sentences import counted, shown
from takhin.settings import GroupSettings
from takhin.storage.contract import Engine, Fence, Topic
from takhin.turns import Backlog, Turnstile, others_turn

logger = structlog.get_logger()

BOOT_BITS = 32
"""How many bits of an epoch count within one start of the broker."""
HEARTBEATS_PER_SESSION = 3, 4
"""How many are asked of a member in the time of its session: of some more than of others, so that members
which came together, as after a start of the broker, do not speak together for ever."""
COMMITTED_AT_ONCE = 1_000
"""Partitions of a commit that are looked at in one turn of the loop."""


class Coordinator:
    """All consumer groups. Life: `start` when the engine is open, `drain`, `stop` before it closes."""

    def __init__(self, engine: Engine, settings: GroupSettings, clock: Clock) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._rules = Rules(
            settings.change_wait_ms, settings.first_wait_ms, settings.rejoin_ms, settings.members_max
        )
        self._groups: dict[str, LiveGroup] = {}  # those with members or with commits under way
        self._members: dict[str, int] = {}  # how many each group has that has some
        self._members_total = 0
        self._floor = 1  # above every epoch that a group without members has had
        self._quiet_until = 0
        self._patterns = Patterns(engine, settings.pattern_chars_max)
        self._catalogue: Mapping[str, int] = {}
        self._watching: asyncio.Task[None] | None = None
        self._matching: set[asyncio.Task[None]] = set()
        self._backlog = Backlog()
        self.turnstile = Turnstile()
        """What members say and are told goes through it: hundreds answer an assignment at once."""
        self.draining = False
        """True once the broker stops."""

    async def start(self) -> None:
        """Take members from now on, and for a while those of the former run with what they had."""
        self._floor = max(1, self._engine.boot << BOOT_BITS)
        if self._engine.boot > 1:
            self._quiet_until = now_ms() + self._settings.rejoin_ms
        self._catalogue = _counts(self._engine.topics)
        self._watching = asyncio.create_task(self._watch(self._engine.topics))

    def drain(self) -> None:
        """Take no member any more, and change no group: its members find the next run with what they have."""
        self.draining = True
        self._backlog.clear()
        for live in self._groups.values():
            live.close()

    async def stop(self, _grace_seconds: float) -> None:
        """Return when all has ended."""
        self.drain()
        for task in (self._watching, *self._matching):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})

    # Members

    async def join(self, request: JoinGroup, address: str, reader: Reader = ANYBODY) -> Membership:
        """Take a member in, or back. address: HOST:PORT of its connection. reader: who it is.

        Raises InvalidArgumentError, InvalidGroupIdError, InstanceInUseError, GroupFullError,
        FencedMemberError, UnknownMemberError, ShuttingDownError.
        """
        request = checked_join(request, self._settings)
        await self.turnstile.passed()  # ahead of the pattern, which is matched against the topics as they are
        subscription, pattern = await self.subscription(request.topics, request.pattern, reader)
        if self.draining:
            raise ShuttingDownError
        event = Join(
            request.member_id or str(uuid.uuid4()),
            subscription,
            request.session_timeout_ms,
            request.revoke_timeout_ms,
            request.assignor,
            request.epoch,
            request.owned,
            request.instance_id,
            request.client_id,
            address,
            returning=request.epoch != JOINING and self.settling,
        )
        live = self._joinable(request.group_id)
        self._check_room(live.value, event)
        seat = Seat(event.member_id)
        live.apply(event, seat=seat, pattern=pattern)
        member = live.value.members[event.member_id]
        beats = random.uniform(*HEARTBEATS_PER_SESSION)  # noqa: S311  no secret
        interval_ms = max(1, round(member.session_timeout_ms / beats))
        seat.say(Joined(event.member_id, member.epoch, interval_ms, member.session_timeout_ms))
        return Membership(self, live, seat, reader)

    async def subscription(
        self, topics: Collection[str], text: str, reader: Reader
    ) -> tuple[Subscription, Pattern | None]:
        """What a member wants to read, and its pattern if it has one. Raises InvalidArgumentError."""
        names = checked_topics(topics, text, self._settings.topics_max)
        if not text:
            return Subscription(names), None
        pattern = await self._patterns.find(text, reader)
        return Subscription(names, pattern.key, pattern.topics), pattern

    def _check_room(self, group: Group, event: Join) -> None:
        """Raise GroupFullError if the join would be one member too many, of all groups together."""
        limit = self._settings.members_total_max
        if self._members_total < limit or event.member_id in group.members or group.holder(event.instance_id):
            return
        raise GroupFullError(
            f"all groups together have {counted(self._members_total, 'member')}; the limit is {limit} "
            "(groups.members_total_max)",
            group_id=group.group_id,
        )

    def _joinable(self, group_id: str) -> LiveGroup:
        """The group, made if it has no members. Raises GroupFullError.

        After a start it waits for the members that it may have had before it shares anything out.
        """
        live = self._groups.get(group_id)
        if live is not None and live.value.members:
            return live
        if len(self._members) >= self._settings.groups_max:
            raise GroupFullError(
                f"{len(self._members)} groups have members; the limit is {self._settings.groups_max} "
                "(groups.groups_max)",
                group_id=group_id,
            )
        value = self._new(group_id, self._quiet_until)
        if live is None:
            return self._live(value)
        live.value = value  # with the commits that are under way
        return live

    def _new(self, group_id: str, quiet_until: int = 0) -> Group:
        return Group.new(group_id, self._floor, self._rules, self._catalogue, quiet_until=quiet_until)

    def _live(self, value: Group) -> LiveGroup:
        return LiveGroup(value, self._keep, self._backlog, self.turnstile)

    def _keep(self, live: LiveGroup) -> None:
        """Know the group as long as it has members or commits under way."""
        value = live.value
        group_id = value.group_id
        self._members_total += len(value.members) - self._members.pop(group_id, 0)
        if value.members:
            self._members[group_id] = len(value.members)
        elif value.epoch > value.floor:
            self._floor = max(self._floor, value.epoch + 1)
        if value.members or live.commits:
            self._groups[group_id] = live
        elif self._groups.get(group_id) is live:
            del self._groups[group_id]
            live.close()

    @property
    def settling(self) -> bool:
        """True while members of the former run come back: whoever owns something says so itself."""
        return now_ms() < self._quiet_until

    # The catalogue

    async def _watch(self, topics: Mapping[str, Topic]) -> None:
        """Tell the groups of each change of the catalogue."""
        while True:
            await self._engine.catalogue_changed(topics)
            topics = self._engine.topics
            try:
                await self._take_catalogue(_counts(topics))
            except Exception:
                logger.exception("catalogue_not_taken")

    async def _take_catalogue(self, catalogue: Mapping[str, int]) -> None:
        before, self._catalogue = self._catalogue, catalogue
        changed = {name for name, _ in before.items() ^ catalogue.items()}
        if not changed or self.draining:
            return
        await self._match_again(changed)

    def rights_changed(self) -> None:
        """What members may read is not what it was: find out what their patterns match now."""
        if not self.draining:
            task = asyncio.create_task(self._match_again(set()))
            self._matching.add(task)
            task.add_done_callback(self._matched)

    def _matched(self, task: asyncio.Task[None]) -> None:
        self._matching.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("patterns_not_matched", exc_info=error)

    async def _match_again(self, changed: set[str]) -> None:
        """Tell the groups what patterns match now, and of these topics that have changed."""
        await self._patterns.look_again()
        for live in list(self._groups.values()):
            if not self.draining:
                live.know(self._catalogue, changed)
                await others_turn()

    # Commits

    @asynccontextmanager
    async def committing(
        self, group_id: str, committer: Committer, partitions: Collection[TopicPartition]
    ) -> AsyncIterator[Mapping[TopicPartition, Fence]]:
        """While a commit is under way: its fences. None of its partitions goes to another owner meanwhile.

        Raises UnknownMemberError, FencedMemberError with all that is refused, and GroupNotEmptyError for a
        commit of nobody's in a group with members.
        """
        live = self._groups.get(group_id)
        if live is None:
            live = self._live(self._new(group_id))
        if not partitions:  # there is no commit that the group is kept for
            _refused(live.value, committer, NOTHING)
            yield {}
            return
        fences: dict[TopicPartition, Fence] = {}
        refused: list[TopicPartition] = []
        left = list(partitions)
        try:
            while left:
                some, left = left[:COMMITTED_AT_ONCE], left[COMMITTED_AT_ONCE:]
                refused += _refused(live.value, committer, frozenset(some))
                fences |= live.commits.begin(committer.member_id, some)
                self._keep(live)
                if left:
                    await others_turn()
            if refused:
                raise _fenced(committer, sorted(refused))
            yield fences
            live.committed(committer.member_id, self._clock())
        finally:
            live.end_commits(live.commits.end(fences))

    # What others may ask of groups

    def live(self, group_id: str) -> LiveGroup | None:
        """The group, if it has members."""
        return self._groups[group_id] if group_id in self._members else None

    @property
    def populated(self) -> Collection[str]:
        """The groups that have members."""
        return self._members.keys()

    def state(self, group_id: str) -> tuple[GroupState, int]:
        """A group's state, and how many members it has."""
        live = self.live(group_id)
        return (GroupState.EMPTY, 0) if live is None else (live.value.state, len(live.value.members))

    def check_empty(self, group_id: str, topics: Collection[str] | None = None) -> None:
        """Raise GroupNotEmptyError if the group has members, or if one subscribes to one of these topics."""
        live = self.live(group_id)
        if live is None:
            return
        if topics is None:
            raise _not_empty(live.value)
        for member in live.value.members.values():
            for topic in member.subscription.names & frozenset(topics):
                raise GroupNotEmptyError(
                    f"group {shown(group_id)} has a member that subscribes to {topic!r}",
                    group_id=group_id,
                    topic=topic,
                )


def _counts(topics: Mapping[str, Topic]) -> Mapping[str, int]:
    """How many partitions each topic has."""
    return {name: len(topic.partitions) for name, topic in topics.items()}


def _refused(
    group: Group, committer: Committer, partitions: frozenset[TopicPartition]
) -> frozenset[TopicPartition]:
    """What the group does not take of a commit. Raises its error if that does not depend on partitions."""
    if not committer.member_id:
        if committer.epoch:
            raise InvalidArgumentError("member_epoch was given without a member_id", field="member_epoch")
        if group.members:
            raise _not_empty(group)
        return frozenset()
    if committer.member_id not in group.members:
        raise UnknownMemberError(
            f"group {shown(group.group_id)} has no member {shown(committer.member_id)}",
            group_id=group.group_id,
            member_id=committer.member_id[:255],
        )
    return may_commit(group, committer.member_id, committer.epoch, partitions)


def _not_empty(group: Group) -> GroupNotEmptyError:
    return GroupNotEmptyError(
        f"group {shown(group.group_id)} has {counted(len(group.members), 'member')}", group_id=group.group_id
    )


def _fenced(committer: Committer, refused: list[TopicPartition]) -> FencedMemberError:
    topic, partition = refused[0]
    more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
    return FencedMemberError(
        f"member {shown(committer.member_id)} does not own {topic}/{partition}{more} at epoch "
        f"{committer.epoch}",
        refused=tuple(refused),
        member_id=committer.member_id[:255],
        member_epoch=committer.epoch,
    )
