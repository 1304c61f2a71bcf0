"""What a consumer has committed for its group, and how it commits more: in order, and fenced for a member."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from itertools import count
from typing import Protocol

from takhin.client.calls import Calls, MemberAt
from takhin.client.clock import monotonic
from takhin.client.consuming.assignment import Assignment
from takhin.client.consuming.positions import ReadRange
from takhin.client.errors import NoAnswerError
from takhin.client.model import CommittedOffset, Record
from takhin.client.record_batch import RecordBatch
from takhin.client.retry import Retry, pause, retried
from takhin.errors import (
    FencedMemberError,
    InvalidArgumentError,
    RefusedError,
    TakhinError,
    UnknownMemberError,
    UnknownTopicError,
)
from takhin.model import TopicPartition

COMES_BACK_S = 5.0
"""A broker that has just started knows a member when it has come back: a commit waits so long for that."""
PARTITIONS_MAX = 1_000
"""Of one call, where many are committed: each has its own file, so that a call of 10,000 takes seconds."""

Offset = int | CommittedOffset
Given = Record | RecordBatch | Mapping[tuple[str, int], Offset]
"""What a user says to have processed: all up to a record or a batch, or the next offset of each partition."""


class Member(Protocol):
    """Who commits.

    generation: how often it has ceased to be a member.
    stream: the number of its stream that the broker has answered; 0 while there is none.
    standstill: why it has ceased to be one, if its own program is to blame; to be added to a sentence.
    """

    generation: int
    stream: int
    standstill: str

    @property
    def at(self) -> MemberAt:
        """Its name and epoch as they are now."""


class Commits:
    """All methods run on the loop. One commit is under way at one time, so that none overtakes another.

    member: None: the consumer is in no group of members.
    """

    def __init__(self, calls: Calls, retry: Retry, group_id: str, assigned: Assignment) -> None:
        self.member: Member | None = None
        self._calls = calls
        self._retry = retry
        self._group_id = group_id
        self._assigned = assigned
        self._committed: dict[TopicPartition, int] = {}
        self._since: dict[TopicPartition, int] = {}  # where a member began to read what it holds
        self._turn = asyncio.Lock()

    def took(self, ranges: Mapping[TopicPartition, ReadRange], due: Collection[TopicPartition]) -> None:
        """A member reads these partitions from now on. due: those whose beginning is to be committed."""
        for at, of in ranges.items():
            self._since[at] = of.position
            if at not in due:
                self._committed[at] = of.position

    def sought(self, at: TopicPartition, position: int) -> None:
        """Something else is read next, which may be committed although it lies before what is."""
        if self._committed.get(at) != position:
            self._committed.pop(at, None)
        if at in self._since:
            self._since[at] = min(self._since[at], position)

    def forget(self, partitions: Iterable[TopicPartition] | None = None) -> None:
        """Something else is read from now on, or nothing. None: of all partitions."""
        for at in list(self._committed if partitions is None else partitions):
            self._committed.pop(at, None)
            self._since.pop(at, None)

    def due(
        self, offsets: Mapping[TopicPartition, int], partitions: Iterable[TopicPartition] | None = None
    ) -> dict[TopicPartition, int]:
        """Those of these offsets that are not committed yet, of all partitions or of some.

        Of a member's, those that it still holds. What was committed ahead of them by hand stays.
        """
        committed, held = self._committed, self._since
        chosen = offsets if partitions is None else partitions
        return {
            at: offsets[at]
            for at in chosen
            if at in offsets and committed.get(at, -1) < offsets[at] and (self.member is None or at in held)
        }

    async def store(self, given: Given, deadline: float) -> None:
        """Commit all of it or nothing; durable on return. Raises what the broker refuses."""
        offsets = _offsets(given)
        generation = self._generation
        self._check_held(offsets)
        async with self._turn:
            await self._store(offsets, deadline, generation)

    async def store_each(self, given: Mapping[TopicPartition, int], deadline: float) -> list[TakhinError]:
        """Commit what can be committed. What is refused keeps nothing else from it; returns the reasons."""
        errors: list[TakhinError] = []
        generation = self._generation
        names = sorted(given)
        parts = [names[at : at + PARTITIONS_MAX] for at in range(0, len(names), PARTITIONS_MAX)]
        while parts:
            part = parts.pop()
            try:
                async with self._turn:  # whoever had it before may have committed the same, and given it up
                    await self._store(self.due(given, part), deadline, generation)
            except FencedMemberError as error:
                errors.append(error)
                if not error.refused:  # it is no member any more
                    break
                parts.append([at for at in part if at not in error.refused])
            except RefusedError as error:
                parts += _halves(part, error)
                if len(part) == 1 or _is_one_lost_topic(part, error):
                    errors.append(error)
            except TakhinError as error:
                errors.append(error)
                break
        return errors

    async def _store(
        self, offsets: Mapping[TopicPartition, Offset], deadline: float, generation: int
    ) -> None:
        """Commit in one's turn. generation: of the member, when it was decided what to commit."""
        if self.member is None:
            await retried(self._retry, deadline, self._attempt, offsets)
        else:
            await self._as_member(self.member, generation, offsets, deadline)
        plain = {at: _plain(offset) for at, offset in offsets.items()}
        self._committed.update(plain)
        self._assigned.pass_by(plain)

    @property
    def _generation(self) -> int:
        return 0 if self.member is None else self.member.generation

    def _check_held(self, offsets: Mapping[TopicPartition, Offset]) -> None:
        """Raise FencedMemberError for what a member does not hold, or no longer since it was handed out."""
        if self.member is None:
            return
        lost = [
            at for at, offset in offsets.items() if _plain(offset) < self._since.get(at, _plain(offset) + 1)
        ]
        if lost:
            raise FencedMemberError(
                f"topic {lost[0].topic!r} partition {lost[0].partition} was given to another member of group "
                f"{self._group_id!r} since it was read; nothing was committed",
                refused=tuple(lost),
                topic=lost[0].topic,
                partition=lost[0].partition,
            )

    async def _attempt(
        self, deadline: float, offsets: Mapping[TopicPartition, Offset], member: MemberAt | None = None
    ) -> None:
        given: dict[tuple[str, int], Offset] = dict(offsets.items())
        logs = self._assigned.incarnation_ids(given)
        await self._calls.commit_offset(deadline, self._group_id, given, logs, member)

    async def _as_member(
        self, member: Member, generation: int, offsets: Mapping[TopicPartition, Offset], deadline: float
    ) -> None:
        """Commit as the member that the consumer was when it was asked; that may have to come back first."""

        async def attempt(deadline: float) -> None:
            if member.generation != generation or not member.at.epoch:
                raise self._not_it(member)
            await self._attempt(deadline, offsets, member.at)

        patience = 0.0
        for failures in count(1):
            stream = member.stream
            try:
                return await retried(self._retry, deadline, attempt)
            except (FencedMemberError, UnknownMemberError) as error:
                if member.generation != generation:
                    raise self._not_it(member) from error
                # A broker that has started again knows the member by another epoch, which is on its way.
                refused = isinstance(error, FencedMemberError) and error.refused
                sure = refused and stream and stream == member.stream
                again = NoAnswerError(str(error))
                patience = patience or min(deadline, monotonic() + COMES_BACK_S)
                if sure or not await pause(self._retry, failures, again, patience):
                    raise
        raise AssertionError  # count has no end

    def _not_it(self, member: Member) -> FencedMemberError:
        return FencedMemberError(
            f"the consumer is not the member of group {self._group_id!r} it was{member.standstill}"
        )


def _offsets(given: Given) -> dict[TopicPartition, Offset]:
    """The next offset to read for each partition."""
    match given:
        case Record():
            return {TopicPartition(given.topic, given.partition): given.offset + 1}
        case RecordBatch():
            if not given.records:
                return {}
            return {TopicPartition(given.topic, given.partition): given.records[-1].offset + 1}
        case Mapping():
            return {TopicPartition(*at): offset for at, offset in given.items()}
        case _:
            raise InvalidArgumentError(f"a record, a batch or a mapping is committed, not {given!r}")


def _plain(offset: Offset) -> int:
    return offset.offset if isinstance(offset, CommittedOffset) else offset


def _is_one_lost_topic(part: list[TopicPartition], error: RefusedError) -> bool:
    return isinstance(error, UnknownTopicError) and len({at.topic for at in part}) == 1


def _halves(part: list[TopicPartition], error: RefusedError) -> list[list[TopicPartition]]:
    """A part whose commit was refused, as parts of which some may not be: by topic, else in halves."""
    topics = {at.topic for at in part}
    if len(topics) > 1:
        return [[at for at in part if at.topic == topic] for topic in topics]
    if len(part) == 1 or _is_one_lost_topic(part, error):
        return []
    middle = len(part) // 2
    return [part[:middle], part[middle:]]
