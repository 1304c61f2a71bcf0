"""Static members, as in the table of events; the numbers are those of Kafka's issues."""

from __future__ import annotations

import pytest

from groups.support import FLOOR, SESSION_MS, join, of, reading, settled
from takhin.errors import (
    FencedMemberError,
    UnknownMemberError,
)
from takhin.groups.assignors import assign
from takhin.groups.events import (
    Arm,
    Broken,
    CommitsEnded,
    Deadline,
    DeadlinePassed,
    Disarm,
    Heartbeat,
    Leave,
    Release,
    Remove,
    Subscribe,
    Tell,
)
from takhin.groups.group import AWAY, MemberState
from takhin.groups.state import may_commit
from takhin.model import GroupState

ALL = of("t", 0, 1, 2, 3)


def test_leaving_for_a_restart_keeps_everything():
    """A static member that is to be back leaves without a rebalance, and its session's deadline stays."""
    case = settled(join("a", instance_id="i"), "b")
    before, epoch = case.member("a"), case.group.epoch
    case.do(Leave("a", keep_for_restart=True))
    after = case.member("a")
    assert case.actions == []
    assert (after.epoch, after.assigned, after.session_at) == (AWAY, before.assigned, before.session_at)
    assert case.group.epoch == epoch
    assert may_commit(case.group, "a", before.epoch, before.assigned) == before.assigned


def test_a_target_waits_for_one_that_is_away():
    """A target made meanwhile leaves it what it has; the others wait for it to come back and let go."""
    case = settled(join("a", instance_id="i"))
    case.do(Leave("a", keep_for_restart=True))
    case.do(join("b"))
    case.retarget()
    assert (case.member("a").epoch, case.member("a").assigned) == (AWAY, ALL)
    assert case.told("a") is None
    assert case.told("b") == frozenset()
    case.do(join("a", instance_id="i"))
    assert len(case.told("a")) == len(case.told("b")) == 2
    assert case.group.state is GroupState.STABLE


def test_leaving_for_a_restart_frees_what_was_to_be_let_go_of():
    """R of a static member that leaves for a restart goes to whoever waits for it."""
    case = settled(join("a", instance_id="i"))
    case.do(join("b"))
    case.retarget()
    revoking = case.member("a").revoking
    case.do(Leave("a", keep_for_restart=True))
    assert case.told("b") == revoking
    assert case.of_type(Disarm) == [Disarm("a", Deadline.REVOKE)]


def test_a_member_without_an_instance_leaves_for_good():
    """Only a static member can be known when it comes back."""
    case = settled("a", "b")
    case.do(Leave("a", keep_for_restart=True))
    assert "a" not in case.group.members


def test_a_static_member_comes_back_under_another_id():
    """The new id takes A, the target and the epochs; G stays, so nobody else notices [22036]."""
    case = settled(join("a", instance_id="i"), "b")
    before, epoch = case.member("a"), case.group.epoch
    case.do(Leave("a", keep_for_restart=True))
    case.do(join("a2", instance_id="i"))
    after = case.member("a2")
    assert "a" not in case.group.members
    assert after.assigned == before.assigned
    assert after.assigned_epochs == before.assigned_epochs
    assert (case.group.epoch, case.group.state) == (epoch, GroupState.STABLE)
    assert case.actions == [
        Release("a", before.assigned),
        Remove("a", None),
        Arm("a2", Deadline.SESSION, epoch, case.now + SESSION_MS),
        Tell("a2", epoch, before.assigned),
    ]
    assert may_commit(case.group, "a", before.epoch, before.assigned) == before.assigned
    assert may_commit(case.group, "a2", epoch, before.assigned) == frozenset()


def test_a_static_member_comes_back_for_other_topics():
    """G rises if the subscription has changed over the restart [22036]."""
    case = settled(join("a", instance_id="i"), "b")
    epoch = case.group.epoch
    case.do(Leave("a", keep_for_restart=True))
    case.do(join("a2", reading("u"), instance_id="i"))
    assert case.group.epoch == epoch + 1
    assert case.told("a2") == frozenset()


def test_a_static_member_comes_back_under_its_own_id():
    """One that knows its id from before joins with 0 as anybody does, and gets back what it had."""
    case = settled(join("a", instance_id="i"), "b")
    before = case.member("a")
    case.do(Leave("a", keep_for_restart=True))
    case.do(join("a", instance_id="i"))
    assert case.told("a") == before.assigned
    assert case.member("a").epoch == before.epoch


def test_a_static_member_comes_back_while_a_target_is_made():
    """A target that names the id from before is the new id's: the instance is the same."""
    case = settled(join("a", instance_id="i"), "b")
    case.do(join("c"))
    late = assign(case.group)
    case.do(Leave("a", keep_for_restart=True))
    case.do(join("a2", instance_id="i"))
    kept = case.member("a2").assigned & late.target["a"]
    case.do(late)
    assert kept
    assert kept <= case.member("a2").assigned
    assert case.group.target["a2"] == late.target["a"]


def test_a_restart_does_not_overtake_commits():
    """The new id gets a partition when the commits of the old id that are under way there have ended."""
    case = settled(join("a", instance_id="i"))
    case.do(Leave("a", keep_for_restart=True))
    case.do(join("a2", instance_id="i"), busy=of("t", 1))
    assert case.told("a2") == of("t", 0, 2, 3)
    assert case.member("a2").state is MemberState.UNRELEASED
    case.do(CommitsEnded(of("t", 1)))
    assert case.told("a2") == ALL


def test_an_instance_that_does_not_come_back_is_removed():
    """After its session a static member that left for a restart is removed as any other."""
    case = settled(join("a", instance_id="i"), "b")
    case.do(Leave("a", keep_for_restart=True))
    case.do(DeadlinePassed("a", Deadline.SESSION, FLOOR), after_ms=SESSION_MS)
    assert "a" not in case.group.members
    case.retarget()
    assert case.told("b") == ALL


@pytest.mark.parametrize("event", [Subscribe("a", reading("u")), Heartbeat("a", AWAY)])
def test_who_is_away_says_nothing(event):
    """A stream of a member that has left for a restart is not its stream."""
    case = settled(join("a", instance_id="i"))
    case.do(Leave("a", keep_for_restart=True))
    with pytest.raises((UnknownMemberError, FencedMemberError)):
        case.do(event)
    case.do(Broken("a"))
    assert case.actions == []
