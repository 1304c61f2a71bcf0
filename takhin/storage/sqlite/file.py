"""One partition's file: its two connections, and the work on it that waits for the disk.

Knows nothing of queues, timers or other partitions: what is done when is decided in life.py. Methods say on
which thread they run. The loop takes the connections away (`detach`) before a thread closes them, so a file
that is open can be read on the loop at any time.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import structlog

from takhin.disk import connection, layout
from takhin.disk import statements as sql
from takhin.disk.faults import (
    CLEAN,
    FileChangedError,
    NotNowError,
    WalDamagedError,
    is_damage,
    quota_is_full,
    sentence,
)
from takhin.disk.inodes import Inodes
from takhin.disk.wal_check import WalCheck
from takhin.disk.witness import Mark
from takhin.logs import debugging
from takhin.native import library
from takhin.schema import PAGE_BYTES

logger = structlog.get_logger()

READER_SHARE = 4
"""The reader gets a fourth of a file's page caches: a scan reads each page once."""


class Copied(NamedTuple):
    """What a pass of a checkpoint has done."""

    pages_left: int
    moved: bool
    """False if nothing was copied that was not copied before."""


class Connections(NamedTuple):
    """The connections of a file that is being closed; None where there was none."""

    writer: apsw.Connection | None
    reader: apsw.Connection | None

    def close_reader(self) -> None:
        if self.reader is not None:
            self.reader.close()


class LogFile:
    """A partition's file, open or closed."""

    def __init__(self, path: Path, *, native: bool) -> None:
        """native: the native library is to compare the checksums of its WAL."""
        self.path = path
        self._wal = layout.wal_of(path)
        self._writer: apsw.Connection | None = None
        self._reader: apsw.Connection | None = None
        self._cache_kib = 0  # as the connections have it
        self._inodes: Inodes | None = None  # of the last time it was opened
        self._wal_check = WalCheck(path, library() if native else None)
        self.left_wal = False
        """True if the file was closed with a WAL beside it, which then may be copied by another program."""
        self._damage: WalDamagedError | None = None

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    @property
    def writer(self) -> apsw.Connection:
        """The writing connection of an open file."""
        assert self._writer is not None, self.path  # noqa: S101  `is_open` was asked before
        return self._writer

    @property
    def reader(self) -> apsw.Connection:
        """The reading connection of an open file, opened at the first read, on the thread that reads.

        The writing connection may be in use on another one: it is left alone.
        """
        if self._reader is None:
            self._reader = connection.open_reader(self.path)
            connection.set_page_cache(self._reader, self._reader_cache_kib)
        return self._reader

    def fit_page_caches(self, kib: int) -> None:
        """Bound what both connections of an open file cache. On the loop, while no thread uses them."""
        if kib != self._cache_kib:
            self._cache_kib = kib
            of_writer = max(connection.LEAST_CACHE_KIB, kib - self._reader_cache_kib)
            connection.set_page_cache(self.writer, of_writer)
            if self._reader is not None:
                connection.set_page_cache(self._reader, self._reader_cache_kib)

    @property
    def _reader_cache_kib(self) -> int:
        return max(connection.LEAST_CACHE_KIB, self._cache_kib // READER_SHARE)

    @property
    def wal_bytes(self) -> int:
        """The size of the write-ahead log beside the file; 0 where there is none."""
        return layout.size_bytes(self._wal)

    @property
    def size_bytes(self) -> int:
        """The space that the file and its write-ahead log take."""
        return layout.size_bytes(self.path) + self.wal_bytes

    @property
    def growth_bytes(self) -> int:
        """How much longer the `.db` file gets when all of its WAL is copied. For an open file at rest."""
        return int(self.writer.pragma("page_count") * PAGE_BYTES) - self.path.stat().st_size

    def check_sound(self) -> None:
        """Raises WalDamagedError if the WAL is known to be damaged: what is in it vanishes. On any thread."""
        if self._damage is not None:
            raise self._damage

    def check_place(self) -> None:
        """Raises FileGoneError if the file no longer has its name; what `check_sound` raises. On any thread.

        An open file's -wal and -shm are looked at, too.
        """
        self.check_sound()
        if self._inodes is not None:
            if self.is_open:
                self._inodes.check()
            else:
                self._inodes.check_file()

    def note_place(self) -> None:
        """Note which file it is. Call it when it has just been opened."""
        self._inodes = Inodes(self.path)

    def adopt(self, writer: apsw.Connection) -> None:
        """Use a connection that was opened elsewhere, and whose log is known to be the right one."""
        self._writer = writer
        self._cache_kib = 0
        if debugging():
            logger.debug("file_opened", path=str(self.path), wal_bytes=self.wal_bytes)

    def opened(self, expected: Mark) -> apsw.Connection:  # on a commit thread
        """A writing connection, for `adopt`.

        Raises FileGoneError if another file has its name, FileChangedError if its log does not end where it
        ended, apsw.Error.
        """
        self.check_place()
        writer = connection.open_writer(self.path)
        try:
            found = Mark(*writer.execute(sql.GET_END).get)
            if found != expected:
                raise FileChangedError(
                    f"{self.path} has been changed by another program: when it was closed its log ended at "
                    f"{expected.end_offset}, after {expected.commits} commits, and now it ends at "
                    f"{found.end_offset}, after {found.commits}"
                )
            self.check_place()
            self.note_place()
        except BaseException:
            connection.close_untouched(writer, self.path)
            raise
        return writer

    def detach(self) -> Connections:
        """Take the connections away, on the loop, so that a thread can close them."""
        detached = Connections(self._writer, self._reader)
        self._writer = self._reader = None
        return detached

    def close(self, detached: Connections, *, keep_wal: bool) -> None:  # on the checkpoint thread
        """Copy the WAL into the file and close both connections. keep_wal: close them only.

        A closed file can have a WAL, from before a crash or from a shell that looked in: it is opened for
        that. Raises what `copy_pages` raises; both connections are closed then, and nothing was copied.
        """
        try:
            self._close(detached, keep_wal=keep_wal)
        finally:
            self.left_wal = self.wal_bytes > 0

    def leave(self, writer: apsw.Connection, *, held: bool) -> None:
        """Close a connection that was opened elsewhere, without copying the WAL.

        held: who copies the files has seen the WAL, even an empty one.
        """
        self.left_wal = self.wal_bytes > 0
        if held:
            writer.close()
        else:
            connection.close_untouched(writer, self.path)

    def _close(self, detached: Connections, *, keep_wal: bool) -> None:
        if debugging() and detached.writer is not None:
            logger.debug("file_closing", path=str(self.path), wal_bytes=self.wal_bytes, keep_wal=keep_wal)
        detached.close_reader()
        writer = detached.writer
        if writer is None and layout.wal_of(self.path).exists() and not keep_wal:
            self.check_place()
            writer = connection.open_writer(self.path)
            self.note_place()
        if writer is None:
            return
        if keep_wal:
            writer.close()
            return
        try:
            # The last connection removes the WAL by its name, which may be another file's.
            self._check_all(writer)
            # A full disk or a shell that reads can be in the way: then the WAL stays for the next start.
            with suppress(*CLEAN), quota_is_full(writer):
                writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except BaseException:
            writer.close()
            raise
        connection.close_whole(writer)  # at the end, because the last connection removes the WAL

    def copy_pages(self) -> Copied:  # on the checkpoint thread
        """Copy what it can of the WAL, beside the commits, by a connection of its own.

        Raises FileGoneError, WalDamagedError, or NotNowError if the WAL cannot be checked now: nothing was
        copied then. apsw.Error.
        """
        self.check_place()  # else another file would be opened
        try:
            copier = connection.open_writer(self.path)
        except apsw.Error as error:
            if is_damage(error):
                raise
            raise NotNowError(sentence(error)) from error  # descriptors may be short
        try:
            self._check_all(copier)
            _, before = copier.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
            with quota_is_full(copier):
                in_wal, copied = copier.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            return Copied(in_wal - copied, copied != before)
        finally:
            copier.close()

    def copy_last_bit(self, *, truncate: bool) -> int:  # on a commit thread
        """Copy the rest of the WAL, so that the next commit restarts it. Returns the pages left.

        truncate: cut the WAL to nothing, as is done anyway with one that has grown large. Raises what
        `copy_pages` raises.
        """
        self._check_all(self.writer)
        large = truncate or self.wal_bytes > connection.WAL_BYTES_KEPT
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if large else apsw.SQLITE_CHECKPOINT_PASSIVE
        with quota_is_full(self.writer):
            try:
                in_wal, copied = self.writer.wal_checkpoint(mode=mode)
            except apsw.BusyError:  # another program reads it
                in_wal, copied = self.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return in_wal - copied

    def _check_all(self, db: apsw.Connection) -> None:
        """Check names and WAL before it is copied. Raises what `copy_pages` raises."""
        if self._inodes is not None:
            self._inodes.check()
        try:
            self._wal_check.check(db)
        except WalDamagedError as error:
            self._damage = error
            raise

    def recommit(self) -> Mark:  # on a commit thread
        """Commit once, over what a failed commit left in the WAL. Returns where the log ends after that."""
        if self.writer.in_transaction:
            self.writer.execute(sql.ROLLBACK)
        with quota_is_full(self.writer):
            row: Any = self.writer.execute(sql.COUNT_COMMIT).fetchall()[0]
        self.check_place()
        return Mark(*row)

    def copy_alone(self, detached: Connections, expected: Mark) -> None:  # on the checkpoint thread
        """Close both connections, then copy all of the WAL by one that has the file to itself.

        The shared WAL index records pages as checkpointed even if the sync after that checkpoint failed. So
        the index is discarded and rebuilt from the WAL, by opening the file exclusively. Raises
        FileChangedError, apsw.Error.
        """
        detached.close_reader()
        if detached.writer is not None:
            detached.writer.close()
        self.check_place()
        alone = connection.open_writer(self.path, alone=True)
        try:
            row: Any = alone.execute(sql.GET_END).fetchall()[0]
            if Mark(*row) != expected:
                raise came_back_changed(self.path, Mark(*row), expected)
            alone.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            alone.close()


def came_back_changed(path: Path, found: Mark, expected: Mark) -> FileChangedError:
    """The error for a failed file that, once it can be written again, holds another log."""
    return FileChangedError(f"{path} came back with {found} instead of {expected}")
