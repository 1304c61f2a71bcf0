"""What waits to be sent on one member's stream. It holds the newest of each kind and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from takhin.members import Assignment, HeartbeatAnswer, Joined, MemberResponse

IN_ORDER: Sequence[type[MemberResponse]] = (Joined, Assignment, HeartbeatAnswer)
"""How they are sent if they wait together: an answer has no epoch that the member has not been told of."""


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

    def check(self) -> None:
        """Raise the error that the stream ends with, if it does."""
        if self._error is not None:
            raise self._error

    async def next(self) -> MemberResponse | None:
        """What is to be sent next; None at the end. Raises the error that the stream ends with."""
        while not self._unsent:
            if self.ended:
                self.check()
                return None
            self._news.clear()
            await self._news.wait()
        return self._unsent.pop(next(kind for kind in IN_ORDER if kind in self._unsent))
