"""What a member of a consumer group and the broker say to each other, as immutable values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from takhin.model import TopicPartition

Partitions: TypeAlias = frozenset[TopicPartition]


@dataclass(frozen=True, slots=True)
class JoinGroup:
    """The first request of a member.

    member_id: its own from before; empty: the broker gives one.
    epoch: 0, or its own from before when it comes back.
    topics, pattern: what it wants to read; one of the two.
    assignor: empty for the default.
    session_timeout_ms, revoke_timeout_ms: 0 for the default.
    owned: what it holds when it comes back.
    """

    group_id: str
    client_id: str = ""
    member_id: str = ""
    epoch: int = 0
    instance_id: str = ""
    topics: frozenset[str] = frozenset()
    pattern: str = ""
    assignor: str = ""
    session_timeout_ms: int = 0
    revoke_timeout_ms: int = 0
    owned: Partitions = frozenset()


class Heartbeat(NamedTuple):
    """A sign of life. owned: what the member holds; None: it does not say."""

    epoch: int
    owned: Partitions | None = None


class Subscribe(NamedTuple):
    """The member wants to read something else from now on. One of the two."""

    topics: frozenset[str]
    pattern: str = ""


class Leave(NamedTuple):
    """The member leaves. keep_for_restart: it is a static one, and will be back within its session."""

    keep_for_restart: bool = False


MemberRequest: TypeAlias = JoinGroup | Heartbeat | Subscribe | Leave


class Joined(NamedTuple):
    """The member is in the group."""

    member_id: str
    epoch: int
    heartbeat_interval_ms: int
    session_timeout_ms: int


class Assignment(NamedTuple):
    """All that the member may hold now."""

    epoch: int
    partitions: Partitions


class HeartbeatAnswer(NamedTuple):
    """The member was heard. epoch: as it named it."""

    epoch: int


MemberResponse: TypeAlias = Joined | Assignment | HeartbeatAnswer


class Reader(NamedTuple):
    """Who a member is, for what its pattern may find.

    principal: two of the same one may read the same; empty: everything. may_read: whether this one may read a
    topic, as of now.
    """

    principal: str
    may_read: Callable[[str], bool]


ANYBODY = Reader("", lambda _topic: True)
"""Where everybody may read everything."""


class Committer(NamedTuple):
    """Whose commit it is. member_id: empty: nobody's."""

    member_id: str = ""
    epoch: int = 0


NOBODY = Committer()
