"""The rows of the table of events that are about joining: the numbers are those of Kafka's issues."""

from __future__ import annotations

import pytest

from groups.support import FLOOR, RULES, SESSION_MS, Case, join, of, reading, settled
from takhin.errors import (
    FencedMemberError,
    GroupFullError,
    InstanceInUseError,
    InvalidArgumentError,
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
    WantTarget,
)
from takhin.groups.group import AWAY, MemberState
from takhin.groups.state import may_commit
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


def test_a_member_comes_back_on_a_new_stream():
    """With its epoch and what it holds it keeps everything: a broken stream is not a leave."""
    case = settled("a", "b")
    member, group = case.member("a"), case.group
    case.do(Broken("a"))
    assert case.actions == [Arm("a", Deadline.REJOIN, member.epoch, case.now + RULES.rejoin_ms)]
    assert case.group.state is GroupState.STABLE
    case.do(join("a", epoch=member.epoch, owned=member.assigned))
    assert case.of_type(Tell) == [Tell("a", member.epoch, member.assigned)]
    assert (case.group.epoch, case.group.target_epoch) == (group.epoch, group.target_epoch)


def test_a_member_that_does_not_come_back_is_removed():
    """After rejoin_ms a member with a broken stream is removed, and a join with its epoch is refused."""
    case = settled("a", "b")
    member = case.member("a")
    case.do(Broken("a"))
    case.do(DeadlinePassed("a", Deadline.REJOIN, member.epoch), after_ms=RULES.rejoin_ms)
    (removed,) = case.of_type(Remove)
    assert isinstance(removed.error, FencedMemberError)
    with pytest.raises(UnknownMemberError, match="join with epoch 0"):
        case.do(join("a", epoch=member.epoch, owned=member.assigned))


def test_a_member_comes_back_that_missed_assignments():
    """What was sent on the broken stream is lost, so it may come with an epoch from before that."""
    case = settled("a")
    member = case.member("a")
    for newcomer in ("b", "c"):
        case.do(join(newcomer, reading("u")))
        case.retarget()
    assert case.member("a").epoch == member.epoch + 2
    case.do(Broken("a"))
    case.do(join("a", epoch=member.epoch, owned=member.assigned))
    assert case.of_type(Tell) == [Tell("a", member.epoch + 2, ALL)]
    assert case.member("a").heard == member.epoch


def test_what_a_member_holds_when_it_comes_back_is_true_at_any_epoch():
    """Nothing sent before can arrive after it, so what it does not hold is free, whatever its epoch."""
    case = settled("a")
    case.do(join("b"))
    case.retarget()
    case.do(Broken("a"))
    case.do(join("a", epoch=case.member("a").heard, owned=case.member("a").assigned))
    assert case.group.state is GroupState.STABLE


def test_what_a_member_holds_when_it_comes_back_is_all_that_it_was_sent():
    """What came without a new epoch before the stream broke is free if the member does not hold it."""
    case = settled("a")
    case.do(join("b"))
    case.retarget()
    case.beat("a", case.member("a").assigned)
    unproven = case.told("b")
    assert case.member("b").unproven == unproven
    case.do(Subscribe("b", reading("u")))
    assert case.member("b").revoking == unproven
    case.beat("b", frozenset())
    assert case.member("b").revoking == unproven
    case.do(join("b", reading("u"), epoch=case.member("b").epoch))
    assert case.member("b").revoking == frozenset()


@pytest.mark.parametrize("epoch", [FLOOR, FLOOR + 9, 7, -1, AWAY])
def test_a_member_comes_back_with_an_epoch_that_is_not_its_own(epoch):
    """It is fenced, and joins with 0 then."""
    case = settled("a", "b")
    before = case.group
    with pytest.raises(FencedMemberError):
        case.do(join("a", epoch=epoch, owned=of("t", 0)))
    assert case.group is before


def test_a_newcomer_does_not_take_an_instance_with_an_epoch():
    """Only who joins from the start takes the place of an instance that has left for a restart."""
    case = settled(join("a", instance_id="i"))
    case.do(Leave("a", keep_for_restart=True))
    with pytest.raises(UnknownMemberError):
        case.do(join("b", instance_id="i", epoch=FLOOR + 1, owned=of("t", 0)))
