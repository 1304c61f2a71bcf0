"""The partitions of an assignment that may have something to hand out, each in turn."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Arrivals(Generic[T]):
    """A queue in which each member stands once, and a wait until somebody joins it."""

    def __init__(self) -> None:
        self._queue: deque[T] = deque()
        self._members: set[T] = set()
        self._event = asyncio.Event()

    def add(self, member: T) -> None:
        """Let a member join, unless it waits already."""
        if member not in self._members:
            self._members.add(member)
            self._queue.append(member)
        self._event.set()

    def take(self) -> T | None:
        """Who has waited longest; None if nobody waits."""
        if not self._queue:
            return None
        member = self._queue.popleft()
        self._members.remove(member)
        return member

    def forget_wakes(self) -> None:
        """Let `wait` wait for whoever joins, or `wake`, from now on."""
        self._event.clear()

    def wake(self) -> None:
        """Let whoever waits look again."""
        self._event.set()

    async def wait(self) -> None:
        """Return when somebody has joined since `forget_wakes`."""
        await self._event.wait()
