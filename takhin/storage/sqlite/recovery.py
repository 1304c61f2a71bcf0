"""How a partition whose disk has failed comes back by itself, once the disk can be written again.

A file whose disk has failed takes no writes. After a failed sync nobody knows what a crash would bring
back, and the next sync does not report it again: Linux marks what it could not write as clean
(lwn.net/Articles/752063). So the file counts as failed until

1. a commit of its own has gone through, over what failed in the write-ahead log, by the connection that knows
   where the acknowledged ones end;
2. all of the log was copied into the `.db` file and synced, by a connection that has the file to itself (see
   `LogFile.copy_alone`).

A damaged page does not heal: such a partition waits for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import apsw

from takhin.disk.faults import FileChangedError, NotNowError, WalDamagedError, is_damage
from takhin.disk.witness import Mark
from takhin.storage.sqlite.commits import Commits
from takhin.storage.sqlite.course import on
from takhin.storage.sqlite.file import LogFile, came_back_changed
from takhin.storage.sqlite.group import LogState
from takhin.storage.sqlite.shared import Shared

MAY_PASS = (apsw.IOError, apsw.CantOpenError, OSError)
"""Errors of the disk, and of a process without descriptors: the file may be as it was written."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a file takes no writes. retry_at: when it is tried again, in the loop's time; None: never."""

    error: Exception
    retry_at: float | None

    @classmethod
    def of(cls, error: Exception, retry_at: float) -> Failure:
        """A failure with `error`: tried again if the file is as it was written, as far as one knows."""
        only_the_disk = isinstance(error, MAY_PASS) and not is_damage(error)
        return cls(error, retry_at if only_the_disk else None)

    def after(self, attempt: Exception, retry_at: float) -> Failure:
        """What is known after an attempt has failed with an error of its own."""
        if isinstance(attempt, FileChangedError | WalDamagedError):
            return Failure(attempt, None)
        may_pass = isinstance(attempt, apsw.Error | NotNowError | OSError) and not is_damage(attempt)
        return Failure(self.error, retry_at if may_pass else None)


async def try_to_recover(shared: Shared, file: LogFile, state: LogState, commits: Commits) -> None:
    """Commit once more, then copy the whole log and sync it; the file is closed after that.

    Runs as a step of the partition's life. Raises what stands in the way: apsw.Error, FileChangedError if the
    file holds another log, NotNowError while it is being copied.
    """
    if not file.is_open:
        file.adopt(await on(shared.threads.commit, partial(file.opened, state.mark)))
    mark = await on(shared.threads.commit, file.recommit)
    expected = Mark(state.mark.commits + 1, state.end_offset)
    if mark != expected:
        raise came_back_changed(file.path, mark, expected)
    state.mark = mark
    commits.note(mark)
    if shared.files.held:
        raise NotNowError("it is being copied")
    detached = file.detach()
    try:
        await on(shared.threads.checkpoint, partial(file.copy_alone, detached, mark))
    except apsw.BusyError:
        # Another program has the file open. If it were the last to close it, it would copy the log into the
        # file, in pages without checksums. So keep the file open, too.
        file.adopt(await on(shared.threads.commit, partial(file.opened, state.mark)))
        raise
