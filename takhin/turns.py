"""Long work on the event loop, in pieces: what one caller asks for must not keep the others waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

IN_ONE_TURN = 1_000
"""Steps of some µs each that are done before others have their turn."""
LARGE_BYTES = 1 << 20
"""From this size on, each step of a message has a turn of the loop for itself: it takes 0.3 ms a MiB."""


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
    """Lets a few callers pass in each turn of the loop, in the order in which they came."""

    def __init__(self, at_once: int) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._alone = asyncio.Lock()

    async def passed(self, *, alone: bool = False) -> None:
        """Return when it is the caller's turn. alone: of those who say so, only one passes in a turn."""
        if alone:
            async with self._alone:
                await others_turn()
        await self._places.acquire()
        asyncio.get_running_loop().call_soon(self._places.release)


class Backlog:
    """Small pieces of work that nobody waits for, of which a few are done in each turn of the loop."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._due: deque[tuple[Callable[[], None], bool]] = deque()
        self._awake = False

    def add(self, work: Callable[[], None], *, alone: bool = False) -> None:
        """Do this soon, after all that was added before. alone: with nothing behind it in the same turn."""
        self._due.append((work, alone))
        self._wake()

    def clear(self) -> None:
        """Do nothing of what is left."""
        self._due.clear()

    def _wake(self) -> None:
        if self._due and not self._awake:
            self._awake = True
            asyncio.get_running_loop().call_soon(self._do_some)

    def _do_some(self) -> None:
        left = self._at_once
        try:
            while self._due and left:
                work, alone = self._due.popleft()
                left = 0 if alone else left - 1
                work()
        finally:
            self._awake = False
            self._wake()
