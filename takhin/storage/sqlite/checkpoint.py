"""When a partition's WAL is copied into its file, as arithmetic. Does nothing itself: life.py does.

Most of the copying is done by passes on a thread and a connection of their own, beside the commits. SQLite
restarts a WAL only once all of it is copied, which never happens while commits add to it; so when a pass
has left little, the partition copies the last bit itself between two groups. (A checkpoint of 16 MiB inside
the commit path stalls it for 20 ms or more; the last bit takes 1 or 2.)

The WAL grows while a pass copies it, and the disk may be slow at that, for other programs use it, too. So
the commits wait for a pass once the WAL has twice the size at which its checkpoint began.

A program that reads the file in a transaction that it keeps open stops all this at its snapshot, and the WAL
grows. Then another checkpoint is tried every second, and a WAL that has grown large is cut when one succeeds.
On a full disk none begins by itself: a checkpoint can make its file longer and use up the space that another
one needs.
"""

from __future__ import annotations

from enum import Enum, auto

from takhin.schema import PAGE_BYTES

LAST_BIT_PAGES_MAX = 128
"""A pass that has left at most as many pages was the last one: they stall the commits for 1 or 2 ms."""
PASSES_MAX = 8
"""After as many passes that did not catch up, the commits wait: else the WAL grows for ever.
Measured with LAST_BIT_PAGES_MAX; what an operator sets is storage.checkpoint_pages."""
GROWTH_TIMES = 2
"""The commits wait for a pass when the WAL has so many times the pages at which a checkpoint begins. With a
quiet disk a WAL grows to somewhat less than that, so that they hardly ever wait."""
AGAIN_SECONDS = 1
"""The wait after a checkpoint that could not copy everything, because a program reads or the disk is full."""


class Phase(Enum):
    """What a checkpoint is doing."""

    NONE = auto()
    COPYING = auto()
    """A pass runs on the checkpoint thread, beside the commits."""
    LAST_BIT = auto()
    """The rest is to be copied between two groups."""


class Checkpoint:
    """How much of one WAL is left to copy, and what comes next. Pure."""

    def __init__(self, pages_max: int) -> None:
        """pages_max: a checkpoint begins when the WAL has so many pages."""
        self.phase = Phase.NONE
        self.truncate = False
        """Whether the last bit cuts the WAL, to give its space back."""
        self.pages = 0
        """Pages of the WAL that are not yet in the file, at most."""
        self._length = 0  # pages since SQLite restarted the WAL, copied ones included, at most
        self._bounded = True  # the WAL had no more than its full length when the checkpoint began
        self.again_at: float | None = None
        """When the next attempt is due after one that left something, in the loop's time."""
        self._pages_max = pages_max
        self._passes = 0

    @property
    def bytes_left(self) -> int:
        """How much of the WAL is not yet copied."""
        return int(self.pages * PAGE_BYTES)

    @property
    def full(self) -> bool:
        """True if commits have to wait until the pass that runs has ended.

        Not if the WAL was long already when the checkpoint began: a program that reads, or a full disk, has
        held up former ones, so copying it may take long.
        """
        return self.phase is Phase.COPYING and self._bounded and self._length >= self._length_max

    @property
    def _length_max(self) -> int:
        return GROWTH_TIMES * self._pages_max

    def reset_page_count(self, wal_bytes: int) -> None:
        """Call when the file has been opened. Assumes that no page of an existing WAL has been copied yet.

        That is the worst case.
        """
        self.pages = self._length = wal_bytes // PAGE_BYTES
        self.again_at = None

    def add(self, pages: int) -> None:
        """Count the pages that a commit has added to the WAL."""
        self.pages += pages
        self._length += pages

    def due(self, now: float) -> bool:
        """True if a checkpoint should begin. now: the loop's time."""
        if self.phase is not Phase.NONE:
            return False
        return self.pages >= self._pages_max if self.again_at is None else now >= self.again_at

    def begin(self) -> None:
        """Begin with the first pass."""
        self.phase = Phase.COPYING
        self.again_at = None
        self._passes = 0
        self._bounded = self._length < self._length_max

    def passed(self, covered: int, left: int, *, moved: bool, now: float) -> None:
        """A pass has ended that began when the WAL had `covered` pages, and left so many of them.

        moved: it has copied something. now: the loop's time. The phase afterwards says what comes next:
        another pass, the last bit, or nothing for a while, because a program reads the file.
        """
        self.pages += left - covered
        self._passes += 1
        if self.pages <= LAST_BIT_PAGES_MAX:
            self.phase = Phase.LAST_BIT
        elif not moved:
            self.abandon(now)
        elif self.full or self._passes >= PASSES_MAX:
            self.phase = Phase.LAST_BIT

    def cut(self) -> None:
        """Copy everything at once, without passes, and give the WAL's space back."""
        self.phase = Phase.LAST_BIT
        self.truncate = True

    def finished(self, left: int, now: float) -> None:
        """The last bit was copied, but for so many pages. now: the loop's time."""
        self.pages = left
        if not left:
            self._length = 0
        self.abandon(now if left else None)

    def abandon(self, now: float | None = None) -> None:
        """End a checkpoint. now: something was in the way at that time, so the next one waits a while."""
        self.phase = Phase.NONE
        self.truncate = False
        if now is not None:
            self.again_at = now + AGAIN_SECONDS
