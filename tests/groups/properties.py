"""What must hold after every step: the properties of the issue, over the group, the books and the clients."""

from __future__ import annotations

from collections import Counter

from groups.world import World
from takhin.groups.events import Deadline
from takhin.groups.group import Group, Member, MemberState
from takhin.groups.state import may_commit


def check(world: World) -> None:
    check_group(world.group)
    for member_id, member in world.group.members.items():
        check_ownership(member)
        if not member.away:
            check_epochs(world.group, member)
        assert not may_commit(world.group, member_id, member.epoch, member.held) or member.away
        for each, epoch in member.assigned_epochs.items():
            who = member.instance_id or member_id
            assert world.owners.setdefault((each, epoch), who) == who, f"two owners of {each} in {epoch}"
    check_books(world)
    check_clients(world)


def check_group(group: Group) -> None:
    assert group.floor <= group.target_epoch <= group.epoch
    assert group.epoch == group.target_epoch or group.wanted_at is not None
    assert group.members or group.epoch == group.target_epoch
    assert group.target.keys() <= group.members.keys()
    owners = Counter(each for member in group.members.values() for each in member.held)
    assert set(owners.values()) <= {1}, f"partitions with two owners: {owners}"
    assert group.owner == {each: one for one, has in group.members.items() for each in has.held}


def check_ownership(member: Member) -> None:
    assert member.assigned.isdisjoint(member.revoking)
    assert member.assigned_epochs.keys() == member.held
    assert member.unproven <= member.held
    unrevoked = member.state is MemberState.UNREVOKED
    assert unrevoked == bool(member.revoking) == (member.revoke_at is not None)
    assert not member.away or member.state is MemberState.STABLE


def check_epochs(group: Group, member: Member) -> None:
    want = group.target.get(member.member_id, frozenset())
    assert want == member.subscription.of(want)
    assert member.heard <= member.epoch
    assert group.floor <= member.epoch <= group.target_epoch
    assert all(epoch <= member.epoch for epoch in member.assigned_epochs.values())
    if member.member_id in group.behind:
        return
    if member.epoch == group.target_epoch and member.state is MemberState.STABLE:
        assert member.assigned == want
    if member.state is MemberState.UNRELEASED:
        assert member.assigned < want


def check_books(world: World) -> None:
    """Actions alone lead to the same ownership and deadlines as the group has."""
    members = world.group.members
    assert {one: has for one, has in world.mirror.items() if has} == {
        one: set(member.held) for one, member in members.items() if member.held
    }
    assert {key: arm.at for key, arm in world.timers.items()} == {
        (one, kind): at
        for one, member in members.items()
        for kind, at in zip(Deadline, member.deadlines, strict=True)
        if at is not None
    }
    for (member_id, kind), arm in world.timers.items():
        assert kind is not Deadline.REVOKE or arm.epoch == members[member_id].epoch


def check_clients(world: World) -> None:
    """What a member's program holds is its own by the books, so no two hold the same."""
    for client in world.clients:
        if not client.ended:
            own = world.group.members[client.member_id].held
            assert client.held - client.strayed <= own, (client.member_id, client.held - own)
