"""When the next message of a produce stream is asked for, so that large ones do not arrive all at once.

A message that was asked for arrives whole, whatever its size; of one that was not, gRPC holds no more than
rpc.lookahead_bytes. But a stream may be quiet for as long as it likes, and gRPC offers no way to learn that
a message has begun. So a stream that has had a large message, or none yet, asks for the next one with a
place. If nothing comes, it gives the place to others after a moment and goes on without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from takhin.rpc.places import Place, Places, Source

LARGE_BYTES = 1 << 20
"""Streams of smaller messages ask without a place: that adds little to what gRPC holds of each anyway."""
PATIENCE_SECONDS = 0.1
"""How long the first message of a stream may take to come before the place is given to others."""
PATIENCE_SECONDS_MAX = 1.0
"""The same for later ones of a stream that has had a large one, and for first ones where large ones came so
shortly before: they are probably on their way."""


class StreamReads:
    """Reads all produce streams."""

    def __init__(self, number: int) -> None:
        self._places = Places(number, 0.0)
        self._asking: set[Place] = set()  # those of streams whose message has not come yet
        self._last_large = -PATIENCE_SECONDS_MAX

    async def messages(
        self, messages: AsyncIterator[bytes], source: Source, *, begun: bool
    ) -> AsyncGenerator[tuple[list[bytes], Place | None], None]:
        """The messages of a stream, each in a list: who takes it out is the only one to keep it.

        With each comes its place if it has one, which the receiver gives up. begun: what has come of the
        stream by another way was small.
        """
        place = None if begun else await self._place(source, PATIENCE_SECONDS)
        large = False
        try:
            async for message in messages:
                if len(message) > LARGE_BYTES:
                    large, self._last_large = True, _now()
                if place is not None:
                    self._asking.discard(place)
                taken = [message]
                del message
                yield taken, place
                place = await self._place(source, PATIENCE_SECONDS_MAX) if large else None
        finally:
            if place is not None:
                self._asking.discard(place)
                place.give_up()

    async def _place(self, source: Source, patience: float) -> Place:
        """Return with a place, in turn. After so many seconds without a message it is given up again."""
        place = self._places.take(source) or await self._places.wait(source)
        self._asking.add(place)
        asyncio.get_running_loop().call_later(patience, self._look, place, _now())
        return place

    def _look(self, place: Place, began: float) -> None:
        """Let others have the place if its stream seems to be quiet; else look again in a moment."""
        if place not in self._asking:
            return
        now = _now()
        if now < min(began, self._last_large) + PATIENCE_SECONDS_MAX:
            asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._look, place, began)
        else:
            self._asking.discard(place)
            place.give_up()


def _now() -> float:
    return asyncio.get_running_loop().time()
