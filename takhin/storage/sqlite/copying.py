"""How the checkpoints of one partition are carried out. When one is due is arithmetic: checkpoint.py.

The passes run on the checkpoint thread, beside the steps of the partition's life, by a connection of their
own. The last bit is a step, because it needs the writing connection.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Protocol

import apsw
import structlog

from takhin.disk.faults import FileChangedError, NotNowError, WalDamagedError, is_clean, is_full
from takhin.logs import debugging
from takhin.storage.sqlite.checkpoint import Checkpoint, Phase
from takhin.storage.sqlite.course import on
from takhin.storage.sqlite.file import Copied, LogFile
from takhin.storage.sqlite.shared import Shared

logger = structlog.get_logger()

REST_TIMES = 9
REST_SECONDS_MAX = 9.0
"""After a checkpoint that a program has stopped the next one waits, besides, so many times as long as that
one took. It compares again all that is not copied: a tenth of the time at most."""


class Owner(Protocol):
    """The life of the partition."""

    @property
    def failed(self) -> bool:
        """True if the file takes no writes. Also read on the checkpoint thread."""

    def fail_closed(self, error: Exception) -> None:
        """A checkpoint has ended in a way after which nobody knows what is on disk."""

    def wake(self) -> None:
        """A pass has ended."""


class Copying:
    """Copies one partition's WAL into its file. Lives on the loop; what runs on a thread says so."""

    def __init__(
        self, shared: Shared, file: LogFile, checkpoint: Checkpoint, owner: Owner, name: str
    ) -> None:
        """name: of the partition, in what is said of it."""
        self._shared = shared
        self._file = file
        self._checkpoint = checkpoint
        self._owner = owner
        self._name = name
        self._blocked = False  # the last checkpoint that came to its end could not copy everything
        self._not_now: str | None = None  # why the last checkpoint was put off
        self._began = 0.0
        self._loop = asyncio.get_running_loop()

    @property
    def must_stop(self) -> bool:
        """True if no checkpoint may go on. Also read on the checkpoint thread."""
        return self._shared.files.held or self._shared.space.full or self._owner.failed

    def begin(self) -> None:
        """Begin a checkpoint with its first pass."""
        self._began = time.perf_counter()
        if debugging():
            logger.debug("checkpoint_began", partition=self._name, pages=self._checkpoint.pages)
        self._checkpoint.begin()
        self._pass()

    def _pass(self) -> None:
        covered = self._checkpoint.pages

        def copy() -> Copied:  # on the checkpoint thread
            return Copied(covered, moved=False) if self.must_stop else self._file.copy_pages()

        def passed(copied: Copied, error: Exception | None) -> None:
            if error is not None or self.must_stop:
                self._ended(error)
            else:
                self._passed(covered, copied)
            self._owner.wake()

        self._shared.threads.checkpoint.submit(copy, passed)

    def _passed(self, covered: int, copied: Copied) -> None:
        """A pass has ended that began when the WAL had `covered` pages."""
        rest = min(REST_SECONDS_MAX, REST_TIMES * (time.perf_counter() - self._began))
        now = self._loop.time() + rest
        self._checkpoint.passed(covered, copied.pages_left, moved=copied.moved, now=now)
        self._blocked = copied.pages_left > 0 and not copied.moved
        if self._checkpoint.phase is Phase.COPYING:
            self._pass()
        elif self._checkpoint.phase is Phase.NONE:
            self._tell_end(None)

    async def last_bit(self) -> None:
        """Copy the rest of the WAL, between two groups. Runs as a step of the partition's life."""
        if self._checkpoint.truncate:  # it has begun with this step
            self._began = time.perf_counter()
        copy = partial(self._file.copy_last_bit, truncate=self._checkpoint.truncate)
        try:
            left = await on(self._shared.threads.commit, copy)
        except (apsw.Error, OSError, NotNowError, FileChangedError, WalDamagedError) as error:
            self._ended(error)
            return
        self._blocked = left > 0
        self._checkpoint.finished(left, self._loop.time())
        self._tell_end(None)

    def _ended(self, error: Exception | None) -> None:
        """A checkpoint ends before all was copied."""
        self._checkpoint.abandon(None if error is None else self._loop.time())
        if error is not None and is_full(error):
            self._shared.space.ran_out()
        elif error is not None and not is_clean(error) and not isinstance(error, NotNowError):
            self._owner.fail_closed(error)
        self._tell_end(error)

    def _tell_end(self, error: Exception | None) -> None:
        took = time.perf_counter() - self._began
        self._shared.meters.checkpoint_seconds.observe(took)
        if debugging():
            logger.debug(
                "checkpoint_ended",
                partition=self._name,
                pages_left=self._checkpoint.pages,
                error=None if error is None else str(error),
                took_ms=round(took * 1_000, 3),
            )
        self.watch_check(error)
        self.watch_wal()

    def watch_check(self, error: Exception | None) -> None:
        """Say so if the WAL is not copied for want of a check. error: why it was not; None if it was."""
        trouble = f"wal_unchecked {self._name}"
        if isinstance(error, NotNowError):
            self._not_now = f"it cannot be checked now: {error}"
            what = f"the write-ahead log of {self._file.path} is not copied into it: {self._not_now}"
            self._shared.troubles.begin(trouble, what)
        else:
            self._not_now = None
            self._shared.troubles.end(trouble)

    def watch_wal(self) -> None:
        """Say so if the WAL has grown large, and when it no longer is."""
        trouble, left = f"wal_large {self._name}", self._checkpoint.bytes_left
        if left <= self._shared.settings.wal_bytes_max:
            self._shared.troubles.end(trouble)
            return
        self._shared.troubles.begin(
            trouble,
            f"{left} bytes of the write-ahead log of {self._file.path} are not copied into it: "
            f"{self._cause()}",
        )

    def _cause(self) -> str:
        """Why a WAL grows: what stops its checkpoints, else what they meet."""
        if self._shared.files.held:
            return "DATA/hold is there"
        if self._shared.space.full:
            return "the disk is full"
        if self._owner.failed:
            return "the file has failed"
        if self._not_now is not None:
            return self._not_now
        if self._blocked:
            return "a program reads it in a transaction kept open"
        return "the disk is slower at it than records come"
