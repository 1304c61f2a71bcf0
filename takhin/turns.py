"""Long work on the event loop, in pieces: what one caller asks for must not keep the others waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
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
