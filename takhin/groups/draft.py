"""A group while one event is being handled. What is to be done follows from how it differs from before.

A draft lives for one step. Who owns what is known from the members as they were when it began, and from what
it has moved itself.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import NoReturn

from takhin.errors import RefusedError, UnknownMemberError
from takhin.groups.changing import changed
from takhin.groups.events import (
    Action,
    Arm,
    Deadline,
    Disarm,
    Release,
    Remove,
    Step,
    Tell,
    WantSteps,
    WantTarget,
)
from takhin.groups.group import NOTHING, Group, Member, MemberState, Partitions
from takhin.groups.reconcile import Goal, reconcile
from takhin.model import TopicPartition
from takhin.sentences import shown

DEADLINES = tuple(Deadline)
NO_DEADLINES = (None, None, None)


class Draft:
    """The fields of a group, to be changed, and what the step has to know besides."""

    def __init__(self, group: Group, now: int, busy: Partitions) -> None:
        self.before, self.now, self.busy = group, now, busy
        self.catalogue, self.assignor = group.catalogue, group.assignor
        self.epoch, self.target_epoch = group.epoch, group.target_epoch
        self.target_at, self.wanted_at = group.target_at, group.wanted_at
        self.members, self.target = dict(group.members), group.target
        self.behind = group.behind
        self.freed: set[TopicPartition] = set()
        """What somebody may be waiting for."""
        self._got: dict[TopicPartition, str] = {}  # what has become somebody's own, and whose
        self._let_go: set[TopicPartition] = set()  # what has become nobody's
        self._touched: dict[str, None] = {}
        self._told: set[str] = set()
        self._armed: list[Arm] = []
        self._removed: dict[str, RefusedError | None] = {}
        self._wants = self._steps = False

    def owned(self, partitions: Partitions) -> AbstractSet[TopicPartition]:
        """Those of the partitions that are somebody's own."""
        return ((partitions & self.before.owner.keys()) - self._let_go) | (partitions & self._got.keys())

    def holder(self, instance_id: str) -> Member | None:
        """The static member that has the instance id."""
        return self.before.holder(instance_id)

    def known(self, member_id: str) -> Member:
        """The member of that id. Raises UnknownMemberError."""
        member = self.members.get(member_id)
        return unknown(member_id) if member is None else member

    def put(self, member: Member) -> None:
        """Put a member in its place."""
        held = member.held
        before = self.members.get(member.member_id)
        had = before.held if before is not None else NOTHING
        if held is not had and held != had:
            self._move(had - held, held - had, member.member_id)
        self.members[member.member_id] = member
        self._touched[member.member_id] = None

    def remove(self, member_id: str, error: RefusedError | None) -> None:
        """Take a member out. If nobody is left, there is nothing to make a target of [KAFKA-22045]."""
        self._take_out(member_id, error)
        self.bump()
        if not self.members:
            self.target_epoch, self.target, self.target_at = self.epoch, {}, None
            self.wanted_at, self._wants = None, False

    def replace_member(self, member_id: str, by: Member) -> None:
        """Let another id have a member's place and target."""
        part = self.target.get(member_id, NOTHING)
        self._take_out(member_id, None)
        self.put(by)
        self.set_target(by.member_id, part)

    def _take_out(self, member_id: str, error: RefusedError | None) -> None:
        self._move(self.members[member_id].held, NOTHING, member_id)
        del self.members[member_id]
        self.target = {each: part for each, part in self.target.items() if each != member_id}
        self._touched.pop(member_id, None)
        self._removed[member_id] = error

    def _move(self, gone: Partitions, got: Partitions, member_id: str) -> None:
        """Note what is a member's own no more, and what is from now on."""
        for each in gone:
            self._got.pop(each, None)
        self._let_go.update(gone)
        self._got.update(dict.fromkeys(got, member_id))
        self.freed.update(gone)

    def set_target(self, member_id: str, partitions: Partitions) -> None:
        """Change what one member is to have."""
        if self.target.get(member_id, NOTHING) != partitions:
            self.target = {**self.target, member_id: partitions}

    def bump(self) -> None:
        """Let G rise: the target has to be made again."""
        self.epoch += 1
        if self.wanted_at is None:
            self.want_target()

    def want_target(self) -> None:
        """Ask for a target: at once, but at intervals for what follows, and for a new group after a while."""
        rules = self.before.rules
        if self.target_at is None:
            at = self.now + rules.first_target_ms
        else:
            at = max(self.now, self.target_at + rules.target_interval_ms)
        self.wanted_at, self._wants = max(at, self.before.quiet_until), True

    def tell(self, member_id: str) -> None:
        """Tell a member what it may hold even if that is what it was."""
        self._told.add(member_id)

    def arm(self, member: Member, kind: Deadline, at: int) -> None:
        """Arm a deadline even if it is where it was."""
        self._armed.append(Arm(member.member_id, kind, member.epoch, at))

    def reconcile(self, member_id: str, owned: Partitions | None = None) -> None:
        """Let a member take its next step towards the target. One that is away stays as it is."""
        member = self.members[member_id]
        if member.away:
            return
        want = self.target.get(member_id, NOTHING)
        stable = member.state is MemberState.STABLE and member.epoch == self.target_epoch
        if stable and member.assigned is want:
            return  # it is where it is to be, as most are most of the time
        new = want - member.assigned
        blocked = self.owned(new) | (new & self.busy) if new else NOTHING
        after = reconcile(member, Goal(want, self.target_epoch), blocked, owned)
        if after is not member:
            self.put(self._timed(member, after))

    def reconcile_all(self) -> None:
        """Let all members take their next step: some now, the others when `StepsDue` comes."""
        self.behind = tuple(self.members)
        self.catch_up()

    def catch_up(self) -> None:
        """Let some of those that are behind take their next step."""
        at_once = self.before.rules.steps_at_once
        some, self.behind = self.behind[:at_once], self.behind[at_once:]
        for member_id in some:
            if member_id in self.members:
                self.reconcile(member_id)
        self._steps = bool(self.behind)

    def _timed(self, before: Member, after: Member) -> Member:
        """The member with its revoke deadline, which begins with what it has to let go of."""
        if after.state is not MemberState.UNREVOKED:
            return after if after.revoke_at is None else changed(after, revoke_at=None)
        if before.state is MemberState.UNREVOKED and before.revoking <= after.revoking:
            return after
        return changed(after, revoke_at=self.now + after.revoke_timeout_ms)

    def finished(self) -> Step:
        """The group as it is now. What came free has gone to those who were waiting for it."""
        if self.freed:
            for member in list(self.members.values()):
                waits = member.state is MemberState.UNRELEASED
                if waits and not self.target.get(member.member_id, NOTHING).isdisjoint(self.freed):
                    self.reconcile(member.member_id)
        group = changed(
            self.before,
            catalogue=self.catalogue,
            epoch=self.epoch,
            target_epoch=self.target_epoch,
            assignor=self.assignor,
            members=self.members,
            target=self.target,
            target_at=self.target_at,
            wanted_at=self.wanted_at,
            behind=self.behind,
        )
        if self._let_go or self._got:
            group.owners_move(self._let_go, self._got)
        return Step(group, self._actions())

    def _actions(self) -> list[Action]:
        """What is to be done, from the difference to before: ownership ends before others hear of it."""
        actions: list[Action] = []
        for member_id, error in self._removed.items():
            if held := self.before.members[member_id].held:
                actions.append(Release(member_id, held))
            actions.append(Remove(member_id, error))
        tells: list[Tell] = []
        for member_id in self._touched:
            before, after = self.before.members.get(member_id), self.members[member_id]
            if before is not None and before.held is not after.held and (lost := before.held - after.held):
                actions.append(Release(member_id, lost))
            actions += self._arms(before, after)
            told = None if before is None else (before.epoch, before.assigned)
            if not after.away and (member_id in self._told or told != (after.epoch, after.assigned)):
                tells.append(Tell(member_id, after.epoch, after.assigned))
        actions += tells
        actions += self._armed
        if self._wants and self.wanted_at is not None:
            actions.append(WantTarget(self.wanted_at))
        if self._steps:
            actions.append(WantSteps())
        return actions

    def _arms(self, before: Member | None, after: Member) -> list[Arm | Disarm]:
        """Its deadlines as far as they have changed, of which REVOKE is bound to its epoch, too."""
        were, are = NO_DEADLINES if before is None else before.deadlines, after.deadlines
        rebound = before is not None and before.epoch != after.epoch and after.revoke_at is not None
        if were == are and not rebound:
            return []
        changes: list[Arm | Disarm] = []
        for kind, was, at in zip(DEADLINES, were, are, strict=True):
            if at is None and was is not None:
                changes.append(Disarm(after.member_id, kind))
            elif at is not None and (at != was or (rebound and kind is Deadline.REVOKE)):
                changes.append(Arm(after.member_id, kind, after.epoch, at))
        return changes


def unknown(member_id: str) -> NoReturn:
    """Raise UnknownMemberError."""
    raise UnknownMemberError(
        f"the group has no member {shown(member_id)}: let go of everything and join with epoch 0",
        member_id=member_id,
    )
