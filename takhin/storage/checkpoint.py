"""Checkpoints: when a partition's WAL is copied into its file, and how commits go on meanwhile.

Most of the copying is done by passes on a thread and a connection of their own, beside the commits. A WAL
is only begun anew once all of it is copied, which never happens while commits add to it; so when a pass
has left little, the writer runs the last bit itself between two groups. (A checkpoint of 16 MiB inside
the commit path stalls it for 20 ms or more; the last bit takes 1 or 2.)
"""

from __future__ import annotations

from collections.abc import Callable

import apsw

from takhin.errors import StartupError
from takhin.storage import connection
from takhin.storage.committer import Committer
from takhin.storage.files import PartitionFile

PAGE_BYTES = 16 << 10  # as schema/migrations.py sets it
LAST_BIT_PAGES_MAX = 128
PASSES_MAX = 8
"""After as many passes that did not catch up, the writer waits for one: else the WAL grows for ever."""


class Checkpoints:
    """The checkpoints of one partition. Lives on the loop; only `_copy` runs on the checkpoint thread."""

    def __init__(
        self,
        file: PartitionFile,
        *,
        thread: Committer,
        pages_max: int,
        finish: Callable[[], None],
        ended: Callable[[Exception | None], None],
    ) -> None:
        """finish: asks the writer to run the last bit and to call `finished`.
        ended: called when a checkpoint is over, with the error that ended it early.
        """
        self.running = False
        self._file = file
        self._thread = thread
        self._pages_max = pages_max
        self._finish = finish
        self._ended = ended
        self._passes = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        """The file is opened, for the first time or again: count what a WAL holds that was left behind.

        That is the most that is not yet copied, since a part of it may be.
        """
        self._pages = self._file.wal_bytes() // PAGE_BYTES

    def committed(self, pages: int) -> None:
        """A commit has added `pages` to the WAL."""
        self._pages += pages
        if self._pages >= self._pages_max and not self.running:
            self.running = True
            self._passes = 0
            self._pass()

    def finished(self, error: Exception | None) -> None:
        """The last bit is copied, and the next commit begins the WAL anew."""
        self._pages = 0
        self._end(error)

    def _pass(self) -> None:
        covered = self._pages

        def done(error: Exception | None) -> None:
            self._pages -= covered
            self._passes += 1
            if error is not None:
                self._end(error)
            elif self._pages > LAST_BIT_PAGES_MAX and self._passes < PASSES_MAX:
                self._pass()
            else:
                self._finish()

        self._thread.submit(self._copy, done)

    def _copy(self) -> None:  # on the checkpoint thread
        try:
            copier = connection.open_writer(self._file.path)
        except (apsw.Error, StartupError):
            return  # nothing was touched: descriptors may be short, and the next commits ask again
        try:
            copier.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        finally:
            copier.close()

    def _end(self, error: Exception | None) -> None:
        self.running = False
        self._ended(error)
