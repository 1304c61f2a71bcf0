"""A partition whose file has failed comes back by itself once the file can be written again.

After a failed sync nobody knows what a crash would bring back, and the next sync says nothing of it: Linux
takes what it could not write for written (lwn.net/Articles/752063). So the partition takes no writes until

1. a commit of its own has gone through, over what failed in the write-ahead log, by the connection that knows
   where the acknowledged ones end;
2. all of the log was copied into the `.db` file and synced, by a connection that has the file to itself. The
   log's index, which the others share, counts as copied what former checkpoints copied and nobody synced
   since: SQLite syncs the file when it has reached the end of the log. It is made anew for that.

A damaged page does not heal: such a partition waits for people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import apsw

from takhin.disk import connection
from takhin.disk import statements as sql
from takhin.disk.faults import is_damage
from takhin.disk.witness import Mark
from takhin.errors import StartupError
from takhin.storage.sqlite.group import Tail
from takhin.storage.sqlite.open_files import PartitionFile
from takhin.storage.sqlite.threads import Committer


def may_recover(error: Exception) -> bool:
    """Whether the file is as it was written, as far as one knows, and only its disk has failed."""
    return isinstance(error, apsw.IOError) and not is_damage(error)


class Recovery:
    """The attempts for one partition. Lives on the loop, but for `_commit` and `_copy`."""

    def __init__(
        self,
        file: PartitionFile,
        tail: Tail,
        *,
        thread: Committer,
        wait_ms: int,
        begin: Callable[[], bool],
        counted: Callable[[Mark], None],
        ended: Callable[[Exception | None], None],
    ) -> None:
        """begin: whether nothing else of this partition runs, nor will until `ended`.
        counted: called with where the log ends after a commit of ours, which `tail` knows by then.
        ended: called after an attempt, with what it failed of.
        """
        self._file = file
        self._tail = tail
        self._thread = thread
        self._wait_ms = wait_ms
        self._begin = begin
        self._counted = counted
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
        if self._stopped:
            return
        try:
            if not self._file.ready(self._attempt):
                return
        except (apsw.Error, StartupError):  # as it was: told when it failed
            self.later()
            return
        if self._file.held or not self._begin():
            self.later()
        else:
            self._thread.submit(self._commit, self._committed)

    def _commit(self) -> None:  # on a committer thread
        if self._file.writer.in_transaction:
            self._file.writer.execute(sql.ROLLBACK)
        row: Any = self._file.writer.execute(sql.COUNT_COMMIT).fetchall()[0]
        self._found = Mark(*row)

    def _committed(self, error: Exception | None) -> None:
        expected = Mark(self._tail.mark.commits + 1, self._tail.end_offset)
        if error is None and self._found == expected:
            self._tail.mark = expected
            self._counted(expected)
        elif error is None:
            error = StartupError(f"{self._file.path} came back with {self._found} instead of {expected}")
        if error is None and not self._file.held:
            self._file.let_go(self._copy, self._over)
        else:
            self._over(error or TimeoutError("not while it is held"))

    def _copy(self) -> None:  # on the thread that files are closed on
        alone = connection.open_writer(self._file.path, alone=True)
        try:
            row: Any = alone.execute(sql.GET_END).fetchall()[0]
            if Mark(*row) != self._found:
                raise StartupError(f"{self._file.path} came back with {Mark(*row)} instead of {self._found}")
            alone.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            alone.close()

    def _over(self, error: Exception | None) -> None:
        self._ended(error)
        if error is not None and not is_damage(error) and not isinstance(error, StartupError):
            self.later()
