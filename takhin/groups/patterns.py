"""Patterns of topic names, and which topics each matches now.

The syntax is RE2's: matching takes time in proportion to the name, whatever the pattern. A pattern matches
whole names. It is matched against all topics once, and after that against those that are new.
"""

from __future__ import annotations

from collections.abc import Collection
from weakref import WeakValueDictionary

import re2

from takhin.errors import InvalidArgumentError
from takhin.sentences import shown
from takhin.storage.contract import Engine
from takhin.turns import in_turns

PROGRAM_SIZE_MAX = 1_000
"""Instructions of RE2's program for a pattern. The states of larger ones may not fit into its memory, and
then each match takes some ms instead of some µs."""
MATCHED_AT_ONCE = 200
"""Names that are matched in one turn of the loop: up to 2 ms with the slowest pattern there can be."""


class Pattern:
    """A pattern, and the topics that it matches."""

    def __init__(self, text: str) -> None:
        """Raises InvalidArgumentError for what RE2 does not take, and for what is too large."""
        self.text = text
        self.topics: frozenset[str] = frozenset()
        """The same object as long as they are the same."""
        self._regexp = _compiled(text)
        self._seen: frozenset[str] = frozenset()

    async def look_at(self, names: Collection[str]) -> None:
        """Match it against those of the topics that it has not seen."""
        seen = frozenset(names)
        unseen = in_turns(seen - self._seen, at_once=MATCHED_AT_ONCE)
        new = {name async for name in unseen if self._matches(name)}
        topics = (self.topics & seen) | new
        if topics != self.topics:
            self.topics = topics
        self._seen = seen

    def _matches(self, name: str) -> bool:
        return self._regexp.fullmatch(name.encode()) is not None


class Patterns:
    """The patterns that members of groups subscribe to. One that nobody refers to any more is forgotten."""

    def __init__(self, engine: Engine, chars_max: int) -> None:
        self._engine = engine
        self._chars_max = chars_max
        self._patterns: WeakValueDictionary[str, Pattern] = WeakValueDictionary()

    async def find(self, text: str) -> Pattern:
        """The pattern, matched against the topics as they are on return. Keep it to keep it up to date.

        Raises InvalidArgumentError.
        """
        if len(text) > self._chars_max:
            raise InvalidArgumentError(
                f"topic_pattern has at most {self._chars_max} characters (groups.pattern_chars_max), not "
                f"{len(text)}",
                field="topic_pattern",
            )
        pattern = self._patterns.get(text)
        if pattern is None:
            pattern = self._patterns[text] = Pattern(text)
        known = None
        while known is not self._engine.topics:
            known = self._engine.topics
            await pattern.look_at(known)
        return pattern

    async def look_again(self) -> None:
        """Match all of them against the topics that are new in the catalogue."""
        for pattern in list(self._patterns.values()):
            await pattern.look_at(self._engine.topics)


def _compiled(text: str) -> re2._Regexp:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.encoding = re2.Options.Encoding.LATIN1  # topic names are ASCII
    try:
        regexp = re2.compile(text.encode("latin-1"), options)
    except UnicodeEncodeError:
        raise _invalid(text, "no topic's name has such characters") from None
    except re2.error as error:
        reason = error.args[0]
        raise _invalid(text, reason.decode() if isinstance(reason, bytes) else str(reason)) from None
    if regexp.programsize > PROGRAM_SIZE_MAX:
        raise _invalid(text, "it is too large")
    return regexp


def _invalid(text: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"topic_pattern {shown(text)} is no pattern in RE2's syntax: {reason}", field="topic_pattern"
    )
