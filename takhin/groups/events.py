"""What can happen to a consumer group, and what is to be done about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from takhin.errors import RefusedError
from takhin.groups.group import JOINING, NOTHING, Group, Partitions, Subscription


class Deadline(StrEnum):
    """Whose passing removes a member."""

    SESSION = "session"
    """It has given no sign of life."""
    REVOKE = "revoke"
    """It has not let go of what it was asked to."""
    REJOIN = "rejoin"
    """Its stream broke, and it has not come back."""


@dataclass(frozen=True, slots=True)
class Join:
    """A member opens a stream: a new one, or one that comes back.

    member_id: its own from before, or one that was made for it.
    epoch: JOINING, or its own from before if it comes back on a new stream.
    owned: what it holds, with its own epoch from before.
    returning: the broker has just started, so a member that is not known is taken with what it holds, except
    where another was first.
    """

    member_id: str
    subscription: Subscription
    session_timeout_ms: int
    revoke_timeout_ms: int
    assignor: str
    epoch: int = JOINING
    owned: Partitions = NOTHING
    instance_id: str = ""
    client_id: str = ""
    client_host: str = ""
    returning: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life. owned: what the member holds; None: it does not say."""

    member_id: str
    epoch: int
    owned: Partitions | None = None


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A member reads something else from now on."""

    member_id: str
    subscription: Subscription


@dataclass(frozen=True, slots=True)
class Leave:
    """A member leaves. keep_for_restart: a static one that will be back; of others it means nothing."""

    member_id: str
    keep_for_restart: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """A member's stream broke. It may come back on another one."""

    member_id: str


@dataclass(frozen=True, slots=True)
class CatalogueChanged:
    """Topics came or went, or got more partitions.

    matches: for each pattern of the group's members, the names that it matches now.
    """

    catalogue: Mapping[str, int]
    matches: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TargetMade:
    """What an assignor made of the group as it was at an epoch. See `assignors.assign`.

    instances: the instance ids of static members at that time, by member id. One of them may have come back
    under another id since.
    """

    epoch: int
    target: Mapping[str, Partitions]
    instances: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepsDue:
    """It is time for more of the members that are behind to take their next step."""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """A deadline that was armed for a member has passed. epoch: that of the Arm."""

    member_id: str
    kind: Deadline
    epoch: int


@dataclass(frozen=True, slots=True)
class CommitsEnded:
    """The last commit that was under way in these partitions is durable or has failed."""

    partitions: Partitions


Event = (
    Join
    | Heartbeat
    | Subscribe
    | Leave
    | Broken
    | CatalogueChanged
    | TargetMade
    | StepsDue
    | DeadlinePassed
    | CommitsEnded
)


class Tell(NamedTuple):
    """Send the member an Assignment: all that it may hold, at its epoch."""

    member_id: str
    epoch: int
    partitions: Partitions


class Arm(NamedTuple):
    """Send DeadlinePassed(member_id, kind, epoch) at that time (ms), instead of any of the kind before."""

    member_id: str
    kind: Deadline
    epoch: int
    at: int


class Disarm(NamedTuple):
    """Forget the member's deadline of that kind."""

    member_id: str
    kind: Deadline


class Release(NamedTuple):
    """These partitions are the member's own no more: its fences close."""

    member_id: str
    partitions: Partitions


class Remove(NamedTuple):
    """The member is gone, with its deadlines. error: what a stream of its own ends with; None: in order."""

    member_id: str
    error: RefusedError | None


class WantTarget(NamedTuple):
    """At that time (ms) let an assignor make a target of the group as it is then. Earlier wishes are void."""

    at: int


class WantSteps(NamedTuple):
    """Send StepsDue soon, once others have had their turn: members are behind."""


Action = Tell | Arm | Disarm | Release | Remove | WantTarget | WantSteps


class Step(NamedTuple):
    """A group after an event, and what is to be done, in this order."""

    group: Group
    actions: Sequence[Action]
