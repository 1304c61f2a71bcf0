"""Checkpoints: when a partition's WAL is copied into its file, and how commits go on meanwhile.

Most of the copying is done by passes on a thread and a connection of their own, beside the commits. A WAL
is only begun anew once all of it is copied, which never happens while commits add to it; so when a pass
has left little, the writer runs the last bit itself between two groups. (A checkpoint of 16 MiB inside
the commit path stalls it for 20 ms or more; the last bit takes 1 or 2.)

A program that reads the file in a transaction that it keeps open stops all this at its snapshot, and the WAL
grows. Then the last bit is tried again every second, and a WAL that has grown large is cut when it succeeds.
On a full disk no checkpoint begins by itself: each may lengthen its file, and so take what another needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import apsw

from takhin.disk import connection
from takhin.errors import StartupError
from takhin.schema import PAGE_BYTES
from takhin.storage.sqlite.open_files import PartitionFile
from takhin.storage.sqlite.threads import Committer

LAST_BIT_PAGES_MAX = 128
PASSES_MAX = 8
"""After as many passes that did not catch up, the writer waits for one: else the WAL grows for ever."""
AGAIN_SECONDS = 1


class Checkpoints:
    """The checkpoints of one partition. Lives on the loop, but for `_copy` and `last_bit`."""

    def __init__(
        self,
        file: PartitionFile,
        *,
        thread: Committer,
        pages_max: int,
        paused: Callable[[], bool],
        begun: Callable[[], None],
        finish: Callable[[], None],
        ended: Callable[[Exception | None], None],
    ) -> None:
        """paused: whether none may begin, nor go on after a pass.
        begun: called when a checkpoint begins.
        finish: asks the writer to run `last_bit` and then to call `finished`.
        ended: called when a checkpoint is over, with the error that ended it early.
        """
        self.running = False
        self._file = file
        self._thread = thread
        self._pages_max = pages_max
        self._paused = paused
        self._begun = begun
        self._finish = finish
        self._ended = ended
        self._passes = 0
        self._left = 0
        self._cut = False
        self._stopped = False
        self._again: asyncio.TimerHandle | None = None
        self.begin_anew()

    def begin_anew(self) -> None:
        """The file is opened, for the first time or again: count what a WAL holds that was left behind.

        That is the most that is not yet copied, since a part of it may be.
        """
        self._pages = self._file.wal_bytes() // PAGE_BYTES

    @property
    def bytes_left(self) -> int:
        """How much of the WAL is not yet copied."""
        return int(self._pages * PAGE_BYTES)

    def committed(self, pages: int) -> None:
        """A commit has added `pages` to the WAL, or none, but checkpoints may begin again."""
        self._pages += pages
        if self._pages >= self._pages_max and self._again is None:
            self.begin()

    def cut(self) -> None:
        """Copy all of the WAL at once, and give its room back."""
        if self._stopped or self.running or self._file.held or not self._file.is_open:
            return
        self.running = True
        self._cut = True
        self._begun()
        self._finish()

    def begin(self) -> None:
        """Begin a checkpoint, unless one runs, or none may begin, or the file is closed."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._stopped or self.running or self._paused() or not self._file.is_open:
            return
        self.running = True
        self._begun()
        self._passes = 0
        self._pass()

    def stop(self) -> None:
        """Begin no more: the partition is closed."""
        self._stopped = True
        if self._again is not None:
            self._again.cancel()

    def last_bit(self) -> None:  # on a committer thread
        """Copy what is left, and cut a WAL that has grown: the next commit begins it anew."""
        large = self._cut or self._file.wal_bytes() > connection.WAL_BYTES_KEPT
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if large else apsw.SQLITE_CHECKPOINT_PASSIVE
        try:
            in_wal, copied = self._file.writer.wal_checkpoint(mode=mode)
        except apsw.BusyError:  # a program reads it
            in_wal, copied = self._file.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self._left = in_wal - copied

    def finished(self, error: Exception | None) -> None:
        """The last bit has run."""
        self._cut = False
        if error is None:
            self._pages = self._left
        self._end(error)
        if self._pages and not self._stopped:  # something is in the way: a program that reads, a full disk
            self._again = asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._ask_again)

    def _ask_again(self) -> None:
        self._again = None
        self.begin()

    def _pass(self) -> None:
        covered = self._pages

        def done(error: Exception | None) -> None:
            if error is None:
                self._pages += self._left - covered
            self._passes += 1
            if error is not None or self._paused():
                self._end(error)
            elif self._pages > LAST_BIT_PAGES_MAX and self._passes < PASSES_MAX:
                self._pass()
            else:
                self._finish()

        self._thread.submit(self._copy, done)

    def _copy(self) -> None:  # on the checkpoint thread
        if self._paused():
            self._left = self._pages
            return
        try:
            copier = connection.open_writer(self._file.path)
        except (apsw.Error, StartupError):  # nothing was touched: descriptors may be short
            self._left = self._pages
            return
        try:
            in_wal, copied = copier.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._left = in_wal - copied
        finally:
            copier.close()

    def _end(self, error: Exception | None) -> None:
        self.running = False
        self._ended(error)
