"""The coordinator of consumer groups: takes members in, and knows every group that has some.

It holds state, timers and streams; what they do to each other is in `state.py`. Nothing of it is on disk but what
groups commit. Epochs begin at the engine's number for this start, times 2^32, so that none of a former run comes
again. Where that number is smaller than it was, because an older copy of the data was put back, an epoch may come
again, and that is harmless: it counts only together with a member's id, which a program keeps to itself, and with
partitions that this member owns now.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog

from takhin.clock import Clock
from takhin.errors import (
    FencedMemberError,
    GroupFullError,
    GroupNotEmptyError,
    ShuttingDownError,
    UnknownMemberError,
)
from takhin.groups.deadlines import now_ms
from takhin.groups.described import GroupView, viewed
from takhin.groups.events import CatalogueChanged, Join
from takhin.groups.group import JOINING, Group, Partitions, Rules, Subscription
from takhin.groups.live_group import LiveGroup
from takhin.groups.membership import Membership
from takhin.groups.patterns import Pattern, Patterns
from takhin.groups.requests import JoinRequest, checked_join, checked_topics
from takhin.groups.seat import Joined, Seat
from takhin.groups.state import may_commit
from takhin.model import TopicPartition
from takhin.sentences import shown
from takhin.settings import GroupSettings
from takhin.storage.contract import Engine, Fence
from takhin.turns import in_turns

logger = structlog.get_logger()

BOOT_EPOCHS = 32
"""Bits of an epoch that count within one start of the broker."""
HEARTBEATS_PER_SESSION = 3
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
        self._with_members = 0
        self._floor = 1
        self._quiet_until = 0
        self._patterns = Patterns(engine, settings.pattern_chars_max)
        self._catalogue: Mapping[str, int] = {}
        self._watching: asyncio.Task[None] | None = None
        self._draining = False

    async def start(self) -> None:
        """Take members from now on, and for a while those of the former run with what they had."""
        self._floor = max(1, self._engine.boot << BOOT_EPOCHS)
        if self._engine.boot > 1:
            self._quiet_until = now_ms() + self._settings.rejoin_ms
        self._watching = asyncio.create_task(self._watch())

    def drain(self) -> None:
        """Take no member any more, and change no group: its members go to the next run with what they have."""
        self._draining = True
        for live in self._groups.values():
            live.close()

    async def stop(self, _grace_seconds: float) -> None:
        """Return when all has ended."""
        self.drain()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    # Members

    async def join(self, request: JoinRequest, address: str) -> Membership:
        """Take a member in, or back. address: HOST:PORT of its connection.

        Raises InvalidArgumentError, InvalidGroupIdError, and what the state machine refuses.
        """
        request = checked_join(request, self._settings)
        subscription, pattern = await self.subscription(request.topics, request.pattern)
        if self._draining:
            raise ShuttingDownError
        member_id = request.member_id or str(uuid.uuid4())
        live = self._groups.get(request.group_id)
        if live is None or not live.value.members:
            self._check_room(request.group_id)
        event = self._event(request, member_id, subscription, address)
        live = live or self._new(request.group_id, returning=event.returning)
        seat = Seat(member_id)
        try:
            live.apply(event, seat=seat, pattern=pattern)
        finally:
            self._keep(live)
        member = live.value.members[member_id]
        interval_ms = max(1, member.session_timeout_ms // HEARTBEATS_PER_SESSION)
        seat.say(Joined(member_id, member.epoch, interval_ms, member.session_timeout_ms))
        return Membership(self, live, seat)

    async def subscription(
        self, topics: Collection[str], text: str
    ) -> tuple[Subscription, Pattern | None]:
        """What a member wants to read, and its pattern if it has one. Raises InvalidArgumentError."""
        names = checked_topics(topics, text, self._settings.topics_max)
        if not text:
            return Subscription(names), None
        pattern = await self._patterns.find(text)
        return Subscription(names, text, pattern.topics), pattern

    @property
    def draining(self) -> bool:
        """True once the broker stops."""
        return self._draining

    def _event(self, request: JoinRequest, member_id: str, subscription: Subscription, address: str) -> Join:
        return Join(
            member_id,
            subscription,
            request.session_timeout_ms,
            request.revoke_timeout_ms,
            request.assignor,
            request.epoch,
            request.owned,
            request.instance_id,
            request.client_id,
            address,
            returning=request.epoch != JOINING and now_ms() < self._quiet_until,
        )

    def _check_room(self, group_id: str) -> None:
        if self._with_members >= self._settings.groups_max:
            raise GroupFullError(
                f"{self._with_members} groups have members; the limit is {self._settings.groups_max} "
                "(groups.groups_max)",
                group_id=group_id,
            )

    def _new(self, group_id: str, *, returning: bool) -> LiveGroup:
        """A group without members. After a start, one that was there before waits for its members to come back."""
        was_there = returning or bool(self._engine.offsets.of(group_id))
        value = Group.new(
            group_id,
            self._floor,
            self._rules,
            self._catalogue,
            quiet_until=self._quiet_until if was_there else 0,
        )
        return LiveGroup(value, self._keep)

    def _keep(self, live: LiveGroup) -> None:
        """Know the group as long as it has members or commits under way."""
        group_id, value = live.value.group_id, live.value
        ...

    # Commits

    @asynccontextmanager
    async def committing(
        self, group_id: str, member_id: str, epoch: int, partitions: Collection[TopicPartition]
    ) -> AsyncIterator[Mapping[TopicPartition, Fence]]:
        """While a member's commit, or one of nobody's (an empty id), is under way: its fences.

        No partition of it goes to another owner meanwhile. Raises UnknownMemberError, FencedMemberError with all
        that is refused, GroupNotEmptyError for a commit of nobody's in a group with members.
        """
        yield {}
