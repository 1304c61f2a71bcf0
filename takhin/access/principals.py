"""From a certificate to a principal. Pure.

The names of a certificate are its subject alternative names in their order, or its common name if there are
none. The first one is the principal, unless a mapping says otherwise: it is written PATTERN=PRINCIPAL, where
the pattern may have one `*`, and a `*` in the principal stands for what that one stood for. That is one
label, without a dot or a slash: names further down may be somebody else's to give away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from takhin.access.rules import check_principal
from takhin.errors import InvalidArgumentError

SEPARATORS = frozenset("./")
"""What separates the labels of a name."""


class Mapping(NamedTuple):
    """One mapping: names that begin and end like this, and what their principal begins and ends with.

    whole: the pattern has no star, so only `before` itself is meant. star: the principal has one.
    """

    before: str
    after: str
    whole: bool
    principal: str

    def principal_of(self, name: str) -> str | None:
        """The principal of a certificate's name; None if this mapping is about others."""
        if self.whole:
            return self.principal if name == self.before else None
        middle = name[len(self.before) : len(name) - len(self.after)]
        if (
            not middle
            or not SEPARATORS.isdisjoint(middle)
            or not (name.startswith(self.before) and name.endswith(self.after))
        ):
            return None
        return self.principal.replace("*", middle)


def parsed_mapping(text: str) -> Mapping:
    """The mapping that a text stands for. Raises ValueError with the rest of "KEY must be …"."""
    pattern, equals, principal = text.rpartition("=")
    before, star, after = pattern.partition("*")
    if (
        not equals
        or not pattern
        or not principal
        or "*" in after
        or principal.count("*") > pattern.count("*")
    ):
        raise ValueError("PATTERN=PRINCIPAL, with at most one * in the pattern, and in the principal then")
    return Mapping(before, after, not star, principal)


def principal_of(names: Iterable[str], mappings: Sequence[Mapping]) -> str | None:
    """The principal of a certificate with these names; None if it has none that will do."""
    usable = [name for name in names if name]
    for name in usable:
        for mapping in mappings:
            if (principal := mapping.principal_of(name)) is not None:
                return _usable(principal)
    return _usable(usable[0]) if usable else None


def _usable(name: str) -> str | None:
    try:
        return check_principal(name)
    except InvalidArgumentError:
        return None
