"""What a producer no longer takes for certain: senders add to it, and the intake looks before each record."""

from __future__ import annotations

import asyncio

from takhin.client.clock import monotonic

FRESH_SECONDS = 3.0
"""How long a producer takes what it knows of a topic for true without a word from the broker. Every answer to
a produce request says how many partitions there are, so only a producer that has been idle asks."""


class Doubts:
    """Topics about which the broker is to be asked before their next record.

    A topic may have been deleted and created again, or altered. Changed on the loop; any thread may look at
    the sets.
    """

    __slots__ = ("_partitions", "_refreshed", "certain", "fresh", "topics")

    def __init__(self) -> None:
        self.topics: set[str] = set()
        """Those that somebody doubts."""
        self.fresh: set[str] = set()
        """Those of which the broker has said something not long ago."""
        self.certain: set[str] = set()
        """Those that are fresh, and that nobody doubts."""
        self._partitions: dict[str, int] = {}
        self._refreshed: dict[str, float] = {}

    def add(self, topic: str) -> None:
        """Ask about the topic before its next record."""
        self.topics.add(topic)
        self.certain.discard(topic)

    def settle(self, topic: str, partitions: int) -> None:
        """The broker has said what the topic is."""
        self._partitions[topic] = partitions
        self.topics.discard(topic)
        self.refresh(topic)

    def refresh(self, topic: str) -> None:
        """The topic is what it was."""
        self._refreshed[topic] = monotonic()
        if topic not in self.fresh:
            self.fresh.add(topic)
            self._look_after(FRESH_SECONDS, topic)
        if topic not in self.topics:
            self.certain.add(topic)

    def told(self, topic: str, partitions: int) -> None:
        """An answer says how many partitions the topic has: 0 if it does not, as from an older broker."""
        if partitions > self._partitions.get(topic, partitions):
            self.add(topic)
        else:
            self.refresh(topic)

    def _look_after(self, seconds: float, topic: str) -> None:
        # A timer, because to look at the clock for each record would take a tenth of what `send` takes.
        asyncio.get_running_loop().call_later(seconds, self._look, topic)

    def _look(self, topic: str) -> None:
        left_s = self._refreshed[topic] + FRESH_SECONDS - monotonic()
        if left_s > 0:
            self._look_after(left_s, topic)
        else:
            self.fresh.discard(topic)
            self.certain.discard(topic)
