"""One group with members: its state, and what goes with it that is not pure: timers, streams, commits.

Every change is one `apply` of an event, in one turn of the loop. The rules of the protocol are in `state.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import structlog

from takhin.errors import FencedMemberError
from takhin.groups import state
from takhin.groups.assignors import assign
from takhin.groups.commits import CommitsUnderWay
from takhin.groups.deadlines import Deadlines, now_ms
from takhin.groups.events import (
    Action,
    Arm,
    Broken,
    CatalogueChanged,
    CommitsEnded,
    DeadlinePassed,
    Disarm,
    Event,
    Release,
    Remove,
    StepsDue,
    Tell,
    WantSteps,
    WantTarget,
)
from takhin.groups.group import JOINING, Group, Partitions
from takhin.groups.patterns import Pattern
from takhin.groups.seat import Post, Seat
from takhin.logs import debugging
from takhin.members import Assignment
from takhin.sentences import shown
from takhin.turns import Backlog, Turnstile, others_turn

logger = structlog.get_logger()

ASSIGNED_ON_LOOP_MAX = 500
"""Up to so many partitions and subscribed names a target is made on the event loop; else in a thread."""
STUMBLE_SECONDS = 1.0
"""The pause after a fault of an assignor, before it is asked again."""
MEMBER_WAIT_MS = 1
"""The least time between two targets is so long for each member: telling one takes 0.2 ms with its answer."""


@dataclass(slots=True)
class Attendance:
    """What is known of a member besides its state.

    seat: its stream; None while that is broken, and for a static member that is away.
    pattern: the one it subscribes to, kept so that it is kept up to date.
    last_commit_at: ms since 1970; 0: it has committed nothing yet.
    """

    seat: Seat | None = None
    pattern: Pattern | None = None
    last_commit_at: int = 0


class LiveGroup:
    """A group in use. `changed` is called after each change of its state."""

    def __init__(
        self, value: Group, changed: Callable[[LiveGroup], None], backlog: Backlog, turnstile: Turnstile
    ) -> None:
        self.value = value
        self.commits = CommitsUnderWay()
        self.attendance: dict[str, Attendance] = {}
        self._changed = changed
        self._backlog = backlog
        self._deadlines = Deadlines(self._passed)
        self._post = Post(turnstile)
        self._target_timer: asyncio.TimerHandle | None = None
        self._assigning: asyncio.Task[None] | None = None
        self._wanted = False  # another target, when the one being made is there
        self._closed = False

    def apply(self, event: Event, *, seat: Seat | None = None, pattern: Pattern | None = None) -> None:
        """Let something happen to the group.

        seat, pattern: of the member that joins. Raises the RefusedError of the state machine, with nothing
        changed.
        """
        step = state.step(self.value, event, now_ms(), self.commits.busy)
        self.value = step.group
        if seat is not None:
            self._take_seat(seat, pattern)
        told: dict[Seat, Assignment] = {}
        for action in step.actions:
            if isinstance(action, Tell):
                member = self.attendance[action.member_id]
                if member.seat is not None and action.epoch != JOINING:
                    told[member.seat] = Assignment(action.epoch, action.partitions)
            else:
                self._do(action)
        self._post.send(told)
        self._changed(self)

    def broken(self, member_id: str) -> None:
        """A member's stream has ended without a word. Soon the member has some time to come back."""
        self._soon(partial(self._broken, member_id))

    def _broken(self, member_id: str) -> None:
        attendance = self.attendance.get(member_id)
        if attendance is not None and attendance.seat is None:  # else it has come back meanwhile
            self.apply(Broken(member_id))

    def _passed(self, event: DeadlinePassed) -> None:
        """Of a thousand members whose streams broke together the time to come back ends together, too."""
        self._soon(partial(self.apply, event))

    def _soon(self, work: Callable[[], None]) -> None:
        """Do this in a turn that has time for it, if the group is still in use then."""
        self._backlog.add(lambda: None if self._closed else work())

    def end_commits(self, ended: Partitions) -> None:
        """Let partitions in which no commit is under way any more go to their next owners."""
        waited_for = frozenset(at for at in ended if at not in self.value.owner)
        if waited_for:
            self.apply(CommitsEnded(waited_for))
        else:
            self._changed(self)

    def know(self, catalogue: Mapping[str, int], changed: set[str]) -> None:
        """The topics have changed. changed: those that came, went, or have another number of partitions."""
        matches: dict[str, frozenset[str]] = {}
        concerned = False
        for member_id, member in self.value.members.items():
            concerned = concerned or not changed.isdisjoint(member.subscription.names)
            pattern = self.attendance[member_id].pattern
            if pattern is not None and pattern.topics is not member.subscription.matched:
                matches[pattern.key] = pattern.topics
        if concerned or matches:
            self.apply(CatalogueChanged(catalogue, matches))
        else:
            self.value = replace(self.value, catalogue=catalogue)

    def committed(self, member_id: str, now: int) -> None:
        """A member's commit is durable. now: ms since 1970."""
        if (attendance := self.attendance.get(member_id)) is not None:
            attendance.last_commit_at = now

    def close(self) -> None:
        """Forget all that was to happen."""
        self._closed = True
        self._deadlines.close()
        if self._target_timer is not None:
            self._target_timer.cancel()
        if self._assigning is not None:
            self._assigning.cancel()

    def _take_seat(self, seat: Seat, pattern: Pattern | None) -> None:
        member = self.attendance.setdefault(seat.member_id, Attendance())
        if member.seat is not None:
            member.seat.end(
                FencedMemberError(
                    f"member {shown(seat.member_id)} is no longer on this stream: somebody has ended its "
                    "membership (--force, Admin.end_members), or it has come back on another one",
                    member_id=seat.member_id,
                )
            )
        member.seat, member.pattern = seat, pattern
        self._say("member_joined", seat.member_id)

    def _do(self, action: Action) -> None:
        match action:
            case Arm():
                self._deadlines.arm(action)
            case Disarm():
                self._deadlines.disarm(action.member_id, action.kind)
            case Release():
                self.commits.release(action.member_id, action.partitions)
            case Remove():
                self._say("member_gone", action.member_id, action.error)
                self._deadlines.forget(action.member_id)
                seat = self.attendance.pop(action.member_id).seat
                if seat is not None:
                    seat.end(action.error)
            case WantTarget():
                self._want_target(action.at)
            case WantSteps():
                self._soon(partial(self.apply, StepsDue()))

    def _say(self, event: str, member_id: str, error: Exception | None = None) -> None:
        if debugging():
            reason = None if error is None else str(error)
            logger.debug(event, group_id=self.value.group_id, member_id=member_id, reason=reason)

    def _want_target(self, at: int) -> None:
        """Make a target at that time (ms). Large groups change less often: every member is told each time."""
        if self._target_timer is not None:
            self._target_timer.cancel()
        if self.value.target_at is not None:
            at = max(at, self.value.target_at + MEMBER_WAIT_MS * len(self.value.members))
        loop = asyncio.get_running_loop()
        self._target_timer = loop.call_at(at / 1_000, self._make_target)

    def _make_target(self) -> None:
        self._target_timer = None
        if self._assigning is not None:
            self._wanted = True
        else:
            self._assigning = asyncio.create_task(self._assign())

    async def _assign(self) -> None:
        """Make a target of the group as it is now, in a turn of its own or in a thread."""
        try:
            if self._is_small:
                made = assign(self.value)
                await others_turn()
            else:
                made = await asyncio.to_thread(assign, self.value)
        except Exception:
            logger.exception("assignor_failed", group_id=self.value.group_id)
            if self._target_timer is None:
                loop = asyncio.get_running_loop()
                self._target_timer = loop.call_later(STUMBLE_SECONDS, self._make_target)
            return
        finally:
            self._assigning = None
        wanted, self._wanted = self._wanted, False
        self.apply(made)
        if wanted and self._target_timer is None:
            self._make_target()

    @property
    def _is_small(self) -> bool:
        """True if a target is made so quickly that no thread is worth it."""
        subscriptions = [member.subscription.names for member in self.value.members.values()]
        if sum(map(len, subscriptions)) > ASSIGNED_ON_LOOP_MAX:
            return False
        names = frozenset().union(*subscriptions)
        return sum(self.value.catalogue.get(name, 0) for name in names) <= ASSIGNED_ON_LOOP_MAX
