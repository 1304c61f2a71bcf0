"""What can go wrong with a file, and what it means to a caller.

Owns the exceptions that stay inside the process, and the one translation of SQLite's errors into those of
takhin.errors, which callers get. Knows no table and no folder.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from takhin.disk.descriptors import shortage
from takhin.errors import (
    OutcomeUnknownError,
    PartitionUnavailableError,
    StorageFullError,
    UnavailableError,
)


class FileChangedError(Exception):
    """The file is no longer the log that it was when this broker last had it open."""


class FileGoneError(FileChangedError):
    """The name of an open file is gone, or is another file's: no start will find what is written now."""


class WalDamagedError(Exception):
    """A write-ahead log in use is not as it was written."""


class PragmaError(apsw.Error):
    """SQLite does not take a setting without which the file must not be used."""


class NotNowError(Exception):
    """It cannot be done at the moment; trying again later is right."""


CLEAN = (apsw.FullError, apsw.BusyError, apsw.LockedError, apsw.NoMemError)

NO_ROOM = {
    apsw.SQLITE_IOERR_WRITE: (errno.EDQUOT,),
    apsw.SQLITE_CANTOPEN: (errno.EDQUOT, errno.ENOSPC),
}
"""The system's errors that mean a full disk, by the result that SQLite makes of them."""

OF_VALUES = (
    apsw.SQLITE_CONSTRAINT_CHECK,
    apsw.SQLITE_CONSTRAINT_DATATYPE,
    apsw.SQLITE_CONSTRAINT_NOTNULL,
)
"""Constraints that a value breaks by itself, whatever else is in the file."""


def is_clean(error: Exception, *, committing: bool = False) -> bool:
    """True if a transaction that was rolled back has certainly left nothing behind.

    After any other error, a failed fsync above all, a crash may bring the transaction back, so the partition
    fails closed. In COMMIT this includes a -shm without room, because it grows after the WAL was synced.
    """
    return isinstance(error, CLEAN) or (is_full(error) and not committing)


def blames_write(error: Exception) -> bool:
    """True if one write is at fault and not its file: once it is rolled back, nothing of it is left.

    Its value breaks a rule of the tables, or is none that SQLite can store.
    """
    if isinstance(error, apsw.ConstraintError):
        return _extended(error) in OF_VALUES
    return isinstance(error, apsw.TooBigError | apsw.MismatchError | apsw.RangeError) or not isinstance(
        error, apsw.Error
    )


def is_full(error: Exception) -> bool:
    """True if the disk had no room for a page, or for the index of a write-ahead log (its -shm)."""
    return isinstance(error, apsw.FullError) or _extended(error) == apsw.SQLITE_IOERR_SHMSIZE


@contextmanager
def quota_is_full(connection: apsw.Connection) -> Iterator[None]:
    """What a used-up quota refuses leaves the block as FullError, as what a full disk refuses does.

    SQLite makes SQLITE_FULL of a write's ENOSPC alone (seekAndWrite in os_unix.c). A quota's EDQUOT is an I/O
    error of that write for it. A `-wal` that either keeps from being made is a file that cannot be opened.
    """
    try:
        yield
    except apsw.Error as error:
        if connection.system_errno in NO_ROOM.get(_extended(error) or 0, ()):
            raise apsw.exception_for(apsw.SQLITE_FULL) from error
        raise


def is_damage(error: Exception) -> bool:
    """True if the file is not as it was written: a page's checksum or the file's structure is wrong."""
    damaged = isinstance(error, apsw.CorruptError | apsw.NotADBError | WalDamagedError)
    return damaged or _extended(error) == apsw.SQLITE_IOERR_DATA


def _extended(error: Exception) -> int | None:
    """SQLite's extended result code (sqlite.org/rescode.html)."""
    return getattr(error, "extendedresult", None)


def sentence(error: Exception) -> str:
    """The error as a clause for people: SQLite's own text, except where that does not help."""
    if is_full(error):
        return "the disk is full"
    if isinstance(error, apsw.CantOpenError | OSError) and (reason := shortage()) is not None:
        return reason
    if isinstance(error, OSError) and error.strerror:  # without the names of files
        return error.strerror
    return "a page does not match its checksum" if _extended(error) == apsw.SQLITE_IOERR_DATA else str(error)


def unavailable(error: Exception, topic: str, partition: int) -> UnavailableError:
    """The error that callers get when `error` was raised for one partition's file."""
    where = f"topic {topic!r} partition {partition}"
    if is_full(error):
        return StorageFullError(
            f"the disk is full: nothing was written to {where}", topic=topic, partition=partition
        )
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return PartitionUnavailableError(
            f"another process keeps the file of {where} locked", topic=topic, partition=partition
        )
    if is_damage(error):
        return PartitionUnavailableError(
            f"the file of {where} is damaged: {sentence(error)}. The disk did it, or a program that changed "
            "the file (see docs/durability.md); `takhin verify` shows how far it goes",
            topic=topic,
            partition=partition,
        )
    if isinstance(error, apsw.SQLError | apsw.SchemaChangeError):
        return PartitionUnavailableError(
            f"another program has changed the tables in the file of {where}: {error}",
            topic=topic,
            partition=partition,
        )
    if isinstance(error, PragmaError | FileChangedError):
        return PartitionUnavailableError(f"{where}: {error}", topic=topic, partition=partition)
    what = f"the file of {where} failed: {error} (SQLite result {_extended(error)})"
    if isinstance(error, apsw.CantOpenError) and (reason := shortage()) is not None:
        what = f"{where} cannot be opened now: {reason}"
    return PartitionUnavailableError(what, topic=topic, partition=partition)


def lost(offset: int, topic: str, partition: int) -> PartitionUnavailableError:
    """The error for a record that the log should have and its file does not have."""
    return PartitionUnavailableError(
        f"the file of topic {topic!r} partition {partition} has no record {offset}: another program deleted "
        "it, or the file is damaged; `takhin verify` shows what is missing, and reading goes on after it",
        topic=topic,
        partition=partition,
    )


def outcome_unknown(error: Exception, topic: str, partition: int) -> OutcomeUnknownError:
    """The error for a group whose COMMIT failed, but may turn out to have succeeded after a crash."""
    what = "the disk failed while"
    if isinstance(error, FileGoneError):
        what = "the file was not in its place when"
    if isinstance(error, WalDamagedError):
        what = "the write-ahead log was found to be damaged when"
    return OutcomeUnknownError(
        f"{what} a change was committed to topic {topic!r} partition {partition} "
        f"({error}); whether it will be there after a restart is unknown",
        topic=topic,
        partition=partition,
    )


@contextmanager
def translated(topic: str, partition: int) -> Iterator[None]:
    """Errors of SQLite, and those of opening a file again, leave the block as `unavailable` words them."""
    try:
        yield
    except (apsw.Error, FileChangedError, WalDamagedError) as error:
        raise unavailable(error, topic, partition) from error
