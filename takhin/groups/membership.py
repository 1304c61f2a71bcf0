"""One member's stream, as rpc holds it: what the member says goes in, what it is to be told comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from takhin.errors import InvalidArgumentError
from takhin.groups import events
from takhin.members import (
    Heartbeat,
    HeartbeatAnswer,
    JoinGroup,
    Leave,
    MemberRequest,
    MemberResponse,
    Reader,
    Subscribe,
)

if TYPE_CHECKING:
    from takhin.groups.coordinator import Coordinator
    from takhin.groups.live_group import LiveGroup
    from takhin.groups.seat import Seat


FOR_GOOD = Leave()


class Membership:
    """A member that has joined. Call `broken` in the end, however it came to that."""

    def __init__(self, coordinator: Coordinator, group: LiveGroup, seat: Seat, reader: Reader) -> None:
        self._coordinator = coordinator
        self._group = group
        self._seat = seat
        self._reader = reader
        self.member_id = seat.member_id

    async def next(self) -> MemberResponse | None:
        """What the member is to be told next; None when it has left. Raises what its stream ends with."""
        said = await self._seat.next()
        await self._coordinator.turnstile.passed()
        return said

    async def hear(self, request: MemberRequest) -> None:
        """Take a request in. Raises a RefusedError, which is to end the stream."""
        await self._coordinator.turnstile.passed()
        if self._seat.ended or self._coordinator.draining:
            return
        match request:
            case Heartbeat():
                self._group.apply(events.Heartbeat(self.member_id, request.epoch, request.owned))
                # Not its epoch now: a member has to hear of a new one by the assignment, or what it says that
                # it holds would count as if it knew of that.
                self._seat.say(HeartbeatAnswer(request.epoch))
            case Subscribe():
                await self._subscribe(request)
            case Leave():
                self.leave(request)
            case JoinGroup():
                raise InvalidArgumentError(
                    "the member has joined already: a stream has one join, its first request"
                )

    def leave(self, request: Leave = FOR_GOOD) -> None:
        """The member goes. Its stream ends in order."""
        if self._sits and not self._coordinator.draining:
            self._group.apply(events.Leave(self.member_id, request.keep_for_restart))
            self._rise()
            self._seat.end()

    def fail(self, error: Exception) -> None:
        """End the stream with an error. The member may come back on another one."""
        self._seat.end(error)

    def broken(self) -> None:
        """The stream has ended, and with it the membership if the member does not come back in time."""
        if self._sits and not self._coordinator.draining:
            self._rise()
            self._group.broken(self.member_id)
        self._seat.end()

    async def _subscribe(self, request: Subscribe) -> None:
        subscription, pattern = await self._coordinator.subscription(
            request.topics, request.pattern, self._reader
        )
        if self._sits and not self._seat.ended:
            self._group.attendance[self.member_id].pattern = pattern
            self._group.apply(events.Subscribe(self.member_id, subscription))

    @property
    def _sits(self) -> bool:
        """True while the member is in the group, and this stream is its stream."""
        attendance = self._group.attendance.get(self.member_id)
        return attendance is not None and attendance.seat is self._seat

    def _rise(self) -> None:
        """From now on the member has no stream."""
        if self._sits:
            self._group.attendance[self.member_id].seat = None
