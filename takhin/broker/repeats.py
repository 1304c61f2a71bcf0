"""What comes again and again, made few: the first of a kind in a minute at once, the rest of it as a count.

Kinds are counted apart up to a limit, and no one caller has more than a share of it: who tries a thousand
things hides nothing of what others do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from takhin.model import ANONYMOUS

SHARE = 10
"""A principal, and an address without one, has at most this part of the kinds: one of so many."""
SHARE_OF_ANONYMOUS = 2
"""All who have not proved who they are, together."""


class Kind(NamedTuple):
    """One kind. host: what counts as one address. action, about: what was done, with what."""

    principal: str
    host: str
    action: str
    about: tuple[tuple[str, str], ...]


class Repeats:
    """The kinds of one minute. Its owner says when that is over."""

    def __init__(self, most: int) -> None:
        """most: kinds that are counted apart."""
        self._most = most
        self._counts: dict[Kind, int] = {}
        self._kinds_of: Counter[tuple[str, str]] = Counter()
        self._besides: Counter[str] = Counter()

    def is_first(self, kind: Kind) -> bool:
        """True if it is to be told at once; else it is counted."""
        if kind in self._counts:
            self._counts[kind] += 1
            return False
        if not self._has_room(kind):
            principal = kind.principal
            known = principal in self._besides or len(self._besides) < self._most
            self._besides[principal if known else ""] += 1
            return False
        self._counts[kind] = 0
        self._kinds_of[kind.principal, ""] += 1
        self._kinds_of["", kind.host] += kind.principal == ANONYMOUS
        return True

    def _has_room(self, kind: Kind) -> bool:
        share = max(1, self._most // SHARE)
        if len(self._counts) >= self._most:
            return False
        of_principal = self._kinds_of[kind.principal, ""]
        if kind.principal != ANONYMOUS:
            return of_principal < share
        of_all = max(1, self._most // SHARE_OF_ANONYMOUS)
        return of_principal < of_all and self._kinds_of["", kind.host] < share

    def rest(self) -> Iterator[tuple[Kind | str, int]]:
        """How many there were beyond the first of each kind; by principal, of kinds that had no room."""
        counts, besides = self._counts, self._besides
        self._counts, self._besides = {}, Counter()
        self._kinds_of.clear()
        yield from ((kind, count) for kind, count in counts.items() if count)
        yield from besides.items()
