"""How one member comes from what it has to what it is to have: a pure function, row by row as its table says.

| state | condition | next state | e | A | R |
|---|---|---|---|---|---|
| STABLE | e = T, nothing gone | same | | | |
| STABLE | e = T, topics gone from its subscription | UNREVOKED | e | keep | gone |
| | the same, and released(gone) | STABLE | e | keep | ∅ |
| UNREVOKED | not released(R) | UNREVOKED | e | less what is newly unsubscribed | R with it |
| UNREVOKED | released(R) | NEXT with e0 = min(e + 1, T) | | | |
| STABLE with e ≠ T; UNRELEASED | any | NEXT with e0 = e | | | |
| NEXT | gone ≠ ∅ and not released(gone) | UNREVOKED | e0 | keep | gone |
| NEXT | else blocked ≠ ∅ | UNRELEASED | T | keep and free | ∅ |
| NEXT | else | STABLE | T | keep and free | ∅ |

keep: what of A is wanted; gone: the rest of A; free: what else is wanted and nobody has, or the member itself
is letting go of; blocked: what is wanted and neither.

released(S): the member has said what it holds, and nothing of S is there. But what it said may have been sent
before it heard of its latest partitions. If those came with a new epoch, it did not bear that epoch, and does
not count. If they came without one, they are `unproven`, and what it says without naming them does not count
for them. A member that has to let go of some of those gets a new epoch with that, as soon as there is one.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import NamedTuple

from takhin.groups.changing import changed
from takhin.groups.group import NOTHING, Member, MemberState, Partitions
from takhin.model import TopicPartition


class Goal(NamedTuple):
    """Where the member is to go: its part of the target (of what it subscribes to), and T."""

    want: Partitions
    epoch: int


def reconcile(
    member: Member, goal: Goal, blocked: AbstractSet[TopicPartition], owned: Partitions | None
) -> Member:
    """The member after its next step towards the goal. The revoke deadline is the caller's business.

    blocked: those of the goal that are another member's own, or in which commits are under way.
    owned: what the member says it holds; None: it does not say.
    """

    def released(partitions: Partitions) -> bool:
        return owned is not None and owned.isdisjoint(partitions) and member.unproven.isdisjoint(partitions)

    e0, gone, keep = member.epoch, member.assigned - goal.want, member.assigned & goal.want
    if member.state is MemberState.STABLE and e0 == goal.epoch:
        if not gone:
            return member
        if released(gone):
            return _settled(member, e0, MemberState.STABLE, keep)
        return _revoking(member, e0, keep, gone)
    if member.state is MemberState.UNREVOKED:
        if not released(member.revoking):
            keep = member.subscription.of(member.assigned)
            revoking = member.revoking | (member.assigned - keep)
            return _revoking(member, _provable(member, revoking, goal.epoch), keep, revoking)
        e0 = min(e0 + 1, goal.epoch)
    if gone and not released(gone):
        return _revoking(member, max(e0, _provable(member, gone, goal.epoch)), keep, gone)
    missing = goal.want & (blocked - keep - member.revoking)
    state = MemberState.UNRELEASED if missing else MemberState.STABLE
    return _settled(member, goal.epoch, state, goal.want - missing if missing else goal.want)


def _provable(member: Member, partitions: Partitions, target_epoch: int) -> int:
    """The epoch in which the member is told to let go: a new one where only that can prove that it did."""
    if member.epoch < target_epoch and not member.unproven.isdisjoint(partitions):
        return member.epoch + 1
    return member.epoch


def _revoking(member: Member, epoch: int, keep: Partitions, revoking: Partitions) -> Member:
    """The member with partitions to let go of. Each of them has been its own all along."""
    if (member.epoch, member.assigned, member.revoking) == (epoch, keep, revoking):
        return member
    held, since = keep | revoking, member.assigned_epochs
    if len(held) < len(since):
        since = {each: since[each] for each in held}
    return changed(
        member,
        epoch=epoch,
        state=MemberState.UNREVOKED,
        assigned=keep,
        revoking=revoking,
        assigned_epochs=since,
        unproven=member.unproven & held if epoch == member.epoch else NOTHING,
    )


def _settled(member: Member, epoch: int, state: MemberState, has: Partitions) -> Member:
    """The member with nothing to let go of. What it did not have before was assigned to it in this epoch."""
    if (member.epoch, member.state, member.assigned) == (epoch, state, has):
        return member
    kept = member.assigned & has
    given = has - kept
    since = member.assigned_epochs
    if len(kept) < len(since):
        since = {each: since[each] for each in kept}
    if given:
        since = {**since, **dict.fromkeys(given, epoch)}
    return changed(
        member,
        epoch=epoch,
        state=state,
        assigned=has,
        revoking=NOTHING,
        assigned_epochs=since,
        unproven=(member.unproven & has) | given if epoch == member.epoch else NOTHING,
    )
