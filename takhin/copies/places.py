"""What the commands on copies share: which partition's file is worked on, and how far the work is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all: bytes, or partitions."""


class Place(NamedTuple):
    """One partition and its file."""

    topic: str
    partition: int
    path: Path

    def __str__(self) -> str:
        return place_key(self.topic, self.partition)


def place_key(topic: str, partition: int) -> str:
    """A partition as manifests and reports name it."""
    return f"{topic}/{partition}"
