"""Patterns of topic names, and which topics each matches now.

The syntax is RE2's: matching takes time in proportion to the name, whatever the pattern. A pattern matches
whole names. It is matched against all topics once, and after that against those that are new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from weakref import WeakValueDictionary

import re2

from takhin.errors import InvalidArgumentError
from takhin.limits import RESERVED
from takhin.members import ANYBODY, Reader
from takhin.sentences import shown
from takhin.storage.contract import Engine, Topic
from takhin.turns import in_turns

PROGRAM_SIZE_MAX = 1_000
"""Instructions of RE2's program for a pattern. The states of larger ones may not fit into its memory, and
then each match takes some ms instead of some µs."""
MATCHED_AT_ONCE = 200
"""Names that are matched in one turn of the loop: up to 2 ms with the slowest pattern there can be."""


class Pattern:
    """A pattern, and the topics that it matches."""

    def __init__(self, text: str, reader: Reader = ANYBODY) -> None:
        """Raises InvalidArgumentError for what RE2 does not take, and for what is too large."""
        self.text = text
        self.key = key_of(text, reader)
        self.topics: frozenset[str] = frozenset()
        """Those that the reader may read. The same object as long as they are the same."""
        self._reader = reader
        self._matched: frozenset[str] = frozenset()
        self._regexp = _compiled(text)
        self._seen: Collection[str] = ()  # a catalogue, which all patterns share

    async def look_at(self, names: Collection[str]) -> None:
        """Match it against those of the topics that it has not seen. names: a mapping, or a set."""
        unseen = in_turns([name for name in names if name not in self._seen], at_once=MATCHED_AT_ONCE)
        new = {name async for name in unseen if self._matches(name)}
        gone = {name for name in self._matched if name not in names}
        if new or gone:
            self._matched = (self._matched - gone) | new
        self._seen = names  # not before: whoever asks may go away meanwhile
        readable = self._matched
        if self._reader is not ANYBODY:
            matched = in_turns(self._matched, at_once=MATCHED_AT_ONCE)
            readable = frozenset([name async for name in matched if self._reader.may_read(name)])
        if readable != self.topics:
            self.topics = readable

    def _matches(self, name: str) -> bool:
        """The broker's own topics are not found by a pattern. Whoever wants one names it."""
        return not name.startswith(RESERVED) and self._regexp.fullmatch(name.encode()) is not None


class Patterns:
    """The patterns that members of groups subscribe to. One that nobody refers to any more is forgotten."""

    def __init__(self, engine: Engine, chars_max: int) -> None:
        self._engine = engine
        self._chars_max = chars_max
        self._patterns: WeakValueDictionary[str, Pattern] = WeakValueDictionary()
        self._matched: WeakValueDictionary[int, frozenset[str]] = WeakValueDictionary()  # by their hashes
        self._one = asyncio.Lock()

    async def find(self, text: str, reader: Reader = ANYBODY) -> Pattern:
        """The pattern, matched against the topics as they are on return. Keep it to keep it up to date.

        Raises InvalidArgumentError.
        """
        if len(text) > self._chars_max:
            raise InvalidArgumentError(
                f"topic_pattern has at most {self._chars_max} characters (groups.pattern_chars_max), not "
                f"{len(text)}",
                field="topic_pattern",
            )
        key = key_of(text, reader)
        pattern = self._patterns.get(key)
        if pattern is None:
            pattern = self._patterns[key] = Pattern(text, reader)
        known = None
        while known is not self._engine.topics:
            known = await self._look(pattern)
        return pattern

    async def look_again(self) -> None:
        """Match all of them against the topics that are new in the catalogue."""
        for pattern in list(self._patterns.values()):
            await self._look(pattern)

    async def _look(self, pattern: Pattern) -> Mapping[str, Topic]:
        """Match a pattern against the topics as they are, which are returned."""
        async with self._one:
            topics = self._engine.topics
            await pattern.look_at(topics)
            # Many patterns match the same topics, which can be thousands: they share one set of them.
            shared = self._matched.setdefault(hash(pattern.topics), pattern.topics)
            if shared == pattern.topics:
                pattern.topics = shared
        return topics


def key_of(text: str, reader: Reader) -> str:
    """What a pattern is known by: its text, and its reader unless that is anybody."""
    return f"{text}\0{reader.principal}" if reader.principal else text


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
