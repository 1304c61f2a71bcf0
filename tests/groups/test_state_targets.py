"""Targets, leaving and deadlines, as in the table of events; the numbers are those of Kafka's issues."""

from __future__ import annotations

from dataclasses import replace

from groups.support import (
    FLOOR,
    REVOKE_MS,
    RULES,
    SESSION_MS,
    Case,
    join,
    of,
    reading,
    settled,
    with_unheard_epochs,
)
from takhin.groups.assignors import assign
from takhin.groups.events import (
    Arm,
    Broken,
    Deadline,
    DeadlinePassed,
    Disarm,
    Leave,
    Release,
    Remove,
    StepsDue,
    Subscribe,
    TargetMade,
    Tell,
    WantSteps,
    WantTarget,
)
from takhin.groups.group import MemberState
from takhin.groups.state import may_commit
from takhin.model import GroupState

ALL = of("t", 0, 1, 2, 3)


# Targets.


def test_targets_are_made_at_intervals():
    """The first change is followed at once, the next ones together after the interval."""
    case = settled("a")
    case.do(join("b"), after_ms=1_000)
    assert case.of_type(WantTarget) == [WantTarget(case.now)]
    case.retarget()
    made = case.now
    case.do(join("c"))
    assert case.of_type(WantTarget) == [WantTarget(made + RULES.target_interval_ms)]
    case.do(join("d"))
    assert case.of_type(WantTarget) == []


def test_a_target_for_an_older_epoch():
    """The group has changed while a target was made: T is the epoch that it is for, and another is wanted."""
    case = settled("a")
    case.do(join("b"))
    late = assign(case.group)
    case.do(join("c"))
    case.do(late)
    assert (case.group.target_epoch, case.group.epoch) == (late.epoch, late.epoch + 1)
    assert case.of_type(WantTarget) == [WantTarget(case.now + RULES.target_interval_ms)]
    assert case.told("c") == frozenset()


def test_a_target_that_comes_too_late():
    """A target that is not newer than the present one changes nothing."""
    case = settled("a", "b")
    before = case.group
    case.do(TargetMade(before.target_epoch, {"a": ALL}))
    assert (case.group, case.actions) == (before, [])


def test_a_target_for_one_that_has_left():
    """Its partitions are nobody's until the next target."""
    case = settled("a", "b")
    case.do(join("c", reading("u")))
    late = assign(case.group)
    case.do(Leave("b"))
    case.do(late)
    assert case.group.target.keys() == {"a", "c"}
    case.rest()
    assert case.member("a").assigned == ALL


def test_a_target_made_before_the_subscription_changed():
    """Of a target only that counts which the member reads now."""
    case = settled("a")
    case.do(join("b"))
    late = assign(case.group)
    case.do(Subscribe("a", reading("u")))
    case.do(late)
    assert case.group.target["a"] == frozenset()


def test_a_large_group_follows_some_at_a_time():
    """A new target lets some members take their next step, and the others when they are asked to."""
    case = Case(partitions=8, rules=replace(RULES, steps_at_once=3, members_max=8))
    for number in range(8):
        case.do(join(f"m{number}"))
    told = [case.retarget()]
    assert case.group.behind == tuple(f"m{number}" for number in range(3, 8))
    case.do(Leave("m4"))
    while case.group.behind:
        assert WantSteps() in told[-1]
        told.append(case.do(StepsDue()))
    assert [sum(isinstance(each, Tell) for each in actions) for actions in told] == [3, 2, 2]
    assert WantSteps() not in told[-1]
    assert case.group.owner.keys() == {each for part in case.group.target.values() for each in part}
    assert case.do(StepsDue()) == []


def test_members_that_come_and_go():
    """However often others come and go, the group comes to rest, and nobody loses all that it has."""
    case = settled("a", "b")
    for number in range(200):
        case.do(join(f"c{number}"))
        if number % 2:
            case.rest()
            assert case.group.state is GroupState.STABLE
            assert case.member("a").assigned
            assert case.member("b").assigned
        case.do(Leave(f"c{number}"))
    case.rest()
    assert case.group.state is GroupState.STABLE
    assert case.group.owner.keys() == ALL


# Leaving and deadlines.


def test_a_member_leaves():
    """What was its own is free at once; G rises."""
    case = settled("a", "b")
    has, epoch = case.member("a").assigned, case.group.epoch
    case.do(Leave("a"), after_ms=100)
    assert case.actions == [Release("a", has), Remove("a", None), WantTarget(case.now)]
    assert case.group.epoch == epoch + 1
    assert may_commit(case.group, "a", epoch, has) == has
    case.retarget()
    assert case.told("b") == ALL


def test_the_last_member_leaves():
    """There is nothing to make a target of: T = G [22045]."""
    case = settled("a")
    case.do(Leave("a"))
    assert case.group.state is GroupState.EMPTY
    assert case.group.epoch == case.group.target_epoch
    assert case.of_type(WantTarget) == []
    assert case.group.target == {}


def test_what_a_leaver_had_goes_to_who_waits():
    """A member that waits for another's partitions gets them in the step in which that one leaves [15364]."""
    case = settled("a")
    case.do(join("b"))
    case.retarget()
    assert case.member("b").state is MemberState.UNRELEASED
    had = case.member("a").revoking
    case.do(Leave("a"))
    assert case.told("b") == had
    assert case.actions.index(Release("a", ALL)) < case.actions.index(Tell("b", case.member("b").epoch, had))


def test_a_session_passes():
    """A member without a sign of life is removed as if it had left. A sign of life meanwhile saves it."""
    case = settled("a", "b")
    armed = case.member("a").session_at
    case.beat("a")
    case.do(DeadlinePassed("a", Deadline.SESSION, FLOOR), after_ms=armed - case.now)
    assert case.actions == [
        Arm("a", Deadline.SESSION, case.member("a").epoch, case.member("a").session_at),
    ]
    case.do(DeadlinePassed("a", Deadline.SESSION, FLOOR), after_ms=case.member("a").session_at - case.now)
    (removed,) = case.of_type(Remove)
    assert "no sign of life for 45000 ms" in str(removed.error)
    assert case.group.epoch == case.group.target_epoch + 1


def test_a_session_is_not_bound_to_an_epoch():
    """A member that has died does not live on because it is sent new epochs."""
    case, epoch = with_unheard_epochs(2)
    case.do(DeadlinePassed("a", Deadline.SESSION, epoch), after_ms=SESSION_MS)
    assert "a" not in case.group.members


def test_a_member_does_not_let_go_in_time():
    """A member that never says that it has let go is removed, and its partitions go on."""
    case = settled("a")
    case.do(join("b"))
    case.retarget()
    (arm,) = [arm for arm in case.of_type(Arm) if arm.kind is Deadline.REVOKE]
    assert arm == Arm("a", Deadline.REVOKE, case.member("a").epoch, case.now + REVOKE_MS)
    waits_for = case.member("a").revoking
    for _ in range(3):
        case.beat("a")
    case.do(DeadlinePassed("a", Deadline.REVOKE, arm.epoch), after_ms=REVOKE_MS)
    (removed,) = case.of_type(Remove)
    assert "has not let go" in str(removed.error)
    assert case.told("b") == waits_for


def test_a_revoke_deadline_stays_when_there_is_more_to_let_go_of():
    """A member that is asked for more and more does not get more and more time."""
    case = settled(join("a", reading("t", "u")))
    case.do(join("b"))
    case.retarget()
    deadline = case.member("a").revoke_at
    case.do(Subscribe("a", reading("t")))
    assert case.member("a").revoking & of("u", 0, 1)
    assert case.member("a").revoke_at == deadline
    assert [arm for arm in case.of_type(Arm) if arm.kind is Deadline.REVOKE] == []


def test_a_revoke_deadline_of_another_epoch_means_nothing():
    """A deadline counts only if the member still has the epoch that it was armed with."""
    case = settled("a")
    case.do(join("b"))
    case.retarget()
    armed = case.member("a").epoch
    case.beat("a", case.member("a").assigned)
    assert case.of_type(Disarm) == [Disarm("a", Deadline.REVOKE)]
    case.do(join("c"))
    case.retarget()
    assert case.member("a").state is MemberState.UNREVOKED
    before = case.group
    case.do(DeadlinePassed("a", Deadline.REVOKE, armed), after_ms=REVOKE_MS)
    assert (case.group, case.actions) == (before, [])


def test_a_deadline_for_nothing():
    """A deadline of a member that has left, or that was disarmed, means nothing."""
    case = settled("a")
    before = case.group
    case.do(DeadlinePassed("x", Deadline.SESSION, FLOOR))
    case.do(DeadlinePassed("a", Deadline.REJOIN, FLOOR), after_ms=10**9)
    case.do(DeadlinePassed("a", Deadline.REVOKE, case.member("a").epoch), after_ms=10**9)
    assert (case.group, case.actions) == (before, [])


def test_the_stream_of_a_stranger_breaks():
    """A stream may break after its member was removed."""
    case = settled("a")
    case.do(Broken("x"))
    assert case.actions == []
