"""Which step of a partition's life comes next, as one pure choice. The drawing of it is in life.py."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from takhin.storage.sqlite.checkpoint import Phase


class Step(Enum):
    """What is done with a partition's file; see the drawing in life.py."""

    REST = auto()
    OPEN = auto()
    GROUP = auto()
    LAST_BIT = auto()
    GIVE_WAY = auto()
    RECOVER = auto()
    END = auto()


class Facts(NamedTuple):
    """All that the choice of the next step depends on."""

    queued: bool = False
    """Writes wait."""
    ready: bool = False
    """Their group may begin: it waits for no company, lock or space."""
    reading: bool = False
    """A reader waits for the file to be opened."""
    is_open: bool = False
    may_open: bool = False
    """It has one of the slots for open files, or needs none because it has failed."""
    gives_way: bool = False
    """The file was chosen to be closed for another."""
    checkpoint: Phase = Phase.NONE
    wal_full: bool = False
    """The WAL is to grow no more until the pass that copies it has ended."""
    failed: bool = False
    recovers: bool = False
    """A failed file is to be tried again now."""
    ending: bool = False


def due(facts: Facts) -> Step:
    """The next step."""
    wanted = facts.reading or (facts.queued and facts.ready)
    if wanted and not facts.is_open and facts.may_open:
        return Step.OPEN
    if facts.failed:
        return _due_when_failed(facts)
    if facts.checkpoint is Phase.LAST_BIT:  # before another group: it may be the last one before a hold
        return Step.LAST_BIT
    if facts.gives_way and facts.checkpoint is Phase.NONE:
        return Step.GIVE_WAY
    if facts.queued:
        return Step.GROUP if facts.ready and facts.is_open and not facts.wal_full else Step.REST
    return Step.END if facts.ending and facts.checkpoint is Phase.NONE else Step.REST


def _due_when_failed(facts: Facts) -> Step:
    """A failed file is not written, and its queue is empty: it can only end, or come back."""
    if facts.checkpoint is not Phase.NONE:
        return Step.REST
    if facts.ending:
        return Step.END
    return Step.RECOVER if facts.recovers else Step.REST
