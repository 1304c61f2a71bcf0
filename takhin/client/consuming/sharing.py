"""A consumer's share of the work of its group: takes what the group gives it, and gives up what it takes
away.

What is kept is never touched. Knows nothing of the stream (membership.py does) and of iterating
(assignment.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from takhin.client.calls import Calls
from takhin.client.clock import monotonic
from takhin.client.consuming.assignment import Assignment
from takhin.client.consuming.callbacks import Callback
from takhin.client.consuming.commits import Commits
from takhin.client.consuming.membership import Membership
from takhin.client.consuming.options import GroupOptions, Reset
from takhin.client.consuming.starts import Starts
from takhin.errors import (
    LogReplacedError,
    OffsetOutOfRangeError,
    RefusedError,
    TakhinError,
    UnavailableError,
    UnknownPartitionError,
    UnknownTopicError,
)
from takhin.model import TopicPartition

LOOK_AGAIN_S = 1.0
"""When to try again to read a partition of the group that is not served, or not there yet."""
REVOKE_SHARE = 0.9
"""The part of the revoke time after which a partition is given up in any case: who is late is fenced."""
LAST_SHARE = 0.2
"""The part that is kept for the callback and the commit if what was handed out is not processed by then."""
LEAVE_S_MAX = 3.0
COMMIT_AT_CLOSE_S_MAX = 10.0

logger = logging.getLogger("takhin.client")


class Share:
    """Life: `start` (it joins), `leave` or `stop`. All methods run on the loop."""

    endless = True

    def __init__(
        self, calls: Calls, options: GroupOptions, assigned: Assignment, commits: Commits, starts: Starts
    ) -> None:
        self._options = options
        self._group_id = options.subscription.group_id
        self._assigned = assigned
        self._commits = commits
        self._starts = starts
        self._membership = Membership(calls, options, self)
        commits.member = self._membership
        self._granted: frozenset[TopicPartition] = frozenset()
        self._granted_at = 0.0
        self._tells_held = False  # a grant is to be answered with what is held then
        self._lost: list[TopicPartition] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._leaving = False
        self._left = asyncio.Event()  # there is nothing more to wait for
        self._keeps = options.habits.keep_for_restart and bool(options.subscription.instance_id)

    # What the membership calls

    def held(self) -> frozenset[TopicPartition]:
        """What it reads, and what it may begin to read at any moment."""
        return self._granted.union(self._assigned.partitions())

    def granted(self, partitions: frozenset[TopicPartition]) -> None:
        self._tells_held = True  # also if it lacks nothing: the one before it may have got lost on the way
        self._granted, self._granted_at = partitions, monotonic()
        self._news.set()

    def lost(self) -> None:
        held = self._assigned.partitions()
        self._assigned.drop(held)
        self._commits.forget()
        self._granted, self._tells_held = frozenset(), False
        self._lost += held
        if self._settling is not None:
            self._settling.cancel()
        self._news.set()

    # What the assignment calls

    def start(self) -> None:
        """Be a member from now on."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._take_part())
            self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Leave the group to find out by itself that the member is gone."""
        self._leaving = True
        self._left.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def mends(self, at: TopicPartition, error: Exception) -> bool:
        """Go on elsewhere if that is wanted; wait for the group's next word about a topic that is gone."""
        if isinstance(error, UnknownTopicError | UnknownPartitionError):
            self._assigned.drop([at])  # the group takes it away soon, or there is another topic of the name
            self._commits.forget([at])
            self._lost.append(at)
            self._news.set()
            return True
        if self._options.places.reset is Reset.ERROR or not isinstance(
            error, OffsetOutOfRangeError | LogReplacedError
        ):
            return False
        place = self._options.places.reset.place
        read_range = await self._starts.at_place(at, place, self._deadline())
        if read_range is None:
            return False
        logger.warning("the position is lost, going on at %s: %s", place, error)
        await self._assigned.move(at, read_range)
        self._commits.sought(at, read_range.position)
        return True

    async def leave(self) -> None:
        """Give up everything and leave the group.

        Raises what kept processed records from being committed, unless others have their partitions by now.
        Returns when that is done, whoever does it.
        """
        if self._leaving:
            await self._left.wait()
            return
        if self._task is None and not self._membership.epoch:
            return
        self._leaving = True
        try:
            await self._leave()
        finally:
            self._left.set()

    def check_outside_callbacks(self) -> None:
        """Raise InCallbackError in a callback."""
        self._options.callbacks.check_outside()

    async def _leave(self) -> None:
        if (settling := self._settling) is not None:
            settling.cancel()
            await asyncio.wait({settling})
        held = self._assigned.partitions()
        await self._assigned.withhold(held)
        try:
            callbacks = self._options.callbacks
            await callbacks.call(callbacks.on_revoked, held, self._options.revoke_s)
        finally:
            deadline = monotonic() + min(self._options.outage_s_max, COMMIT_AT_CLOSE_S_MAX)
            errors = await self._commit_processed(deadline, held) if self._options.habits.auto_commit else []
            await self.depart()
        for error in errors:
            if not isinstance(error, RefusedError):
                raise error

    async def depart(self) -> None:
        """Leave the group as it is, and wait a moment until the broker knows."""
        self._leaving = True
        self._membership.leave(keep_for_restart=self._keeps)
        self.start()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=LEAVE_S_MAX)
        await self.stop()

    async def _take_part(self) -> None:
        """Be a member, and do beside it what is to be done. The first of these to end ends the others."""
        await self._starts.look_around(self._deadline())
        work = [self._membership.run(), self._follow()]
        if self._options.habits.auto_commit:
            work.append(self._commit_on())
        tasks = [asyncio.get_running_loop().create_task(each) for each in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in done:
            task.result()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Whoever iterates gets an error, and the next one who does starts again."""
        self._task = None
        if not task.cancelled() and isinstance(fault := task.exception(), Exception):
            if self._leaving:
                logger.warning("a member left its group without saying so: %s", fault)
            else:
                self._assigned.fail(fault)

    async def _follow(self) -> None:
        """Do what the group says, one thing after the other."""
        self._assigned.begin(self._assigned.partitions())  # a former task may have been cancelled before that
        self._news.set()
        while True:
            await self._news.wait()
            self._news.clear()
            if self._leaving:
                continue
            settling = self._settling = asyncio.get_running_loop().create_task(self._settle())
            try:
                await asyncio.wait({settling})
            finally:
                self._settling = None
                settling.cancel()
            if settling.cancelled():  # something was lost meanwhile
                self._news.set()
            else:
                settling.result()

    async def _settle(self) -> None:
        """Hold what was granted last."""
        lost, self._lost = self._lost, []
        await self._call(self._options.callbacks.on_lost, lost)
        held = set(self._assigned.partitions())
        tells_held, self._tells_held = self._tells_held, False
        if gone := held - self._granted:
            await self._give_up(sorted(gone))
        if gone or tells_held:
            self._membership.tell_owned()
        if new := self._granted - held:
            await self._take(sorted(new))

    async def _give_up(self, gone: Sequence[TopicPartition]) -> None:
        """Hand out no more of these partitions; when all that was handed out is processed, let them go."""
        until = self._granted_at + REVOKE_SHARE * self._options.revoke_s
        await self._assigned.withhold(gone)
        if not await self._assigned.passed(gone, until - LAST_SHARE * self._options.revoke_s):
            logger.warning(
                "records that are still being processed go to another member of group %r, too: they took "
                "longer than the revoke time",
                self._group_id,
            )
        await self._call(self._options.callbacks.on_revoked, gone, until - monotonic())
        if self._options.habits.auto_commit:
            await self._commit_processed(until, gone)
        self._assigned.remove(gone)
        self._commits.forget(gone)

    async def _take(self, new: Sequence[TopicPartition]) -> None:
        """Read these partitions, too."""
        try:
            found = await self._starts.find(new, self._deadline())
        except (UnavailableError, UnknownTopicError, UnknownPartitionError) as error:
            logger.info("cannot read new partitions of the group yet: %s", error)
            self._look_again()
            return
        if len(found.ranges) < len(new):
            self._look_again()
        ranges = {at: of for at, of in found.ranges.items() if at in self._granted}
        self._assigned.add(ranges, held=True)
        self._commits.took(ranges, due=found.new)
        await self._commit_processed(self._deadline(), found.new)
        await self._call(self._options.callbacks.on_assigned, list(ranges))
        self._assigned.begin(ranges)

    async def _commit_on(self) -> None:
        while True:
            await asyncio.sleep(self._options.habits.commit_interval_ms / 1_000)
            await self._commit_processed(self._deadline(), None)

    async def _commit_processed(
        self, deadline: float, partitions: Collection[TopicPartition] | None
    ) -> list[TakhinError]:
        """Commit what is processed, of all partitions or of some."""
        due = self._commits.due(self._assigned.processed(), partitions)
        return self._told(await self._commits.store_each(due, deadline))

    def _told(self, errors: list[TakhinError]) -> list[TakhinError]:
        for error in errors:
            logger.warning("group %r: a commit failed: %s", self._group_id, error)
        return errors

    async def _call(
        self,
        callback: Callback | None,
        partitions: Sequence[TopicPartition],
        seconds_max: float | None = None,
    ) -> None:
        """Call a function of the user. Whoever iterates gets what it raises."""
        try:
            await self._options.callbacks.call(callback, partitions, seconds_max)
        except TimeoutError as error:  # which would mean something else to who waits for a record
            late = RuntimeError(f"a callback of a member of group {self._group_id!r} took too long")
            late.__cause__ = error
            self._assigned.fail(late)
        except Exception as error:  # noqa: BLE001  it is raised where the user can see it
            self._assigned.fail(error)

    def _look_again(self) -> None:
        asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._news.set)

    def _deadline(self) -> float:
        return monotonic() + self._options.outage_s_max
