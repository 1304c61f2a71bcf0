"""The state machine of a consumer group: `step` takes a group and an event, and returns the group after it.

It is pure: no clock, no timers, no streams. Its caller passes the time in, and does what the actions say.
What an event may do stands at the function that handles it; how one member moves stands in `reconcile.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from takhin.errors import (
    FencedMemberError,
    GroupFullError,
    InstanceInUseError,
    InvalidArgumentError,
)
from takhin.groups.changing import changed
from takhin.groups.claims import settled_claims
from takhin.groups.draft import Draft, unknown
from takhin.groups.events import (
    Broken,
    CatalogueChanged,
    CommitsEnded,
    Deadline,
    DeadlinePassed,
    Event,
    Heartbeat,
    Join,
    Leave,
    Step,
    StepsDue,
    Subscribe,
    TargetMade,
)
from takhin.groups.group import (
    AWAY,
    JOINING,
    NOTHING,
    Group,
    Member,
    MemberState,
    Partitions,
    Subscription,
)
from takhin.sentences import counted, shown


def step(group: Group, event: Event, now: int, busy: Partitions = NOTHING) -> Step:
    """The group after the event, and what is to be done.

    now: ms. busy: partitions in which commits of the group are under way, whoever sent them. They are not
    handed over; `CommitsEnded` says when they can be.

    Raises a RefusedError, after which the group is what it was.
    """
    draft = Draft(group, now, busy)
    match event:
        case Join():
            _join(draft, event)
        case Heartbeat():
            _heartbeat(draft, event)
        case Subscribe():
            _subscribe(draft, event)
        case Leave():
            _leave(draft, event)
        case Broken():
            _broken(draft, event)
        case CatalogueChanged():
            _catalogue_changed(draft, event)
        case TargetMade():
            _target_made(draft, event)
        case DeadlinePassed():
            _deadline_passed(draft, event)
        case CommitsEnded() | StepsDue():
            _go_on(draft, event)
        case _:
            assert_never(event)
    return draft.finished()


def may_commit(group: Group, member_id: str, epoch: int, partitions: Partitions) -> Partitions:
    """Those of the partitions whose offsets the member may not commit at this epoch; if none, it may commit.

    An equal epoch is not asked for: it may have sent its commit before it heard of its present epoch
    [KAFKA-18409, KIP-1251].
    """
    member = group.members.get(member_id)
    if member is None or epoch > member.epoch:
        return partitions
    since = member.assigned_epochs
    return frozenset(each for each in partitions if since.get(each, epoch + 1) > epoch)


def _join(draft: Draft, event: Join) -> None:
    """A new member joins, or one comes back."""
    member = draft.members.get(event.member_id)
    holder = draft.holder(event.instance_id)
    if member is not None and member.instance_id != event.instance_id:
        raise InvalidArgumentError(
            f"member {shown(event.member_id)} joined as instance {shown(member.instance_id)}, not as "
            f"{shown(event.instance_id)}",
            field="instance_id",
        )
    if event.epoch == JOINING and event.owned:
        raise InvalidArgumentError("a member that joins with epoch 0 owns nothing yet", field="owned")
    if member is not None:
        _come_back(draft, member, event)
    elif holder is not None and not holder.away:
        raise InstanceInUseError(
            f"instance {shown(event.instance_id)} is member {shown(holder.member_id)}, which has not left",
            instance_id=event.instance_id,
        )
    elif event.epoch == JOINING and holder is not None:
        _take_over(draft, holder, event)
    elif event.epoch == JOINING:
        _take(draft, event, NOTHING)
    elif event.returning and holder is None and event.epoch < draft.before.floor and draft.target_at is None:
        _take(draft, event, settled_claims(draft, event))
    else:
        unknown(event.member_id)


def _take(draft: Draft, event: Join, assigned: Partitions) -> None:
    """The group gets a new member, with what it holds if it comes back to a broker that has restarted."""
    rules = draft.before.rules
    if len(draft.members) >= rules.members_max:
        raise GroupFullError(
            f"group {shown(draft.before.group_id)} has {counted(len(draft.members), 'member')}; "
            f"groups.members_max is {rules.members_max}",
            group_id=draft.before.group_id,
        )
    if not draft.members:
        draft.assignor = event.assignor
    member = Member(
        event.member_id,
        event.instance_id,
        event.client_id,
        event.client_host,
        draft.now,
        event.subscription,
        event.session_timeout_ms,
        event.revoke_timeout_ms,
        draft.now + event.session_timeout_ms,
        former=event.epoch,
    )
    draft.put(changed(member, assigned=assigned, assigned_epochs=dict.fromkeys(assigned, draft.target_epoch)))
    if assigned:
        draft.set_target(event.member_id, assigned)
    draft.bump()
    draft.reconcile(event.member_id, NOTHING)
    _hear(draft, event)


def _come_back(draft: Draft, member: Member, event: Join) -> None:
    """A known member opens a new stream: with its epoch after the old one broke, or with 0 from the start.

    With 0 its answer was lost, or it was fenced; it holds nothing then [KAFKA-21305]. Nothing that was sent
    on the old stream will arrive any more, so what it says that it holds is true whatever its epoch.
    """
    if event.epoch != JOINING:
        _check_epoch(member, event.epoch)
    member = changed(
        member,
        client_id=event.client_id,
        client_host=event.client_host,
        session_timeout_ms=event.session_timeout_ms,
        revoke_timeout_ms=event.revoke_timeout_ms,
        session_at=draft.now + event.session_timeout_ms,
        rejoin_at=None,
        epoch=JOINING if member.away else member.epoch,
        unproven=NOTHING,
    )
    draft.put(member)
    _change_subscription(draft, member.member_id, event.subscription)
    draft.reconcile(member.member_id, event.owned)
    _hear(draft, event)


def _take_over(draft: Draft, away: Member, event: Join) -> None:
    """A static member comes back from its restart under a new id: what was kept for it is its own now.

    The group's epoch stays unless the subscription has changed [KAFKA-22036]. Where a commit of the old id is
    under way, the partition is its own when that has ended.
    """
    kept = away.assigned - draft.busy
    draft.replace_member(
        away.member_id,
        changed(
            away,
            member_id=event.member_id,
            client_id=event.client_id,
            client_host=event.client_host,
            joined_at=draft.now,
            session_timeout_ms=event.session_timeout_ms,
            revoke_timeout_ms=event.revoke_timeout_ms,
            session_at=draft.now + event.session_timeout_ms,
            epoch=JOINING,
            assigned=kept,
            assigned_epochs={each: away.assigned_epochs[each] for each in kept},
        ),
    )
    _change_subscription(draft, event.member_id, event.subscription)
    draft.reconcile(event.member_id, NOTHING)
    _hear(draft, event)


def _hear(draft: Draft, event: Join) -> None:
    """Tell a member that has joined what it may hold.

    Its first answer has its epoch, and comes ahead of that. So what it does not hold yet is unproven, even if
    it names its epoch.
    """
    member = draft.members[event.member_id]
    heard = member.epoch if event.epoch == JOINING else event.epoch
    draft.put(changed(member, heard=heard, unproven=member.held - event.owned))
    draft.tell(event.member_id)


def _heartbeat(draft: Draft, event: Heartbeat) -> None:
    """A sign of life. What the member says that it holds counts only if it knows of its present epoch."""
    member = draft.known(event.member_id)
    _check_epoch(member, event.epoch)
    current = event.epoch == member.epoch
    proven = event.owned if current and event.owned is not None else NOTHING
    draft.put(
        changed(
            member,
            heard=event.epoch,
            session_at=draft.now + member.session_timeout_ms,
            unproven=member.unproven - proven,
        )
    )
    if current:
        draft.reconcile(member.member_id, event.owned)


def _check_epoch(member: Member, epoch: int) -> None:
    """Only its own epoch is a member's, or one that it may have had when a later one was on its way to it.

    What it holds is no reason to fence it: one that came back after a restart, and got less than it held, may
    be letting go of the rest still.
    """
    if not member.away and member.heard <= epoch <= member.epoch:
        return
    raise FencedMemberError(
        f"member {shown(member.member_id)} is not at epoch {epoch} any more: it has to let go of everything "
        "and join again with epoch 0",
        member_id=member.member_id,
        member_epoch=epoch,
    )


def _subscribe(draft: Draft, event: Subscribe) -> None:
    """A member reads something else. The group's epoch rises only if the names differ [KAFKA-21721]."""
    member = draft.known(event.member_id)
    if member.away:
        unknown(event.member_id)
    draft.put(changed(member, session_at=draft.now + member.session_timeout_ms))
    _change_subscription(draft, event.member_id, event.subscription)
    draft.reconcile(event.member_id, None)


def _change_subscription(draft: Draft, member_id: str, subscription: Subscription) -> None:
    """Put a subscription in the place of a member's. What it reads no more is its target no more."""
    member = draft.members[member_id]
    differs = member.subscription.names != subscription.names
    draft.put(changed(member, subscription=subscription))
    if differs:
        draft.set_target(member_id, subscription.of(draft.target.get(member_id, NOTHING)))
        draft.bump()


def _leave(draft: Draft, event: Leave) -> None:
    """A member leaves, for good or for a restart.

    A static one that restarts keeps what it has, and its session's deadline; it has let go of R.
    """
    member = draft.known(event.member_id)
    if not (event.keep_for_restart and member.instance_id):
        draft.remove(event.member_id, None)
        return
    since = {each: member.assigned_epochs[each] for each in member.assigned}
    draft.put(
        changed(
            member,
            epoch=AWAY,
            heard=JOINING,
            state=MemberState.STABLE,
            revoking=NOTHING,
            assigned_epochs=since,
            unproven=NOTHING,
            revoke_at=None,
            rejoin_at=None,
        )
    )


def _broken(draft: Draft, event: Broken) -> None:
    """A member's stream broke. A broken stream is not a leave: the member has some time to come back."""
    member = draft.members.get(event.member_id)
    if member is not None and not member.away:
        draft.put(changed(member, rejoin_at=draft.now + draft.before.rules.rejoin_ms))


def _catalogue_changed(draft: Draft, event: CatalogueChanged) -> None:
    """Topics changed: the group's epoch rises, once, if that concerns what a member reads."""
    before, less = draft.before.catalogue, {}
    draft.catalogue = event.catalogue
    shared: dict[object, Subscription] = {}  # most members want the same, and that can be thousands of names
    for member in list(draft.members.values()):
        former = member.subscription
        kind = former.topics, former.pattern, id(former.matched)
        if kind not in shared:
            shared[kind] = _matching_now(former, event)
        subscription = shared[kind]
        if subscription != former:
            draft.put(changed(member, subscription=subscription))
            less[member.member_id] = subscription.of(draft.target.get(member.member_id, NOTHING))
    draft.target = {**draft.target, **less}
    names = frozenset[str]().union(*(each.names for each in shared.values()))
    if less or any(before.get(name, 0) != event.catalogue.get(name, 0) for name in names):
        draft.bump()
        draft.reconcile_all()


def _matching_now(subscription: Subscription, event: CatalogueChanged) -> Subscription:
    """The subscription with the names that its pattern matches now."""
    if subscription.pattern is None or subscription.pattern not in event.matches:
        return subscription
    return replace(subscription, matched=event.matches[subscription.pattern])


def _target_made(draft: Draft, event: TargetMade) -> None:
    """A new target holds from now on, and T is the epoch that it was made for. Late ones come to nothing."""
    if not draft.target_epoch < event.epoch <= draft.epoch:
        return
    by_instance = {event.instances[old]: has for old, has in event.target.items() if old in event.instances}
    before, target = draft.target, {}
    given = None
    for member_id, member in draft.members.items():
        part = event.target.get(member_id, by_instance.get(member.instance_id))
        if part is None:  # it joined while the target was being made: it keeps what nobody else gets
            if given is None:
                given = frozenset().union(*event.target.values())
            part = before.get(member_id, NOTHING) - given
        target[member_id] = member.subscription.of(part)
    draft.target, draft.target_epoch, draft.target_at = target, event.epoch, draft.now
    draft.wanted_at = None
    if draft.epoch > draft.target_epoch:
        draft.want_target()
    draft.reconcile_all()


def _go_on(draft: Draft, event: CommitsEnded | StepsDue) -> None:
    """Members that are waiting for these partitions, or that are behind, take their next step."""
    if isinstance(event, CommitsEnded):
        draft.freed.update(event.partitions)
    else:
        draft.catch_up()


def _deadline_passed(draft: Draft, event: DeadlinePassed) -> None:
    """A member is removed when its deadline has passed. One that has been moved meanwhile is armed again.

    What it had to let go of is a matter of its epoch: the deadline of an earlier one means nothing.
    """
    member = draft.members.get(event.member_id)
    if member is None or (event.kind is Deadline.REVOKE and event.epoch != member.epoch):
        return
    at = dict(zip(Deadline, member.deadlines, strict=True))[event.kind]
    if at is None:
        return
    if draft.now < at:
        draft.arm(member, event.kind, at)
        return
    sentence = {
        Deadline.SESSION: f"has given no sign of life for {member.session_timeout_ms} ms",
        Deadline.REVOKE: f"has not let go of what it was asked to within {member.revoke_timeout_ms} ms",
        Deadline.REJOIN: "has not come back after its stream broke",
    }[event.kind]
    draft.remove(
        member.member_id,
        FencedMemberError(f"member {shown(member.member_id)} {sentence}", member_id=member.member_id),
    )
