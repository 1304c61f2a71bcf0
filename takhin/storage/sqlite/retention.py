"""Removes by itself what the topics' retention limits let go, and gives the space back that stays free.

One step of one partition is a write in its commit group, so producers wait for one step at most. The
partitions take turns. What tells whether a partition has something to let go is known while its file is
closed, so an idle topic costs next to nothing. Under a hold and on a full disk nothing is removed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import structlog

from takhin.errors import RefusedError, UnavailableError
from takhin.storage.retention import Limits, limits_of
from takhin.storage.sqlite.catalogue import Catalogue
from takhin.storage.sqlite.partition import SqlitePartition
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.topics import SqliteTopic
from takhin.turns import in_turns

logger = structlog.get_logger()

LOOK_SECONDS = 0.2
"""How long one look goes on removing, before it sees again which partitions have something to let go."""
LOGS_AT_A_TIME = 500
"""Partitions that one look asks, each for under 1 µs."""
LEFT_SECONDS = 10.0
"""How long a partition that could not be trimmed is left alone: a damaged page would fail every step."""
STEPS_AT_ONCE = 4
"""Partitions that remove at one time: enough that they share syncs."""

Limited = tuple[SqlitePartition, Limits]


class Retention:
    """The looks that upkeep.py repeats. Lives on the loop."""

    def __init__(self, shared: Shared, catalogue: Catalogue) -> None:
        self._shared = shared
        self._catalogue = catalogue
        self._topics: Mapping[str, SqliteTopic] | None = None
        self._known: Sequence[Limited] = ()
        self._next = 0
        self._left_until: WeakKeyDictionary[SqlitePartition, float] = WeakKeyDictionary()
        self._commits: dict[SqlitePartition, int] = {}

    async def retain(self) -> None:
        """Remove all that is past the limits now."""
        for each in self._limited():
            while self._may_write and await self._step(*each):
                pass

    async def look(self) -> None:
        """Remove some of what is past the limits of the partitions whose turn it is."""
        if not self._may_write:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + LOOK_SECONDS
        limited, now = self._limited(), self._shared.clock()
        first = self._next if self._next < len(limited) else 0
        self._next = first + LOGS_AT_A_TIME
        asked = limited[first : self._next]
        due = deque(each for each in asked if each[0].is_past(each[1], now) and not self._is_left(each[0]))
        while due and self._may_write and loop.time() < until:
            some = [due.popleft() for _ in range(min(STEPS_AT_ONCE, len(due)))]
            more = await asyncio.gather(*(self._step(*each) for each in some))
            due.extend(each for each, left in zip(some, more, strict=True) if left)

    async def look_at_free_pages(self) -> None:
        """Give the free pages of quiet partitions back, where they are many."""
        commits = {}
        async for log in in_turns(self._catalogue.logs()):
            if not self._may_write:
                return
            before = self._commits.get(log, -1)
            try:
                commits[log] = await log.give_pages_back(commits_before=before)
            except (RefusedError, UnavailableError) as error:
                _left(log, error)
        self._commits = commits

    @property
    def _may_write(self) -> bool:
        return not self._shared.files.held and not self._shared.space.full

    def _limited(self) -> Sequence[Limited]:
        """The partitions that have limits. The same object until the catalogue changes."""
        if self._topics is not self._catalogue.topics:
            self._topics = self._catalogue.topics
            self._known = [
                (log, limits)
                for topic in self._topics.values()
                if (limits := limits_of(topic.config)) is not None
                for log in topic.partitions
                if isinstance(log, SqlitePartition)
            ]
        return self._known

    async def _step(self, log: SqlitePartition, limits: Limits) -> bool:
        """Remove some of what is past the limits; True if there may be more."""
        try:
            return await log.let_go(limits, self._shared.clock())
        except (RefusedError, UnavailableError) as error:
            self._left_until[log] = asyncio.get_running_loop().time() + LEFT_SECONDS
            _left(log, error)
            return False

    def _is_left(self, log: SqlitePartition) -> bool:
        """True if a step of the log has failed a short while ago."""
        if log in self._left_until and self._left_until[log] <= asyncio.get_running_loop().time():
            del self._left_until[log]
        return log in self._left_until


def _left(log: SqlitePartition, error: Exception) -> None:
    """A partition that is deleted, or cannot be written now, which health says; a later look tries again."""
    logger.debug("retention_left", partition=f"{log.topic}/{log.partition}", error=str(error))
