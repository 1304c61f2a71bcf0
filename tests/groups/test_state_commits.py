"""The rows of the table of events on commits, and coming back after a restart of the broker."""

from __future__ import annotations

import pytest

from groups.support import (
    FLOOR,
    Case,
    join,
    of,
    settled,
    with_unheard_epochs,
)
from takhin.errors import FencedMemberError, InstanceInUseError, UnknownMemberError
from takhin.groups.events import (
    Broken,
    CommitsEnded,
    Heartbeat,
    Leave,
    Release,
    Remove,
    TargetMade,
    WantTarget,
)
from takhin.groups.state import may_commit
from takhin.model import GroupState

ALL = of("t", 0, 1, 2, 3)


# Commits.


def test_an_owner_commits_at_each_epoch_since_it_was_assigned():
    """Equality alone would refuse rightful owners, whose commit crosses a new epoch [18409, KIP-1251]."""
    case, epoch = with_unheard_epochs(2)
    for since in range(3):
        assert may_commit(case.group, "a", epoch + since, ALL) == frozenset()
    assert may_commit(case.group, "a", epoch - 1, ALL) == ALL
    assert may_commit(case.group, "a", epoch + 3, ALL) == ALL


def test_commits_are_judged_by_partition():
    """What the member does not own is refused by name, and what came to it after that epoch."""
    case = settled("a", "b")
    old, kept = case.member("a").epoch, case.member("a").assigned
    others = case.member("b").assigned
    assert may_commit(case.group, "a", old, ALL) == others
    case.do(Leave("b"))
    case.retarget()
    assert may_commit(case.group, "a", old, ALL) == others
    assert may_commit(case.group, "a", case.member("a").epoch, ALL) == frozenset()
    assert kept == ALL - others


def test_an_owner_commits_what_it_lets_go_of():
    """A partition is the member's own until it has said that it let go of it."""
    case = settled("a")
    case.do(join("b"))
    case.retarget()
    epoch, revoking = case.member("a").epoch, case.member("a").revoking
    assert may_commit(case.group, "a", epoch, revoking) == frozenset()
    case.beat("a", case.member("a").assigned)
    assert may_commit(case.group, "a", epoch, revoking) == revoking


def test_no_commit_overtakes_a_hand_over():
    """A partition goes on when the commits that its former owner has under way there have ended."""
    case = settled("a")
    case.do(join("b"))
    case.retarget()
    busy, free = sorted(case.member("a").revoking)
    case.beat("a", case.member("a").assigned, busy=frozenset([busy]))
    assert case.of_type(Release) == [Release("a", frozenset([busy, free]))]
    assert case.told("b") == {free}
    case.beat("b", case.member("b").assigned, busy=frozenset([busy]))
    assert case.told("b") is None
    case.do(CommitsEnded(frozenset([busy])))
    assert case.told("b") == {busy, free}
    assert case.group.state is GroupState.STABLE


def test_commits_under_way_hold_nobody_up():
    """Only the hand-over waits: the owner keeps a partition in which it commits, and gets it back, too."""
    case = settled("a", "b")
    case.do(join("c"))
    case.retarget(busy=ALL)
    case.do(Leave("c"), busy=ALL)
    case.retarget(busy=ALL)
    for one in "ab":
        case.beat(one, case.member(one).assigned, busy=ALL)
    assert case.group.state is GroupState.STABLE
    assert case.member("a").assigned | case.member("b").assigned == ALL


# After a restart of the broker.


def restarted(**given: object) -> Case:
    """The group of a broker that has just started."""
    return Case(quiet_until=3_000, **given)


def comes_back(member_id: str, *numbers: int, **given: object):
    return join(member_id, epoch=7, owned=of("t", *numbers), returning=True, **given)


def test_members_come_back_after_a_restart():
    """Who comes back has what it held, at an epoch of the new run; the first target leaves it that way."""
    case = restarted()
    case.do(comes_back("a", 0, 3))
    case.do(comes_back("b", 1))
    case.do(comes_back("c", 2))
    assert case.of_type(WantTarget) == []
    assert case.group.wanted_at == 3_000
    assert case.told("c") == of("t", 2)
    before = {one: case.member(one).assigned for one in "abc"}
    assert before["a"] == of("t", 0, 3)
    assert all(case.member(one).epoch == FLOOR for one in "abc")
    assert may_commit(case.group, "a", FLOOR, of("t", 0, 3)) == frozenset()
    assert may_commit(case.group, "a", 7, of("t", 0, 3)) == of("t", 0, 3)
    case.retarget()
    assert case.group.state is GroupState.STABLE
    assert {one: case.member(one).assigned for one in "abc"} == before
    assert not case.of_type(Release)


def test_the_first_comes_first():
    """A member comes back without what another has, what does not exist, and what it does not read."""
    case = restarted()
    case.do(comes_back("a", 0, 1, 9))
    case.do(join("b", epoch=7, owned=of("t", 1, 2) | of("u", 0), returning=True))
    assert case.told("b") == of("t", 2)
    case.rest()
    assert case.group.owner.keys() == ALL


def test_a_zombie_of_the_former_run():
    """A member that was fenced before the restart keeps nothing once the owner has come back, nor gets it."""
    zombie = join("zombie", epoch=6, owned=of("t", 0, 1), returning=True)
    case = restarted()
    case.do(zombie)
    assert case.told("zombie") == of("t", 0, 1)
    case.do(comes_back("owner", 1, 2))
    assert case.told("owner") == of("t", 1, 2)
    (removed,) = case.of_type(Remove)
    assert (removed.member_id, type(removed.error)) == ("zombie", FencedMemberError)
    assert [release.partitions for release in case.of_type(Release)] == [of("t", 0, 1)]
    before = case.group
    with pytest.raises(UnknownMemberError):
        case.do(zombie)
    assert case.group is before
    case.do(comes_back("other", 0))
    case.retarget(after_ms=3_000)
    case.rest()
    assert case.group.owner.keys() == ALL


def test_newcomers_wait_for_those_who_come_back():
    """A new member within that time gets nothing before the first target."""
    case = restarted()
    case.do(join("n"))
    assert case.of_type(WantTarget) == [WantTarget(3_000)]
    case.do(comes_back("a", 0, 1, 2, 3))
    assert case.told("a") == ALL
    case.retarget(after_ms=3_000)
    case.rest()
    assert len(case.member("n").assigned) == len(case.member("a").assigned) == 2


def test_who_comes_back_too_late_joins_from_the_start():
    """After the first target, or with an epoch of this run, nobody is taken with what it holds."""
    case = restarted()
    with pytest.raises(UnknownMemberError):
        case.do(join("a", epoch=FLOOR, owned=of("t", 0), returning=True))
    case.do(comes_back("a", 0))
    case.retarget(after_ms=3_000)
    with pytest.raises(UnknownMemberError):
        case.do(comes_back("b", 1))


def test_a_member_comes_back_twice_after_a_restart():
    """Its answer was lost, so it has the epoch from before still, and may hold what another has now."""
    case = restarted()
    case.do(comes_back("a", 0, 1))
    case.do(comes_back("b", 1, 2))
    case.do(Broken("b"))
    case.do(comes_back("b", 1, 2))
    assert case.told("b") == of("t", 2)
    case.do(Heartbeat("b", FLOOR, of("t", 2)))
    with pytest.raises(FencedMemberError):
        case.do(comes_back("b", 2))


def test_a_static_member_comes_back_after_a_restart():
    """Its instance is taken from then on."""
    case = restarted()
    case.do(comes_back("a", 0, 1, instance_id="i"))
    with pytest.raises(InstanceInUseError):
        case.do(comes_back("b", 2, instance_id="i"))
    assert case.member("a").assigned == of("t", 0, 1)


def test_who_comes_back_while_the_first_target_is_made():
    """What it holds and nobody else is given stays with it, though the target does not know it."""
    case = restarted()
    case.do(comes_back("a", 0))
    late = TargetMade(case.group.epoch, {"a": of("t", 0, 1)})
    case.do(comes_back("b", 1, 2))
    case.do(late)
    assert case.member("b").assigned == of("t", 2)
    assert case.member("b").revoking == of("t", 1)
