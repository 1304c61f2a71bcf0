"""How the checkpoints of one partition are carried out. When one is due is arithmetic: checkpoint.py.

The passes run on the checkpoint thread, beside the steps of the partition's life, by a connection of their
own. The last bit is a step, because it needs the writing connection.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

import apsw

from takhin.disk.faults import FileChangedError, WalDamagedError, is_clean, is_full
from takhin.storage.sqlite.checkpoint import Checkpoint, Phase
from takhin.storage.sqlite.course import on
from takhin.storage.sqlite.file import LogFile
from takhin.storage.sqlite.shared import Shared


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
        self._wal_large = f"wal_large {name}"
        self._loop = asyncio.get_running_loop()

    @property
    def must_stop(self) -> bool:
        """True if no checkpoint may go on. Also read on the checkpoint thread."""
        return self._shared.files.held or self._shared.space.full or self._owner.failed

    def begin(self) -> None:
        """Begin a checkpoint with its first pass."""
        self._checkpoint.begin()
        self._pass()

    def _pass(self) -> None:
        covered = self._checkpoint.pages

        def copy() -> int:  # on the checkpoint thread
            left = None if self.must_stop else self._file.copy_pages()
            return covered if left is None else left

        def passed(left: int, error: Exception | None) -> None:
            if error is None:
                self._checkpoint.passed(covered, left)
            if error is not None or self.must_stop:
                self._ended(error)
            elif self._checkpoint.phase is Phase.COPYING:
                self._pass()
            self._owner.wake()

        self._shared.threads.checkpoint.submit(copy, passed)

    async def last_bit(self) -> None:
        """Copy the rest of the WAL, between two groups. Runs as a step of the partition's life."""
        copy = partial(self._file.copy_last_bit, truncate=self._checkpoint.truncate)
        try:
            left = await on(self._shared.threads.commit, copy)
        except (apsw.Error, OSError, FileChangedError, WalDamagedError) as error:
            self._ended(error)
            return
        self._checkpoint.finished(left, self._loop.time())
        self.watch_wal()

    def _ended(self, error: Exception | None) -> None:
        """A checkpoint ends before all was copied."""
        self._checkpoint.abandon(None if error is None else self._loop.time())
        if error is not None and is_full(error):
            self._shared.space.ran_out()
        elif error is not None and not is_clean(error):
            self._owner.fail_closed(error)
        self.watch_wal()

    def watch_wal(self) -> None:
        """Say so if the WAL has grown large, and when it no longer is."""
        left = self._checkpoint.bytes_left
        if left <= self._shared.settings.wal_bytes_max:
            self._shared.troubles.end(self._wal_large)
            return
        held = self._shared.files.held
        cause = "DATA/hold is there" if held else "a program reads it in a transaction kept open"
        self._shared.troubles.begin(
            self._wal_large,
            f"{left} bytes of the write-ahead log of {self._file.path} cannot be copied into it: {cause}",
        )
