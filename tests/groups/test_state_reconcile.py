"""The table of reconciling, row by row: (state, condition) to (state, e, A, R). T is 9 in all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from groups.support import of, reading
from takhin.groups.group import NOTHING, Member, MemberState
from takhin.groups.reconcile import Goal, reconcile

STABLE, UNREVOKED, UNRELEASED = MemberState.STABLE, MemberState.UNREVOKED, MemberState.UNRELEASED
T = 9


def member(state=STABLE, epoch=T, assigned=NOTHING, revoking=NOTHING, *, unproven=NOTHING):
    return Member(
        *("m", "", "", "", 0, reading("t"), 1_000, 1_000, 1_000),
        epoch=epoch,
        heard=epoch,
        state=state,
        assigned=assigned,
        revoking=revoking,
        assigned_epochs=dict.fromkeys(assigned | revoking, 3),
        unproven=unproven,
    )


def after(before, want, *, blocked=NOTHING, owned=None):
    """What becomes of a member, as (state, e, A, R)."""
    got = reconcile(before, Goal(want, T), blocked, owned)
    assert got.assigned_epochs == {each: 3 if each in before.held else T for each in got.held} or (
        before.revoking & got.assigned
    )
    return got.state, got.epoch, got.assigned, got.revoking


def test_nothing_to_do():
    """STABLE at T with what is wanted: the member is not even copied."""
    before = member(assigned=of("t", 1))
    assert reconcile(before, Goal(of("t", 1), T), NOTHING, None) is before


@pytest.mark.parametrize(
    ("owned", "expected"),
    [
        (None, (UNREVOKED, T, of("t", 1), of("t", 2))),
        (of("t", 1, 2), (UNREVOKED, T, of("t", 1), of("t", 2))),
        (of("t", 2), (UNREVOKED, T, of("t", 1), of("t", 2))),
        (of("t", 1), (STABLE, T, of("t", 1), NOTHING)),
        (NOTHING, (STABLE, T, of("t", 1), NOTHING)),
    ],
)
def test_a_subscription_lost_topics(owned, expected):
    """STABLE at T, and something is gone: it is to be let go of, unless the member has done so."""
    assert after(member(assigned=of("t", 1, 2)), of("t", 1), owned=owned) == expected


def test_it_has_not_let_go():
    """UNREVOKED and not released: everything stays, even if what it is to let go of is wanted again."""
    before = member(UNREVOKED, 7, of("t", 1), of("t", 2))
    for owned in (None, of("t", 1, 2), of("t", 2)):
        assert reconcile(before, Goal(of("t", 1, 2, 3), T), NOTHING, owned) is before


def test_it_has_not_let_go_and_lost_more_topics():
    """UNREVOKED and not released: what it does not subscribe to any more is added to R."""
    before = member(UNREVOKED, 7, of("t", 1) | of("u", 1), of("t", 2))
    assert after(before, of("t", 1)) == (UNREVOKED, 7, of("t", 1), of("t", 2) | of("u", 1))


def test_it_has_let_go():
    """UNREVOKED and released: STABLE at T if nothing else is between."""
    before = member(UNREVOKED, 7, of("t", 1), of("t", 2))
    assert after(before, of("t", 1, 3), owned=of("t", 1)) == (STABLE, T, of("t", 1, 3), NOTHING)


def test_it_has_let_go_and_waits():
    """UNREVOKED and released: UNRELEASED at T if others have some of what it is to have."""
    before = member(UNREVOKED, 7, of("t", 1), of("t", 2))
    assert after(before, of("t", 1, 3, 4), blocked=of("t", 4), owned=of("t", 1)) == (
        UNRELEASED,
        T,
        of("t", 1, 3),
        NOTHING,
    )


@pytest.mark.parametrize(("epoch", "then"), [(6, 7), (8, T), (T, T)])
def test_it_has_let_go_and_has_to_let_go_of_more(epoch, then):
    """UNREVOKED and released, but the target has changed: UNREVOKED again, at min(e + 1, T)."""
    before = member(UNREVOKED, epoch, of("t", 1, 3), of("t", 2))
    assert after(before, of("t", 1), owned=of("t", 1, 3)) == (UNREVOKED, then, of("t", 1), of("t", 3))


def test_it_gets_back_what_it_has_let_go_of():
    """What the member itself let go of is free for it, though the owners of before have it as its own."""
    before = member(UNREVOKED, 7, of("t", 1), of("t", 2))
    got = reconcile(before, Goal(of("t", 1, 2), T), of("t", 2), of("t", 1))
    assert (got.state, got.epoch, got.assigned, got.revoking) == (STABLE, T, of("t", 1, 2), NOTHING)
    assert got.assigned_epochs == {**dict.fromkeys(of("t", 1), 3), **dict.fromkeys(of("t", 2), T)}


@pytest.mark.parametrize(("state", "epoch"), [(STABLE, 7), (UNRELEASED, 7), (UNRELEASED, T)])
def test_a_new_target_takes_something_away(state, epoch):
    """STABLE at another epoch, or UNRELEASED: UNREVOKED at the same epoch, and nothing new before."""
    before = member(state, epoch, of("t", 1, 2))
    assert after(before, of("t", 1, 3)) == (UNREVOKED, epoch, of("t", 1), of("t", 2))
    assert after(before, of("t", 1, 3), owned=of("t", 1)) == (STABLE, T, of("t", 1, 3), NOTHING)


@pytest.mark.parametrize(("state", "epoch"), [(STABLE, 0), (STABLE, 7), (UNRELEASED, 7), (UNRELEASED, T)])
def test_a_new_target_gives_something(state, epoch):
    """STABLE at another epoch, or UNRELEASED: what is free at once, UNRELEASED while others have some."""
    before = member(state, epoch, of("t", 1))
    want = of("t", 1, 2, 3)
    assert after(before, want) == (STABLE, T, want, NOTHING)
    assert after(before, want, blocked=of("t", 3)) == (UNRELEASED, T, of("t", 1, 2), NOTHING)
    assert after(before, want, blocked=of("t", 2, 3)) == (UNRELEASED, T, of("t", 1), NOTHING)


def test_what_comes_without_a_new_epoch_is_unproven():
    """What comes to one that waits has its epoch already. A new epoch proves what came before it."""
    waiting = member(UNRELEASED, T, of("t", 1))
    got = reconcile(waiting, Goal(of("t", 1, 2, 3), T), of("t", 3), None)
    assert got.unproven == of("t", 2)
    assert reconcile(got, Goal(of("t", 1, 2, 3), T), NOTHING, None).unproven == of("t", 2, 3)
    assert reconcile(got, Goal(of("t", 1, 2), T + 1), NOTHING, None).unproven == NOTHING
    assert reconcile(replace(waiting, epoch=7), Goal(of("t", 1, 2), T), NOTHING, None).unproven == NOTHING


def test_a_list_that_may_be_old_proves_nothing():
    """A list without a partition that came with no new epoch may have been sent before that was known."""
    before = member(UNREVOKED, T, of("t", 1), of("t", 2), unproven=of("t", 2))
    assert reconcile(before, Goal(of("t", 1), T), NOTHING, of("t", 1)) is before
    lost = member(assigned=of("t", 1, 2), unproven=of("t", 2))
    assert after(lost, of("t", 1), owned=of("t", 1)) == (UNREVOKED, T, of("t", 1), of("t", 2))


@pytest.mark.parametrize("state", [STABLE, UNRELEASED])
def test_letting_go_of_what_is_unproven_has_a_new_epoch(state):
    """Only one that has heard that it is to let go can name the epoch that this comes with."""
    before = member(state, 6, of("t", 1, 2), unproven=of("t", 2))
    got = reconcile(before, Goal(of("t", 1), T), NOTHING, of("t", 1))
    assert (got.state, got.epoch, got.revoking, got.unproven) == (UNREVOKED, 7, of("t", 2), NOTHING)
    assert after(got, of("t", 1), owned=of("t", 1)) == (STABLE, T, of("t", 1), NOTHING)


def test_letting_go_gets_a_new_epoch_as_soon_as_there_is_one():
    """One that lost topics at T has no new epoch for what is unproven. It gets one with the next target."""
    before = member(UNREVOKED, 8, of("t", 1), of("t", 2), unproven=of("t", 2))
    got = reconcile(before, Goal(of("t", 1), T), NOTHING, of("t", 1))
    assert (got.state, got.epoch, got.revoking, got.unproven) == (UNREVOKED, T, of("t", 2), NOTHING)
