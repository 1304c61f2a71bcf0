"""Removes by itself what the topics' retention limits let go, and gives the space back that stays free.

One step of one partition is a write in its commit group, so producers wait for one step at most. The
partitions take turns: each that was found to have something to let go is served before any is for the second
time. What tells whether it has is known while its file is closed, so an idle topic costs next to nothing.
Under a hold nothing is removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from time import perf_counter
from weakref import WeakKeyDictionary

import structlog

from takhin.errors import RefusedError, StorageFullError, UnavailableError
from takhin.storage.retention import Limits, limits_of
from takhin.storage.sqlite.catalogue import Catalogue
from takhin.storage.sqlite.partition import SqlitePartition
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.topics import SqliteTopic
from takhin.turns import in_turns, others_turn

logger = structlog.get_logger()

LOOK_SECONDS = 0.2
"""How long one look goes on removing, before it sees again which partitions have something to let go."""
LOGS_AT_A_TIME = 50
"""Partitions that one look asks, at least, each for 1 to 2 µs."""
LOOKS_IN_A_ROUND = 10
"""After so many looks, which takes a second or two, each partition was asked."""
TURN_SECONDS = 0.002
"""After so long of asking others have their turn."""
LEFT_SECONDS = 10.0
"""How long a partition that could not be trimmed is left alone: a damaged page would fail every step."""
FULL_SECONDS = 0.5
"""The same while the disk is full: room for a step is made as often."""
STEPS_AT_ONCE = 4
"""Partitions that remove at one time: enough that they share syncs."""
SLOW_SECONDS = 0.5
SLOW_AT_ONCE = 64
"""A partition whose step takes longer, as while another process has its file locked, is no longer one of
those four: the others go on. There are at most so many of them."""

Limited = tuple[SqlitePartition, Limits]


class Retention:
    """The looks that upkeep.py repeats. Life: looks, `stop`. Lives on the loop."""

    def __init__(self, shared: Shared, catalogue: Catalogue) -> None:
        self._shared = shared
        self._catalogue = catalogue
        self._topics: Mapping[str, SqliteTopic] | None = None
        self._known: Sequence[Limited] = ()
        self._next = 0
        self._due: dict[SqlitePartition, None] = {}  # in the order in which they are served
        self._at_work: dict[SqlitePartition, tuple[asyncio.Task[None], float]] = {}  # and since when
        self._left_until: WeakKeyDictionary[SqlitePartition, float] = WeakKeyDictionary()
        self._commits: dict[SqlitePartition, int] = {}

    async def retain(self) -> None:
        """Remove all that is past the limits now."""
        for log, _ in await self._limited():
            while self._may_write and await self._step(log):
                pass
            await log.landed()  # also what a look has begun

    async def look(self) -> None:
        """Remove some of what is past the limits, from the partitions whose turn it is."""
        if not self._may_write:
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + LOOK_SECONDS
        await self._ask()
        while self._may_write and (left := until - loop.time()) > 0:
            while self._due and self._may_begin(loop.time()):
                log = next(iter(self._due))
                del self._due[log]
                self._at_work[log] = asyncio.create_task(self._work(log)), loop.time()
            if not self._at_work:
                return
            tasks = [task for task, _ in self._at_work.values()]
            await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    async def _ask(self) -> None:
        """See which of the partitions whose turn it is have something to let go."""
        limited, now = await self._limited(), self._shared.clock()
        first = self._next if self._next < len(limited) else 0
        self._next = first + max(LOGS_AT_A_TIME, -(-len(limited) // LOOKS_IN_A_ROUND))
        began = perf_counter()
        for log, limits in limited[first : self._next]:
            if log not in self._at_work and log.trimmer.is_past(limits, now) and not self._is_left(log):
                self._due.setdefault(log)
            if perf_counter() - began > TURN_SECONDS:
                await others_turn()
                began = perf_counter()

    def _may_begin(self, now: float) -> bool:
        """True if one more partition may be served."""
        quick = sum(1 for _, since in self._at_work.values() if now - since < SLOW_SECONDS)
        return quick < STEPS_AT_ONCE and len(self._at_work) < SLOW_AT_ONCE

    async def _work(self, log: SqlitePartition) -> None:
        try:
            if await self._step(log):
                self._due.setdefault(log)
        except Exception:  # the others go on, and the next look may do better
            logger.exception("retention_failed", partition=f"{log.topic}/{log.partition}")
        finally:
            del self._at_work[log]

    async def stop(self) -> None:
        """End what is at work. No look may be under way."""
        tasks = [task for task, _ in self._at_work.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look_at_free_pages(self) -> None:
        """Give the free pages of quiet partitions back, where they are many; on a full disk all of them."""
        commits = {}
        async for log in in_turns(self._catalogue.logs()):
            if not self._may_write:
                return
            before = self._commits.get(log, -1)
            try:
                commits[log] = await log.trimmer.give_pages_back(commits_before=before)
            except (RefusedError, UnavailableError) as error:
                _left(log, error)
        self._commits = commits

    @property
    def _may_write(self) -> bool:
        return not self._shared.files.held

    async def _limited(self) -> Sequence[Limited]:
        """The partitions that have limits. The same object until the catalogue changes."""
        if self._topics is not self._catalogue.topics:
            topics = self._catalogue.topics
            known = []
            async for topic in in_turns(topics.values()):
                if (limits := limits_of(topic.config)) is not None:
                    known += [(log, limits) for log in topic.partitions if isinstance(log, SqlitePartition)]
            self._topics, self._known = topics, known
        return self._known

    def _limits(self, log: SqlitePartition) -> Limits | None:
        """The limits of a partition as its topic says now; None if it has none, or is not served any more."""
        topic = self._catalogue.topics.get(log.topic)
        return None if log.closed or topic is None else limits_of(topic.config)

    async def _step(self, log: SqlitePartition) -> bool:
        """Remove some of what is past the limits; True if there may be more."""
        try:
            async with log.trimmer.one, self._shared.space.in_turn():
                await log.trimmer.make_room()
                limits, now = self._limits(log), self._shared.clock()
                due = None if limits is None else await log.trimmer.due(limits, now)
                if due is None or limits is None or limits != self._limits(log):  # altered meanwhile
                    return False
                await log.trimmer.let_go(due)
            return log.trimmer.is_past(limits, now)
        except (RefusedError, UnavailableError) as error:
            full = isinstance(error, StorageFullError)
            left_seconds = FULL_SECONDS if full else LEFT_SECONDS
            self._left_until[log] = asyncio.get_running_loop().time() + left_seconds
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
