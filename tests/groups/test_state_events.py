"""Heartbeats, subscriptions and topics, as in the table of events; the numbers are Kafka's issues."""

from __future__ import annotations

import pytest

from groups.support import (
    FLOOR,
    SESSION_MS,
    join,
    of,
    reading,
    settled,
    with_unheard_epochs,
)
from takhin.errors import FencedMemberError, UnknownMemberError
from takhin.groups.events import (
    Arm,
    CatalogueChanged,
    Deadline,
    Heartbeat,
    Leave,
    Release,
    Subscribe,
    Tell,
    WantTarget,
)
from takhin.groups.state import may_commit
from takhin.model import GroupState

ALL = of("t", 0, 1, 2, 3)


# Heartbeats.


def test_a_heartbeat_is_a_sign_of_life():
    """At the member's epoch it moves the session's deadline, and changes nothing else."""
    case = settled("a")
    before = case.member("a")
    case.beat("a")
    assert case.actions == [Arm("a", Deadline.SESSION, before.epoch, case.now + SESSION_MS)]
    assert case.member("a").assigned == before.assigned


@pytest.mark.parametrize("owned", [None, ALL, of("t", 1)])
@pytest.mark.parametrize("unheard", [1, 2])
def test_a_heartbeat_crosses_assignments(unheard, owned):
    """An epoch from before assignments that may be under way is a sign of life and no more."""
    case, epoch = with_unheard_epochs(unheard)
    before = case.member("a")
    case.do(Heartbeat("a", epoch, owned))
    after = case.member("a")
    assert after.epoch == epoch + unheard
    assert case.actions == [Arm("a", Deadline.SESSION, after.epoch, case.now + SESSION_MS)]
    assert (after.assigned, after.state) == (before.assigned, before.state)


def test_what_a_crossing_heartbeat_owns_is_not_let_go_of():
    """A member that names an old epoch may not know yet what it is to let go of: nothing comes free."""
    case, epoch = with_unheard_epochs(1)
    case.do(join("b"))
    case.retarget()
    revoking = case.member("a").revoking
    assert revoking
    case.do(Heartbeat("a", epoch, case.member("a").assigned))
    assert case.member("a").revoking == revoking
    assert case.of_type(Release) == []


def test_an_epoch_that_was_left_behind_is_fenced():
    """A member that has named an epoch does not go back behind it."""
    case, epoch = with_unheard_epochs(2)
    case.do(Heartbeat("a", epoch + 1))
    with pytest.raises(FencedMemberError):
        case.do(Heartbeat("a", epoch))
    case.do(Heartbeat("a", epoch + 1))


@pytest.mark.parametrize("epoch", [0, 1, -1, -2, FLOOR - 1, FLOOR + 50])
def test_any_other_epoch_is_fenced(epoch):
    """The member has to let go of everything and join with 0; the group is as it was."""
    case = settled("a")
    before = case.group
    with pytest.raises(FencedMemberError, match="join again with epoch 0"):
        case.do(Heartbeat("a", epoch))
    assert case.group is before


def test_owning_what_others_have_means_nothing():
    """What a member holds against the books does not become its own, nor keep it from living."""
    case = settled("a", "b")
    epoch, before = case.member("a").epoch, case.member("a")
    case.do(join("c", reading("u")))
    case.retarget()
    for said in (epoch, epoch + 1):
        case.do(Heartbeat("a", said, ALL))
        assert case.member("a").held == before.assigned
        assert may_commit(case.group, "a", said, case.member("b").assigned) == case.member("b").assigned


@pytest.mark.parametrize(
    "event", [Heartbeat("x", FLOOR), Subscribe("x", reading("t")), Leave("x"), join("x", epoch=FLOOR)]
)
def test_an_unknown_member_is_refused(event):
    """Whoever is not in the group has to join with 0 first."""
    with pytest.raises(UnknownMemberError, match="no member 'x'"):
        settled("a").do(event)


# Subscriptions and topics.


def test_a_subscription_changes():
    """G rises once, what is read no more is let go of at once, the rest at the next target."""
    case = settled("a")
    epoch = case.group.epoch
    case.do(Subscribe("a", reading("u")))
    assert case.group.epoch == epoch + 1
    assert case.member("a").revoking == ALL
    assert case.of_type(WantTarget) == [WantTarget(max(case.now, case.group.target_at + 50))]
    case.beat("a", frozenset())
    case.retarget()
    assert case.told("a") == of("u", 0, 1)


@pytest.mark.parametrize(
    "same",
    [reading("t"), reading("t", pattern="nothing"), reading(pattern="t.*", matched=["t"])],
    ids=["repeated", "with a pattern", "by a pattern"],
)
def test_a_subscription_that_names_the_same_changes_nothing(same):
    """Only what really differs makes a new target, not each time that it is said [21721]."""
    case = settled("a")
    epoch = case.group.epoch
    case.do(Subscribe("a", same))
    assert case.group.epoch == epoch
    assert case.of_type(WantTarget) == case.of_type(Tell) == []
    assert case.member("a").subscription == same


def test_topics_get_more_partitions():
    """G rises once for a change of a topic that is read, and only then."""
    case = settled("a", "b")
    epoch = case.group.epoch
    case.do(CatalogueChanged({"t": 4, "u": 9, "v": 1}))
    assert case.group.epoch == epoch
    case.do(CatalogueChanged({"t": 6, "u": 9, "v": 1}))
    case.do(CatalogueChanged({"t": 6, "u": 9, "v": 1}))
    assert case.group.epoch == epoch + 1
    kept = {one: case.member(one).assigned for one in "ab"}
    case.rest()
    assert all(kept[one] < case.member(one).assigned for one in "ab")


def test_a_topic_that_does_not_exist_yet():
    """A member may wait for a topic. When it comes, its partitions are given out."""
    case = settled(join("a", reading("later")))
    assert case.member("a").assigned == frozenset()
    case.do(CatalogueChanged({"later": 2}))
    case.retarget()
    assert case.told("a") == of("later", 0, 1)


def test_a_topic_vanishes():
    """Its partitions are let go of with the next target, and the group comes to rest without it."""
    case = settled("a", "b")
    case.do(CatalogueChanged({}))
    case.retarget()
    assert case.told("a") == case.told("b") == frozenset()
    case.rest()
    assert case.group.state is GroupState.STABLE
    assert not case.group.owner


def test_a_pattern_matches_other_names():
    """What a pattern matches now is what its members read; what it matches no more is let go of at once."""
    case = settled(join("a", reading(pattern="[tu]", matched=["t"])), join("b", reading("t")))
    epoch, matches = case.group.epoch, {"[tu]": frozenset(["u"])}
    lost = case.member("a").assigned
    case.do(CatalogueChanged(case.group.catalogue, matches))
    assert case.group.epoch == epoch + 1
    assert case.member("a").revoking == lost
    case.do(CatalogueChanged(case.group.catalogue, matches))
    assert case.group.epoch == epoch + 1
    case.rest()
    assert case.member("a").assigned == of("u", 0, 1)
    assert case.member("b").assigned == ALL


def test_a_member_that_reads_nothing():
    """A member without topics is in the group, at rest, and in nobody's way."""
    case = settled("a", join("b", reading()))
    assert (case.member("a").assigned, case.member("b").assigned) == (ALL, frozenset())
    assert case.group.state is GroupState.STABLE
