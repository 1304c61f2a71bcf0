"""Long work on the event loop, in pieces: what one caller asks for must not keep the others waiting."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

IN_ONE_TURN = 1_000
"""Steps of some µs each that are done before others have their turn."""
LARGE_BYTES = 1 << 20
"""From this size on, each step of a message has a turn of the loop for itself: it takes 0.3 ms a MiB."""
TURN_SECONDS = 0.002
"""What a `Turnstile` or a `Backlog` takes of one turn of the loop, on a slow processor, too."""
WOKEN_AT_ONCE = 20
"""Of those that wait at a turnstile, so many are woken in a turn of the loop."""


async def others_turn() -> None:
    """Let the loop do what else is due."""
    await asyncio.sleep(0)


async def in_turns(items: Iterable[T], *, at_once: int = IN_ONE_TURN) -> AsyncIterator[T]:
    """The items; after so many of them others have their turn."""
    for count, item in enumerate(items, 1):
        yield item
        if count % at_once == 0:
            await others_turn()


class Turnstile:
    """Lets callers pass in the order in which they came, until a turn of the loop has taken so many seconds.

    One passes in each turn, however long that takes. The time is that since the first one has passed.
    """

    def __init__(self, seconds: float = TURN_SECONDS) -> None:
        self._seconds = seconds
        self._line: deque[asyncio.Future[None]] = deque()
        self._closes: float | None = None  # when nobody else passes in this turn; None: nobody has passed yet
        self._sent_back = 0  # how many were woken in this turn and came too late: they are first in line
        self._looking = False

    async def passed(self) -> None:
        """Return when it is the caller's turn."""
        if not self._line and self._is_open():
            return
        place = len(self._line)
        while True:
            waiter = asyncio.get_running_loop().create_future()
            self._line.insert(place, waiter)
            await waiter
            if self._is_open():
                return
            place, self._sent_back = self._sent_back, self._sent_back + 1

    def _is_open(self) -> bool:
        now = time.perf_counter()
        if self._closes is None:
            self._closes = now + self._seconds
            self._look_soon()
            return True
        return now < self._closes

    def _look_soon(self) -> None:
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Wake those who are next. They run in the turn after this one."""
        self._looking, self._closes, self._sent_back = False, None, 0
        for _ in range(min(WOKEN_AT_ONCE, len(self._line))):
            waiter = self._line.popleft()
            if not waiter.done():  # else its caller has given up
                waiter.set_result(None)
        if self._line:
            # Each who passes may put new objects in the place of old ones, as members of groups do. Then
            # CPython's count of them stands still, and later it would look at all at once: garbage.py.
            gc.collect(1)
            self._look_soon()


class Backlog:
    """Small pieces of work that nobody waits for: in each turn of the loop one, and more if there is time."""

    def __init__(self, seconds: float = TURN_SECONDS) -> None:
        self._seconds = seconds
        self._due: deque[Callable[[], None]] = deque()
        self._awake = False

    def add(self, work: Callable[[], None]) -> None:
        """Do this soon, after all that was added before."""
        self._due.append(work)
        self._wake()

    def clear(self) -> None:
        """Do nothing of what is left."""
        self._due.clear()

    def _wake(self) -> None:
        if self._due and not self._awake:
            self._awake = True
            asyncio.get_running_loop().call_soon(self._do_some)

    def _do_some(self) -> None:
        closes = time.perf_counter() + self._seconds
        try:
            while self._due:
                self._due.popleft()()
                if time.perf_counter() >= closes:
                    break
        finally:
            self._awake = False
            self._wake()
