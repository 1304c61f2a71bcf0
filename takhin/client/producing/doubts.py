"""What a producer no longer takes for certain: senders add to it, and the intake looks before each record."""

from __future__ import annotations

from takhin.client.clock import monotonic

FRESH_SECONDS = 3.0
"""How long a producer takes what it knows of a topic for true without a word from the broker. Every answer to
a produce request says how many partitions there are, so only a producer that has been idle asks."""


class Doubts:
    """Topics about which the broker is to be asked before their next record.

    A topic may have been deleted and created again, or altered. Changed on the loop; may be looked at on any
    thread.
    """

    __slots__ = ("_fresh_until", "_partitions", "topics")

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self._partitions: dict[str, int] = {}
        self._fresh_until: dict[str, float] = {}

    def add(self, topic: str) -> None:
        """Ask about the topic before its next record."""
        self.topics.add(topic)

    def settle(self, topic: str, partitions: int) -> None:
        """The broker has said what the topic is."""
        self._partitions[topic] = partitions
        self.refresh(topic)
        self.topics.discard(topic)

    def refresh(self, topic: str) -> None:
        """The topic is what it was."""
        self._fresh_until[topic] = monotonic() + FRESH_SECONDS

    def told(self, topic: str, partitions: int) -> None:
        """An answer says how many partitions the topic has: 0 if it does not, as from an older broker."""
        if partitions > self._partitions.get(topic, partitions):
            self.add(topic)
        else:
            self.refresh(topic)

    def is_stale(self, topic: str) -> bool:
        """True if the broker has said nothing of the topic for a while."""
        return monotonic() > self._fresh_until.get(topic, 0.0)
