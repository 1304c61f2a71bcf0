"""The state of a consumer group as immutable values. Owns what a state means; `state.py` owns how it changes.

G (group epoch), T (target epoch), e (member epoch), A (assigned) and R (revoking) mean the same in all of
`takhin.groups`. The protocol is that of Kafka's KIP-848, on a stream for each member instead of polling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from operator import itemgetter

from takhin.model import GroupState, TopicPartition

Partitions = frozenset[TopicPartition]

NOTHING: Partitions = frozenset()
JOINING = 0
"""The epoch of a member that joins from the start. No group has it."""
AWAY = -2
"""The epoch of a static member that has left and is expected back within its session."""


TOPIC = itemgetter(0)
"""The topic of a TopicPartition."""


class MemberState(StrEnum):
    """STABLE: the member has its part of its epoch's target. UNREVOKED: it has partitions to let go of.
    UNRELEASED: others have some for it.
    """

    STABLE = "Stable"
    UNREVOKED = "Revoking"
    UNRELEASED = "Waiting"


@dataclass(frozen=True)
class Subscription:
    """What a member wants to read: topics by name, or by a pattern.

    topics: they need not exist.
    matched: the names that the pattern matches now. The coordinator finds them.
    """

    topics: frozenset[str] = frozenset()
    pattern: str | None = None
    matched: frozenset[str] = frozenset()

    @cached_property
    def names(self) -> frozenset[str]:
        """All topics that it names now. They are copied only where there are some of both kinds."""
        return self.topics | self.matched if self.topics and self.matched else self.topics or self.matched

    def of(self, partitions: Partitions) -> Partitions:
        """Those of the partitions whose topics it names."""
        names = self.names
        if names.issuperset(map(TOPIC, partitions)):  # without a step of Python: there can be thousands
            return partitions
        return frozenset(each for each in partitions if each.topic in names)


@dataclass(frozen=True)
class Member:
    """A member of a group.

    instance_id: makes it a static member; empty: none.
    epoch: e, its own epoch, AWAY for a static member that has left for a restart.
    former: its epoch in the former run of the broker, if it has come back from there; else JOINING.
    heard: the latest epoch that it has named itself. Several assignments may be on their way to it, so what
    it sends may rightly bear any epoch from this one to e.
    assigned: A, what it may hold. revoking: R, what it has still to let go of. Both together are its own.
    assigned_epochs: for each partition of its own, the epoch in which it was assigned to it.
    unproven: what was assigned to it without a new epoch and has not been named by it since. A list of what
    it holds that lacks such a partition may have been sent before it heard of it, so it proves nothing.
    session_at, revoke_at, rejoin_at: when it is removed (ms); None: not. rejoin_at: its stream is broken.
    """

    member_id: str
    instance_id: str
    client_id: str
    client_host: str
    joined_at: int
    subscription: Subscription
    session_timeout_ms: int
    revoke_timeout_ms: int
    session_at: int
    epoch: int = JOINING
    former: int = JOINING
    heard: int = JOINING
    state: MemberState = MemberState.STABLE
    assigned: Partitions = NOTHING
    revoking: Partitions = NOTHING
    assigned_epochs: Mapping[TopicPartition, int] = field(default_factory=dict)
    unproven: Partitions = NOTHING
    revoke_at: int | None = None
    rejoin_at: int | None = None

    @property
    def held(self) -> Partitions:
        """A and R together: the partitions that are its own, and that nobody else may have."""
        return self.assigned | self.revoking if self.revoking else self.assigned

    @property
    def deadlines(self) -> tuple[int | None, int | None, int | None]:
        """When it is removed, for each `Deadline` in order."""
        return self.session_at, self.revoke_at, self.rejoin_at

    @property
    def away(self) -> bool:
        """True for a static member that has left for a restart."""
        return self.epoch == AWAY


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that a group goes by.

    target_interval_ms: targets are made at most so often.
    first_target_ms: how long a group without members waits for others after the first one has joined.
    rejoin_ms: how long a member with a broken stream may take to come back.
    steps_at_once: of a large group so many members take their next step in one event.
    """

    target_interval_ms: int
    first_target_ms: int
    rejoin_ms: int
    members_max: int
    steps_at_once: int = 100


@dataclass(frozen=True)
class Group:
    """A consumer group with members, or one that had some.

    floor: where G and T begin, at least 1 and above every epoch that a group of this name has had before, in
    this run of the broker or an earlier one. So a member of an older group matches nothing.
    epoch: G, which rises with each change of members, subscriptions or topics.
    target_epoch: T, the G that `target` was made for.
    target: who is to have what, of members only and of what they subscribe to only.
    assignor: that of the group's first member; empty: it has had none.
    catalogue: how many partitions each topic has. It may have topics that the group does not read.
    quiet_until: no target is made before (ms), because the broker has just started and members come back.
    target_at: when `target` was made (ms); None: never since the group was empty.
    wanted_at: when the next target is due (ms); None: none is.
    behind: members that have not taken a step since the target or the topics changed.
    """

    group_id: str
    floor: int
    rules: Rules
    catalogue: Mapping[str, int]
    epoch: int
    target_epoch: int
    quiet_until: int = 0
    assignor: str = ""
    members: Mapping[str, Member] = field(default_factory=dict)
    target: Mapping[str, Partitions] = field(default_factory=dict)
    target_at: int | None = None
    wanted_at: int | None = None
    behind: Sequence[str] = ()

    @classmethod
    def new(
        cls, group_id: str, floor: int, rules: Rules, catalogue: Mapping[str, int], *, quiet_until: int = 0
    ) -> Group:
        """A group without members."""
        return cls(group_id, floor, rules, catalogue, floor, floor, quiet_until)

    @property
    def state(self) -> GroupState:
        """The state as it is shown."""
        if not self.members:
            return GroupState.EMPTY
        if self.epoch > self.target_epoch:
            return GroupState.PREPARING_REBALANCE
        settled = all(
            member.state is MemberState.STABLE and member.epoch == self.target_epoch
            for member in self.members.values()
        )
        return GroupState.STABLE if settled else GroupState.COMPLETING_REBALANCE

    @cached_property
    def owner(self) -> Mapping[TopicPartition, str]:
        """The member whose own a partition is, as it follows from all members."""
        return {each: member.member_id for member in self.members.values() for each in member.held}

    def owners_move(self, let_go: AbstractSet[TopicPartition], got: Mapping[TopicPartition, str]) -> None:
        """Where `owner` is that of the group before, put it right: to go through all members takes long."""
        if "owner" in vars(self):
            owner = vars(self)["owner"] = {**self.owner, **got}
            for each in let_go - got.keys():
                owner.pop(each, None)

    def holder(self, instance_id: str) -> Member | None:
        """The static member that has the instance id."""
        if not instance_id:
            return None
        return next((each for each in self.members.values() if each.instance_id == instance_id), None)
