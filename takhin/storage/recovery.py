"""A partition whose file has failed comes back by itself once the file can be written again.

After a failed sync nobody knows what a crash would bring back. So the partition takes no writes until a
checkpoint (of all of the WAL, unless a program reads it) and a commit have gone through: then both files are
synced, what failed is overwritten, and everything acknowledged is there. A damaged page does not heal: such a
partition waits for people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import apsw

from takhin.storage import connection
from takhin.storage import statements as sql
from takhin.storage.committer import Committer
from takhin.storage.faults import CLEAN, is_damage
from takhin.storage.files import PartitionFile
from takhin.storage.witness import Mark


def may_recover(error: Exception) -> bool:
    """Whether the file is as it was written, as far as one knows, and only its disk has failed."""
    return isinstance(error, apsw.IOError) and not is_damage(error)


class Recovery:
    """The attempts for one partition. Lives on the loop; `_try` runs on a committer thread."""

    def __init__(
        self,
        file: PartitionFile,
        *,
        thread: Committer,
        wait_ms: int,
        begin: Callable[[], bool],
        ended: Callable[[Mark | None], None],
    ) -> None:
        """begin: whether nothing else of this partition runs, nor will until `ended`.
        ended: called after an attempt: with what the file says, once it is closed to be opened anew, or None.
        """
        self._file = file
        self._thread = thread
        self._wait_ms = wait_ms
        self._begin = begin
        self._ended = ended
        self._found = Mark(0, 0)
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def later(self) -> None:
        """Try after a while."""
        if self._stopped:
            return
        self._timer = asyncio.get_running_loop().call_later(self._wait_ms / 1_000, self._attempt)

    def stop(self) -> None:
        """Try no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _attempt(self) -> None:
        self._timer = None
        if self._file.held or not self._begin():
            self.later()
        else:
            self._thread.submit(self._try, self._tried)

    def _try(self) -> None:  # on a committer thread
        if self._file.held:
            raise TimeoutError("not while it is held")
        if self._file.writer.in_transaction:
            self._file.writer.execute(sql.ROLLBACK)
        fresh = connection.open_writer(self._file.path)
        try:
            with suppress(*CLEAN):  # a shell may read it
                fresh.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            # Last, so that an attempt that fails has counted nothing. It overwrites what failed.
            row: Any = fresh.execute(sql.COUNT_COMMIT).fetchall()[0]
            self._found = Mark(*row)
        finally:
            fresh.close()

    def _tried(self, error: Exception | None) -> None:
        if error is None:
            self._file.recovered(lambda: self._ended(self._found))
            return
        self._ended(None)
        if not is_damage(error):
            self.later()
