"""When the next message of a stream is asked for, so that large ones do not arrive all at once.

A message that was asked for arrives whole, whatever its size; of one that was not, gRPC holds no more than
rpc.lookahead_bytes. But a stream may be quiet for as long as it likes, and gRPC offers no way to learn that
a message has begun. So a stream that has had a large message, or none yet, asks for the next one with a
place. If nothing comes, it gives the place to others after a moment and goes on without one.

Whoever is over a quota is asked for nothing until what it has taken is paid for. Its streams wait in line
then, so that one message comes and is counted before the next stream looks whether all is paid.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

from takhin.rpc.places import Place, Places, Source

LARGE_BYTES = 1 << 20
"""Streams of smaller messages ask without a place: that adds little to what gRPC holds of each anyway."""
PATIENCE_SECONDS = 0.1
"""How long the first message of a stream may take to come before the place is given to others."""
PATIENCE_SECONDS_MAX = 1.0
"""The same for later ones of a stream that has had a large one, and for first ones where large ones came so
shortly before: they are probably on their way."""


class Quota(Protocol):
    """What a stream's messages are counted with."""

    def owed_s(self) -> float:
        """How long until the next message may be read."""

    def delayed(self) -> None:
        """Count that the next message has to wait."""

    def came(self, size_bytes: int) -> None:
        """Count a message that has come."""


class Read(NamedTuple):
    """A message of a stream, in a list: who takes it out is the only one to keep it.

    place: the one with which it was read, which the receiver gives up. throttled_ms: for so long a quota held
    it back.
    """

    message: list[bytes]
    place: Place | None
    throttled_ms: int


class Turn:
    """A stream's turn to have its next message sent. place: None for one that needs none.

    line: that of its owner, if it came in line. throttled_s: for so long it waited there.
    """

    def __init__(
        self, place: Place | None, line: asyncio.Lock | None = None, throttled_s: float = 0.0
    ) -> None:
        self.place = place
        self.throttled_s = throttled_s
        self._line = line

    def leave_line(self) -> None:
        """Let the next stream of the owner look whether all is paid."""
        if self._line is not None:
            self._line.release()
            self._line = None

    def end(self) -> None:
        """Let others have the turn: no message has come, or none is to come."""
        self.throttled_s = 0.0
        self.leave_line()
        if self.place is not None:
            self.place.give_up()


class StreamReads:
    """Reads all streams of requests."""

    def __init__(self, number: int) -> None:
        self._places = Places(number, 0.0)
        self._asking: set[Turn] = set()  # those of streams whose message has not come yet
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by owner
        self._last_large = -PATIENCE_SECONDS_MAX

    async def messages(
        self, messages: AsyncIterator[bytes], source: Source, quota: Quota, *, begun: bool
    ) -> AsyncGenerator[Read, None]:
        """The messages of a stream, each counted. begun: what has come of it by another way was small."""
        turn = await self._turn(source, quota, PATIENCE_SECONDS, large=not begun)
        large = False
        try:
            async for message in messages:
                quota.came(len(message))
                if len(message) > LARGE_BYTES:
                    large, self._last_large = True, _now()
                self._asking.discard(turn)
                turn.leave_line()
                taken = [message]
                del message
                yield Read(taken, turn.place, round(turn.throttled_s * 1_000))
                patience = PATIENCE_SECONDS_MAX if large else PATIENCE_SECONDS
                turn = await self._turn(source, quota, patience, large=large)
        finally:
            self._asking.discard(turn)
            turn.end()

    async def _turn(self, source: Source, quota: Quota, patience: float, *, large: bool) -> Turn:
        """Return when the next message may be asked for: if it may be large with a place, in turn.

        After so many seconds without a message the turn ends.
        """
        place = await self._place(source) if large else None
        turn = Turn(place)
        if quota.owed_s():
            turn.end()
            turn = await self._turn_in_line(source, quota, large=large)
        elif not large:
            return turn
        self._asking.add(turn)
        asyncio.get_running_loop().call_later(patience, self._look, turn, _now())
        return turn

    async def _turn_in_line(self, source: Source, quota: Quota, *, large: bool) -> Turn:
        """The same for a stream whose caller has taken too much: not before that is paid for."""
        quota.delayed()
        began = _now()
        line = self._lines.setdefault(source.owner, asyncio.Lock())
        await line.acquire()
        try:
            while (wait_s := quota.owed_s()) > 0:  # noqa: ASYNC110  time pays it, and others take more
                await asyncio.sleep(wait_s)
            throttled_s = _now() - began
            return Turn(await self._place(source) if large else None, line, throttled_s)
        except BaseException:
            line.release()
            raise

    async def _place(self, source: Source) -> Place:
        return self._places.take(source) or await self._places.wait(source)

    def _look(self, turn: Turn, began: float) -> None:
        """Let others have the turn if its stream seems to be quiet; else look again in a moment."""
        if turn not in self._asking:
            return
        now = _now()
        if now < min(began, self._last_large) + PATIENCE_SECONDS_MAX:
            asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._look, turn, began)
        else:
            self._asking.discard(turn)
            turn.end()


def _now() -> float:
    return asyncio.get_running_loop().time()
