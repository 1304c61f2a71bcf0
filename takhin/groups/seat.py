"""What waits to be sent on one member's stream. It holds the newest of each kind and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import islice

from takhin.members import Assignment, HeartbeatAnswer, Joined, MemberResponse
from takhin.turns import Turnstile, others_turn

IN_ORDER: Sequence[type[MemberResponse]] = (Joined, Assignment, HeartbeatAnswer)
"""How they are sent if they wait together."""

TOLD_AT_ONCE = 20
"""Members of a group that are told something in one turn of the loop: all of them answer."""


class Seat:
    """A member's stream, from the broker's side. Of what the member has not read, only the newest counts."""

    def __init__(self, member_id: str) -> None:
        self.member_id = member_id
        self.ended = False
        """True once nothing more is sent."""
        self._error: Exception | None = None
        self._unsent: dict[type[MemberResponse], MemberResponse] = {}
        self._news = asyncio.Event()

    def say(self, said: MemberResponse) -> None:
        """Send it, in place of one of its kind that is not sent yet."""
        if not self.ended:
            self._unsent[type(said)] = said
            self._news.set()

    def end(self, error: Exception | None = None) -> None:
        """Send nothing more, and end the stream in order, or with an error."""
        if not self.ended:
            self.ended, self._error = True, error
            self._unsent.clear()
            self._news.set()

    async def next(self) -> MemberResponse | None:
        """What is to be sent next; None at the end. Raises the error that the stream ends with."""
        while not self._unsent:
            if self._error is not None:
                raise self._error
            if self.ended:
                return None
            self._news.clear()
            await self._news.wait()
        return self._unsent.pop(next(kind for kind in IN_ORDER if kind in self._unsent))


class Post:
    """Tells the members of a group their assignments, some at a time, so that all others have their turns."""

    def __init__(self, turnstile: Turnstile) -> None:
        """turnstile: through which members' answers go, too, so they are not waited for behind new ones."""
        self._turnstile = turnstile
        self._unsaid: dict[Seat, Assignment] = {}
        self._sending: asyncio.Task[None] | None = None

    def send(self, assignments: Mapping[Seat, Assignment]) -> None:
        """Say them, each in place of one to the same member that was not said yet."""
        self._unsaid.update(assignments)
        if self._sending is None:
            self._say_some()
            if self._unsaid:
                self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._unsaid:
            await others_turn()
            await self._turnstile.passed()
            self._say_some()
        self._sending = None

    def _say_some(self) -> None:
        for seat in list(islice(self._unsaid, TOLD_AT_ONCE)):
            seat.say(self._unsaid.pop(seat))
