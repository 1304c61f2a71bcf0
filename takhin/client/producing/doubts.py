"""What a producer no longer takes for certain: senders add to it, and the intake looks before each record."""

from __future__ import annotations


class Doubts:
    """Topics that may have been deleted and created again, until the broker was asked about them.

    Changed on the loop; `topics` may be looked at on any thread.
    """

    __slots__ = ("topics",)

    def __init__(self) -> None:
        self.topics: set[str] = set()

    def add(self, topic: str) -> None:
        """Ask about the topic before its next record."""
        self.topics.add(topic)

    def settle(self, topic: str) -> None:
        """The broker has answered."""
        self.topics.discard(topic)
