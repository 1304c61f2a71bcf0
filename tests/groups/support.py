"""Groups for tests of the state machine: small ones, that have come to rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from takhin.groups.assignors import assign
from takhin.groups.events import Action, Event, Heartbeat, Join, Tell
from takhin.groups.group import NOTHING, Group, Member, Partitions, Rules, Subscription
from takhin.groups.state import step
from takhin.model import TopicPartition

SESSION_MS, REVOKE_MS = 45_000, 60_000
RULES = Rules(target_interval_ms=50, first_target_ms=100, rejoin_ms=3_000, members_max=4)
FLOOR = 1 << 32


def of(topic: str, *numbers: int) -> Partitions:
    """These partitions of a topic."""
    return frozenset(TopicPartition(topic, number) for number in numbers)


def reading(*topics: str, pattern: str | None = None, matched: Iterable[str] = ()) -> Subscription:
    return Subscription(frozenset(topics), pattern, frozenset(matched))


def join(member_id: str, subscription: Subscription | None = None, **given: object) -> Join:
    """A join, to read "t" if nothing else is said."""
    return Join(
        member_id,
        subscription or reading("t"),
        **{"session_timeout_ms": SESSION_MS, "revoke_timeout_ms": REVOKE_MS, "assignor": "uniform", **given},
    )


class Case:
    """A group, what the last event led to, and a clock."""

    def __init__(self, *, partitions: int = 4, rules: Rules = RULES, **given: int) -> None:
        self.group = Group.new("g", FLOOR, rules, {"t": partitions, "u": 2}, **given)
        self.now = 0
        self.actions: Sequence[Action] = ()

    def do(self, event: Event, *, busy: Partitions = NOTHING, after_ms: int = 10) -> Sequence[Action]:
        self.now += after_ms
        self.group, self.actions = step(self.group, event, self.now, busy)
        return self.actions

    def of_type(self, kind: type) -> list[Action]:
        """The last actions of a type."""
        return [action for action in self.actions if isinstance(action, kind)]

    def member(self, member_id: str) -> Member:
        return self.group.members[member_id]

    def told(self, member_id: str) -> Partitions | None:
        """What the member has been told in the last step that it may hold."""
        return next((tell.partitions for tell in self.of_type(Tell) if tell.member_id == member_id), None)

    def beat(self, member_id: str, owned: Partitions | None = None, **given: object) -> Sequence[Action]:
        """A heartbeat at the member's epoch."""
        return self.do(Heartbeat(member_id, self.member(member_id).epoch, owned), **given)

    def retarget(self, **given: object) -> Sequence[Action]:
        """A target is made of the group as it is."""
        return self.do(assign(self.group), **given)

    def rest(self) -> None:
        """Targets are made and all members follow, until nothing is left to do."""
        if self.group.epoch > self.group.target_epoch:
            self.retarget()
        for _ in range(3):
            for member in list(self.group.members.values()):
                if not member.away:
                    self.beat(member.member_id, member.assigned)


def settled(*members: str | Join, **given: object) -> Case:
    """A group with these members, at rest."""
    case = Case(**given)
    for member in members:
        case.do(join(member) if isinstance(member, str) else member)
    case.rest()
    return case


def with_unheard_epochs(count: int) -> tuple[Case, int]:
    """A group with a member "a" that has been sent assignments with new epochs and may not know it yet."""
    case = settled("a")
    epoch = case.member("a").epoch
    for number in range(count):
        case.do(join(f"other{number}", reading("u")))
        case.retarget()
    return case, epoch
