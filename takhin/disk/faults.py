"""What an error of SQLite means to a caller. Owns the one place where the two vocabularies meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from takhin.errors import (
    OutcomeUnknownError,
    PartitionUnavailableError,
    StartupError,
    StorageFullError,
    UnavailableError,
)


class FileChangedError(Exception):
    """The file is no longer the log that it was when this broker last had it open."""


class NotNowError(Exception):
    """It cannot be done at the moment; trying again later is right."""


CLEAN = (apsw.FullError, apsw.BusyError, apsw.LockedError, apsw.NoMemError)


OF_VALUES = (
    apsw.SQLITE_CONSTRAINT_CHECK,
    apsw.SQLITE_CONSTRAINT_DATATYPE,
    apsw.SQLITE_CONSTRAINT_NOTNULL,
)
"""Constraints that a value breaks by itself, whatever else is in the file."""


def is_clean(error: Exception, *, committing: bool = False) -> bool:
    """Whether a rolled-back transaction has certainly left nothing behind.

    After anything else (a failed fsync above all) a crash may bring the transaction back, so the partition
    fails closed. In COMMIT that goes for a -shm without room as well: it grows after the WAL is synced.
    """
    return isinstance(error, CLEAN) or (is_full(error) and not committing)


def blames_write(error: Exception) -> bool:
    """Whether one write is at fault, and not its file: when it is rolled back, nothing of it is left.

    A value that the tables do not take, or no value that SQLite could take at all.
    """
    if isinstance(error, apsw.ConstraintError):
        return _extended(error) in OF_VALUES
    return isinstance(error, apsw.TooBigError | apsw.MismatchError | apsw.RangeError) or not isinstance(
        error, apsw.Error
    )


def is_full(error: Exception) -> bool:
    """Whether the disk had no room: for a page, or for the index of a write-ahead log (its -shm)."""
    return isinstance(error, apsw.FullError) or _extended(error) == apsw.SQLITE_IOERR_SHMSIZE


def is_damage(error: Exception) -> bool:
    """Whether the file is not as it was written: a page's checksum or the file's structure is wrong."""
    damaged = isinstance(error, apsw.CorruptError | apsw.NotADBError)
    return damaged or _extended(error) == apsw.SQLITE_IOERR_DATA


def _extended(error: Exception) -> int | None:
    """SQLite's extended result code (sqlite.org/rescode.html)."""
    return getattr(error, "extendedresult", None)


def sentence(error: Exception) -> str:
    """What SQLite says, but where that says nothing."""
    if is_full(error):
        return "the disk is full"
    return "a page does not match its checksum" if _extended(error) == apsw.SQLITE_IOERR_DATA else str(error)


def unavailable(error: Exception, topic: str, partition: int) -> UnavailableError:
    """The error that callers get for `error`, which befell one partition's file."""
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
    if isinstance(error, FileChangedError | StartupError):
        return PartitionUnavailableError(f"{where}: {error}", topic=topic, partition=partition)
    return PartitionUnavailableError(
        f"the file of {where} failed: {error} (SQLite result {_extended(error)})",
        topic=topic,
        partition=partition,
    )


def lost(offset: int, topic: str, partition: int) -> PartitionUnavailableError:
    """The error for a record that the log should have and its file has not."""
    return PartitionUnavailableError(
        f"the file of topic {topic!r} partition {partition} has no record {offset}: another program deleted "
        "it, or the file is damaged; `takhin verify` shows what is missing, and reading goes on after it",
        topic=topic,
        partition=partition,
    )


def outcome_unknown(error: Exception, topic: str, partition: int) -> OutcomeUnknownError:
    """The error for a group whose COMMIT failed in a way that a crash may turn into success."""
    return OutcomeUnknownError(
        f"the disk failed while the records were committed to topic {topic!r} partition {partition} "
        f"({error}); whether they will be there after a restart is unknown",
        topic=topic,
        partition=partition,
    )


@contextmanager
def translated(topic: str, partition: int) -> Iterator[None]:
    """Raise what SQLite, or opening a file again, raises inside as `unavailable` puts it."""
    try:
        yield
    except (apsw.Error, FileChangedError, StartupError) as error:
        raise unavailable(error, topic, partition) from error
