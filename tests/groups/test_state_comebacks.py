"""Members that come back on a new stream after theirs broke."""

from __future__ import annotations

import pytest

from groups.support import FLOOR, RULES, Case, join, of, reading, settled
from takhin.errors import (
    FencedMemberError,
    UnknownMemberError,
)
from takhin.groups.events import (
    Arm,
    Broken,
    Deadline,
    DeadlinePassed,
    Heartbeat,
    Leave,
    Remove,
    Subscribe,
    TargetMade,
    Tell,
)
from takhin.groups.group import AWAY
from takhin.model import GroupState

ALL = of("t", 0, 1, 2, 3)


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


def test_coming_back_is_a_sign_of_life():
    """The session begins again, as long as the join says."""
    case = settled("a")
    member = case.member("a")
    case.do(Broken("a"))
    case.do(join("a", epoch=member.epoch, owned=member.assigned, session_timeout_ms=7_000))
    assert Arm("a", Deadline.SESSION, member.epoch, case.now + 7_000) in case.actions


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


@pytest.mark.parametrize("how", ["from the start", "with its epoch", "as its instance", "after a restart"])
def test_who_joins_has_not_heard_yet_what_it_may_hold(how):
    """Its first answer has its epoch, so it may name that and own nothing before it hears of partitions.

    If they are taken away again meanwhile, that does not count as letting go of them.
    """
    case, one = settled("a", join("b", instance_id="i")), "b"
    others, epoch = case.member("a").assigned, case.member("b").epoch
    if how == "as its instance":
        case.do(Leave("b", keep_for_restart=True))
        one = "b2"
    if how == "after a restart":
        case = Case(quiet_until=9)
        case.do(join("a", epoch=7, owned=others, returning=True))
        case.do(join("b", epoch=7, owned=ALL, returning=True, instance_id="i"))
        case.do(Broken("b"))
    given = {"epoch": epoch} if how == "with its epoch" else {"epoch": 7} if how == "after a restart" else {}
    case.do(join(one, instance_id="i", **given))
    has = case.told(one)
    assert len(has) == 2
    heard = Heartbeat(one, case.member(one).epoch, frozenset())
    case.do(join("c", reading("t")))
    case.do(TargetMade(case.group.epoch, {"a": others, "c": has}))
    case.do(heard)
    assert case.member(one).revoking == has
    assert case.told("c") is None
    case.beat(one, frozenset())
    assert case.told("c") == has


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
