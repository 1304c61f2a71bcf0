"""What removes the oldest records of one log, and gives the space of its file back.

Each step is a write in the log's next commit group (writes.py). Which logs remove what, and when, is decided
in retention.py; a caller's trim comes from partition.py. On a full disk the steps need room, too, in the
write-ahead log: it is cut in between.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple, Protocol

from takhin.errors import StorageFullError
from takhin.model import OffsetAtTime, TopicPartition
from takhin.schema import PAGE_BYTES
from takhin.storage.retention import AHEAD_MS, Limits
from takhin.storage.sqlite.group import LogState
from takhin.storage.sqlite.life import Life
from takhin.storage.sqlite.shared import Shared
from takhin.storage.sqlite.space import SPENT_BYTES
from takhin.storage.sqlite.times import Sought
from takhin.storage.sqlite.writes import (
    TRIM_BYTES_MAX,
    TRIM_RECORDS_MAX,
    ClearTimes,
    GivePagesBack,
    Trim,
)

STEPS_IN_A_GROUP = 4
"""Steps of retention in one commit group, each with a turn of the loop for itself."""


class Log(Protocol):
    """The partition."""

    @property
    def closed(self) -> bool:
        """As in the contract."""

    def check_available(self) -> None:
        """As in the contract."""

    async def first_at_time(self, sought: Sought, until: int) -> OffsetAtTime:
        """The first record that is sought, or where the search has come to behind `until`."""

    @property
    def wal_bytes_left(self) -> int:
        """How much of the WAL is not yet in the `.db` file."""

    async def cut_wal(self, growth_bytes_max: int) -> None:
        """Give the space of the WAL back, if that lengthens the `.db` file by at most so much."""


class Due(NamedTuple):
    """What is to go of a log: records below an offset.

    bytes_max: only as many as that; None: all. over_gap: the log begins with a record then, so that the next
    step finds one to remove.
    """

    before: int
    bytes_max: int | None = None
    over_gap: bool = False


class Trimmer:
    """Removes records of one partition. Lives on the loop."""

    def __init__(self, shared: Shared, state: LogState, life: Life, log: Log) -> None:
        self._shared = shared
        self._state = state
        self._life = life
        self._log = log
        self._at = TopicPartition(state.topic, state.partition)
        self.one = asyncio.Lock()
        """Hold it from `due` to the end of `let_go`: what is too much must not go twice."""

    async def trim(self, offset: int) -> int:
        """Remove what lies below an offset of the log; returns where the log begins, durably.

        Raises StorageFullError if others have been freeing space for too long; some is removed then.
        """
        while self._state.durable_start < offset:  # start_offset may be that of a COMMIT under way
            self._log.check_available()
            async with self._shared.space.in_turn():
                await self.make_room()
                # It goes on also if the one who asked has gone.
                await asyncio.shield(self._life.submit(Trim(offset)))
        durable_start = self._state.durable_start
        with suppress(StorageFullError):  # what is trimmed is trimmed
            async with self._shared.space.in_turn():
                await self._give_back_on_full_disk()
        return durable_start

    def is_past(self, limits: Limits, now: int) -> bool:
        """True if something is due. It needs no open file. now: the broker's clock, ms."""
        state = self._state
        start = state.start_offset
        if start == state.end_offset or self._log.closed or self._life.failed:
            return False
        if limits.records is not None and limits.first_by_number(start, state.record_count) > start:
            return True
        if limits.consumed and self._first_by_groups(limits) > start:
            return True
        if self._excess_bytes(limits):
            return True
        since, oldest = limits.kept_since(now), state.ends.oldest
        return (
            since is not None
            and oldest is not None
            and (oldest.is_past(since, now) or oldest.is_unclear(now))
        )

    async def due(self, limits: Limits, now: int) -> Due | None:
        """What is to go next. By size that is no more than is too much, however large its records are."""
        self._log.check_available()
        by_age = await self._first_by_age(limits, now)
        state = self._state
        by_number = limits.first_by_number(state.start_offset, state.record_count)
        first = max(by_age, self._first_by_groups(limits))
        if max(first, by_number) > state.start_offset:
            return Due(first) if first >= by_number else Due(by_number, over_gap=True)
        excess = self._excess_bytes(limits)
        return Due(state.end_offset - 1, max(excess, PAGE_BYTES)) if excess else None  # less frees nothing

    async def let_go(self, due: Due) -> None:
        """Remove some of what is due. Its writes are queued before it first waits for anything.

        Where much is, that is a few steps in one commit group: with one alone, producers would be faster.
        On a full disk it is one: hold `space.in_turn()` then, from `make_room` on.
        """
        steps = self._steps(due)
        each = due.bytes_max if due.bytes_max is None else due.bytes_max // steps
        writes = [self._life.submit(Trim(due.before, each, due.over_gap)) for _ in range(steps)]
        await asyncio.shield(asyncio.gather(*writes))
        await self._give_back_on_full_disk()

    def _steps(self, due: Due) -> int:
        if self._shared.space.full:
            return 1
        state = self._state
        records = due.before - state.start_offset
        if due.bytes_max is None:
            return min(STEPS_IN_A_GROUP, 1 + records // TRIM_RECORDS_MAX)
        records = records * due.bytes_max // state.records_bytes  # if all are of one size
        wanted = max(records // TRIM_RECORDS_MAX, due.bytes_max // TRIM_BYTES_MAX)
        return min(STEPS_IN_A_GROUP, 1 + wanted)

    def _excess_bytes(self, limits: Limits) -> int:
        """How many bytes of records are too many. The last record stays, however large."""
        state = self._state
        return limits.excess_bytes(state.records_bytes) if state.record_count > 1 else 0

    def _first_by_groups(self, limits: Limits) -> int:
        start = self._state.start_offset
        if not limits.consumed:
            return start
        return limits.first_by_groups(start, self._life.offsets.lowest(self._at))

    async def _first_by_age(self, limits: Limits, now: int) -> int:
        """The first offset to be kept by age, or one below it if that is enough for some steps."""
        since, oldest = limits.kept_since(now), self._state.ends.oldest
        if since is None or oldest is None:
            return self._state.start_offset
        if oldest.is_unclear(now):
            await self._clear_times()
        elif oldest.is_past(since, now):
            until = self._state.start_offset + STEPS_IN_A_GROUP * TRIM_RECORDS_MAX
            return (await self._log.first_at_time(Sought(since, believed=now + AHEAD_MS), until)).offset
        return self._state.start_offset

    async def _clear_times(self) -> None:
        """Count records that are ahead of the clock as appended now, where nobody knows when they were."""
        at: int | None = 0
        while at is not None:
            at = await asyncio.shield(self._life.submit(ClearTimes(at)))

    async def give_pages_back(self, *, commits_before: int) -> int:
        """Give free pages back to the file system, if nobody writes, and they are many or the disk is full.

        Returns the commits. commits_before: how many the log had a while ago.
        """
        async with self._shared.space.in_turn():
            await self._give_back_on_full_disk()
        quiet = self._state.mark.commits == commits_before
        if quiet and self._state.pages.many_free(self._shared.settings.free_pages_percent_max):
            while quiet and self._state.pages.free and not self._shared.files.held:
                commits = self._state.mark.commits
                await asyncio.shield(self._life.submit(GivePagesBack()))
                quiet = self._state.mark.commits == commits + 1
        return self._state.mark.commits

    async def _give_back_on_full_disk(self) -> None:
        """Give free pages back while the disk is full, as far as there is room for the steps of that."""
        with suppress(StorageFullError):  # what is trimmed is trimmed
            while self._shared.space.full and self._state.pages.free and not self._log.closed:
                if self._shared.files.held:
                    return
                await self.make_room()
                if self._log.wal_bytes_left > SPENT_BYTES:  # it takes as much there as it gives back
                    return
                await asyncio.shield(self._life.submit(GivePagesBack()))

    async def make_room(self) -> None:
        """On a full disk, see that a step finds room. Raises StorageFullError.

        The write-ahead log is cut before it grows by what the steps write: that has to happen while there is
        still room to lengthen the file.
        """
        space = self._shared.space
        if not space.full or space.has_ballast:  # upkeep is about to give it, and writes wait for it
            return
        if self._log.wal_bytes_left > SPENT_BYTES or not space.has_room:
            await self._log.cut_wal(space.cut_bytes_max())
        if not space.has_room:
            raise space.error()
