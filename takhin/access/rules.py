"""Rules of access: which principal may do what to which topics and groups. Pure.

A rule allows or denies one principal one action on the topics or groups that a pattern covers. What no rule
allows is denied, and a rule that denies wins over all that allow. A pattern is a whole name, or the beginning
of names followed by `*`; so `*` alone covers all of them. To look a name up takes as many steps as the
patterns have different lengths, however many rules there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from takhin.errors import InvalidArgumentError
from takhin.limits import GROUP_ID_BYTES_MAX
from takhin.model import ANONYMOUS
from takhin.sentences import listed, shown

EVERYBODY = "*"
"""As a rule's principal: all who have proved who they are."""
ANY = "*"
"""As the end of a pattern: whatever follows."""
PRINCIPAL_BYTES_MAX = 255
"""Bytes of UTF-8. Not a setting: the interface promises it."""
CHANGES_MAX = 1_000
"""Rules that one call puts and drops: all of them are judged and taken in by themselves. Not a setting: the
interface promises it."""
VERDICTS_MAX = 10_000
"""Verdicts remembered of one principal; beyond it, they are found again."""


class Action(StrEnum):
    """What one may do."""

    READ = "read"
    """Of a topic: consume it. Of a group: describe it, without being in it."""
    WRITE = "write"
    """Of a topic: produce to it."""
    GROUP = "group"
    """Of a group: join it, and commit its offsets."""
    ADMIN = "admin"
    """Create, alter and delete topics, and remove their records; delete groups and their offsets."""


VERBS = {Action.READ: "read", Action.WRITE: "write to", Action.GROUP: "be in", Action.ADMIN: "administer"}


class Resource(StrEnum):
    """What something is done to."""

    TOPIC = "topic"
    GROUP = "group"


ACTIONS = {
    Resource.TOPIC: (Action.READ, Action.WRITE, Action.ADMIN),
    Resource.GROUP: (Action.READ, Action.GROUP, Action.ADMIN),
}
"""The actions that there are for each."""

ACCESS_TOPIC = "__access"
"""Whoever may administer the topic of this name, which there never is, may change tokens and rules."""


class Rule(NamedTuple):
    """One rule. principal: its name, or EVERYBODY."""

    principal: str
    action: Action
    resource: Resource
    pattern: str
    allow: bool = True

    def __str__(self) -> str:
        verb = "allow" if self.allow else "deny"
        return f"{verb} {self.principal} {self.action} {self.resource} {self.pattern}"


class Need(NamedTuple):
    """A right that a call needs.

    action: None: any one will do. resource: None: either. name: None: it needs the right somewhere.
    """

    action: Action | None = None
    resource: Resource | None = None
    name: str | None = None

    def __str__(self) -> str:
        """The rest of the sentence "… may not"."""
        if self.resource is None:
            return "do anything"
        verb = "see" if self.action is None else VERBS[self.action]
        return (
            f"{verb} {f'any {self.resource}' if self.name is None else f'{self.resource} {shown(self.name)}'}"
        )


TO_ADMINISTER = Need(Action.ADMIN, Resource.TOPIC, ACCESS_TOPIC)
"""What it takes to change tokens and rules."""


def checked_rule(principal: str, action: str, resource: str, pattern: str, *, allow: bool) -> Rule:
    """The rule of these words. Raises InvalidArgumentError."""
    check_principal(principal, or_everybody=True)
    kind = Resource(resource)
    actions = ACTIONS[kind]
    if action not in tuple(actions):
        raise InvalidArgumentError(
            f"what one may do to a {kind} is {listed(actions, 'or')}, not {shown(action)}", field="action"
        )
    size = len(pattern.encode())
    if not 1 <= size <= GROUP_ID_BYTES_MAX + 1:
        raise InvalidArgumentError(
            f"a pattern has 1 to {GROUP_ID_BYTES_MAX + 1} bytes, not {size}: {shown(pattern)}",
            field="pattern",
        )
    if kind is Resource.TOPIC and ANY in pattern[:-1]:
        raise InvalidArgumentError(
            f"a pattern is a name, or the beginning of names followed by *, not {shown(pattern)}",
            field="pattern",
        )
    return Rule(principal, Action(action), kind, pattern, allow)


def check_count(changes: int) -> None:
    """Refuse more changes than one call may make. Raises InvalidArgumentError."""
    if changes > CHANGES_MAX:
        raise InvalidArgumentError(
            f"a call changes at most {CHANGES_MAX} rules, not {changes}: make several calls", field="put"
        )


def check_principal(name: str, *, or_everybody: bool = False) -> str:
    """Return the name if a principal may have it. Raises InvalidArgumentError."""
    size = len(name.encode())
    if not 1 <= size <= PRINCIPAL_BYTES_MAX or not name.isprintable() or name != name.strip():
        raise InvalidArgumentError(
            f"a principal's name has 1 to {PRINCIPAL_BYTES_MAX} bytes, all of them printable, and no space "
            f"at its ends, not {shown(name)}",
            field="principal",
        )
    if name == ANONYMOUS:
        raise InvalidArgumentError(
            f"a principal cannot be called {ANONYMOUS}, which are those who have not proved who they are",
            field="principal",
        )
    if name == EVERYBODY and not or_everybody:
        raise InvalidArgumentError("a principal cannot be called *, which is everybody", field="principal")
    return name


class Patterns:
    """Patterns, ready for looking names up."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._beginnings: set[str] = set()
        self._lengths: list[int] = []

    def add(self, pattern: str) -> None:
        if not pattern.endswith(ANY):
            self._names.add(pattern)
            return
        self._beginnings.add(pattern[:-1])
        if len(pattern) - 1 not in self._lengths:
            self._lengths.append(len(pattern) - 1)

    def cover(self, name: str) -> bool:
        """True if one of the patterns covers the name."""
        return name in self._names or self.cover_all_after(name)

    def reach_beyond(self, others: Sequence[Patterns]) -> bool:
        """True if one of the patterns is not wholly within one of the others."""
        return any(not any(other.cover(name) for other in others) for name in self._names) or any(
            not any(other.cover_all_after(beginning) for other in others) for beginning in self._beginnings
        )

    def cover_all_after(self, beginning: str) -> bool:
        """True if one of the patterns covers this and all names that begin so."""
        return any(beginning[:length] in self._beginnings for length in self._lengths)


class Grants:
    """The rules of one principal, ready for looking names up."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._patterns: dict[tuple[Action, Resource, bool], Patterns] = defaultdict(Patterns)
        for rule in rules:
            self.add(rule)

    def add(self, rule: Rule) -> None:
        self._patterns[rule.action, rule.resource, rule.allow].add(rule.pattern)

    def patterns(self, action: Action, resource: Resource, *, allow: bool) -> Patterns:
        return self._patterns.get((action, resource, allow), NO_PATTERNS)


NO_PATTERNS = Patterns()
NO_GRANTS = Grants()


class Rights:
    """What one principal may do, by its own rules and those for everybody, as they are at one moment."""

    def __init__(self, *grants: Grants) -> None:
        self._grants = grants
        self._verdicts: dict[Need, bool] = {}

    def permit(self, need: Need) -> bool:
        """True if the principal has the right."""
        verdict = self._verdicts.get(need)
        if verdict is None:
            verdict = self._judge(need)
            if len(self._verdicts) >= VERDICTS_MAX:
                self._verdicts.clear()
            self._verdicts[need] = verdict
        return verdict

    def see(self, resource: Resource, name: str) -> bool:
        """True if the principal has any right on it, and so may know that it is there."""
        return self.permit(Need(None, resource, name))

    def _judge(self, need: Need) -> bool:
        resources = tuple(Resource) if need.resource is None else (need.resource,)
        return any(
            self._has(action, resource, need.name)
            for resource in resources
            for action in (ACTIONS[resource] if need.action is None else (need.action,))
        )

    def _has(self, action: Action, resource: Resource, name: str | None) -> bool:
        allowed = [each.patterns(action, resource, allow=True) for each in self._grants]
        denied = [each.patterns(action, resource, allow=False) for each in self._grants]
        if name is None:
            return any(each.reach_beyond(denied) for each in allowed)
        return any(each.cover(name) for each in allowed) and not any(each.cover(name) for each in denied)


class AllRights(Rights):
    """Those of a caller who may do everything."""

    def permit(self, need: Need) -> bool:
        return True


EVERYTHING = AllRights()
