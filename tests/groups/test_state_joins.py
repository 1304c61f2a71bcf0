"""The rows of the table of events that are about joining: the numbers are those of Kafka's issues."""

from __future__ import annotations

import pytest

from groups.support import FLOOR, RULES, SESSION_MS, Case, join, of, reading, settled
from takhin.errors import (
    GroupFullError,
    InstanceInUseError,
    InvalidArgumentError,
)
from takhin.groups.events import (
    Arm,
    Broken,
    Deadline,
    Disarm,
    Leave,
    Release,
    Tell,
    WantTarget,
)
from takhin.model import GroupState

ALL = of("t", 0, 1, 2, 3)


def test_a_new_group_begins_at_its_floor():
    """No epoch is 0, which means "joining", and none is one that a group of an earlier run had [21700]."""
    group = Case().group
    assert (group.epoch, group.target_epoch, group.state) == (FLOOR, FLOOR, GroupState.EMPTY)


def test_a_member_joins():
    """A new member has nothing yet, at the present target's epoch. G rises, and a target is wanted."""
    case = Case()
    case.do(join("a"))
    assert case.actions == [
        Arm("a", Deadline.SESSION, FLOOR, case.now + SESSION_MS),
        Tell("a", FLOOR, frozenset()),
        WantTarget(case.now + RULES.first_target_ms),
    ]
    assert (case.group.epoch, case.group.target_epoch) == (FLOOR + 1, FLOOR)
    assert case.group.state is GroupState.PREPARING_REBALANCE
    case.retarget()
    assert case.actions == [Tell("a", FLOOR + 1, ALL)]
    assert case.group.state is GroupState.STABLE


def test_the_first_members_of_a_group_share_its_first_target():
    """One that gets everything is slow to give it back, so a new group waits for others [20755]."""
    case = Case()
    case.do(join("a"))
    case.do(join("b"))
    assert case.of_type(WantTarget) == []
    case.retarget()
    assert {tell.member_id: len(tell.partitions) for tell in case.of_type(Tell)} == {"a": 2, "b": 2}


def test_an_empty_group_is_new_again():
    """The window is there for the first members after everybody had left, too."""
    case = settled("a")
    case.do(Leave("a"))
    case.do(join("b"))
    assert case.of_type(WantTarget) == [WantTarget(case.now + RULES.first_target_ms)]


def test_a_group_has_the_assignor_of_its_first_member():
    """What later members ask for does not count, until the group has been empty."""
    case = settled(join("a", assignor="range"), join("b", assignor="uniform"))
    assert case.group.assignor == "range"
    case.do(Leave("a"))
    assert case.group.assignor == "range"
    case.do(Leave("b"))
    case.do(join("c", assignor="uniform"))
    assert case.group.assignor == "uniform"


def test_a_group_is_full():
    """Above its limit a group takes no new member. One that is in it may come back."""
    case = settled("a", "b", "c", "d")
    before = case.group
    with pytest.raises(GroupFullError, match="has 4 members"):
        case.do(join("e"))
    assert case.group is before
    case.do(join("a"))
    case.do(join("b", epoch=case.member("b").epoch, owned=case.member("b").assigned))


def test_who_joins_with_0_owns_nothing():
    """A member that joins from the start and names partitions contradicts itself."""
    with pytest.raises(InvalidArgumentError):
        Case().do(join("a", owned=of("t", 0)))


def test_a_member_whose_answer_was_lost_joins_again():
    """A known member that joins with 0 keeps its place, and hears again what it may hold [21305]."""
    case = settled("a", "b")
    member, epoch = case.member("a"), case.group.epoch
    case.do(Broken("a"))
    case.do(join("a"))
    assert case.of_type(Tell) == [Tell("a", member.epoch, member.assigned)]
    assert case.of_type(Disarm) == [Disarm("a", Deadline.REJOIN)]
    assert case.group.epoch == epoch


def test_who_joins_with_0_has_let_go():
    """What a known member was to let go of is free when it joins with 0: it holds nothing [21305]."""
    case = settled("a")
    case.do(join("b"))
    case.retarget()
    revoking = case.member("a").revoking
    assert len(revoking) == 2
    case.do(join("a"))
    assert case.of_type(Release) == [Release("a", revoking)]
    assert case.told("b") == revoking
    assert case.group.state is GroupState.STABLE


def test_a_static_member_is_not_refused_by_its_own_instance():
    """A known static member that joins with 0 is not kept out by itself [23542]."""
    case = settled(join("a", instance_id="i"))
    case.do(join("a", instance_id="i"))
    assert case.told("a") == ALL


@pytest.mark.parametrize(("first", "then"), [("i", "j"), ("i", ""), ("", "i")])
def test_a_member_does_not_change_its_instance(first, then):
    """A known member that comes with another instance than before is refused."""
    case = settled(join("a", instance_id=first))
    with pytest.raises(InvalidArgumentError, match="joined as instance"):
        case.do(join("a", instance_id=then))


def test_a_known_member_may_join_for_other_topics():
    """Joining with 0 and another subscription counts as a change of that."""
    case = settled("a")
    case.do(join("a", reading("u")))
    assert case.group.epoch == case.group.target_epoch + 1
    assert case.told("a") == frozenset()
    case.retarget()
    assert case.told("a") == of("u", 0, 1)


def test_a_living_instance_refuses_a_newcomer():
    """The second program with an instance id is refused, also while the stream of the first is broken."""
    case = settled(join("a", instance_id="i"))
    case.do(Broken("a"))
    with pytest.raises(InstanceInUseError, match="instance 'i' is member 'a'"):
        case.do(join("b", instance_id="i"))
