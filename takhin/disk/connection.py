"""Connections to a partition's file, for every purpose, and each PRAGMA with its reason. Knows no table.

apsw runs a text of several statements lazily, so each PRAGMA is run on its own and read back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from takhin.disk import statements as sql
from takhin.disk.faults import PragmaError, quota_is_full
from takhin.disk.layout import wal_bytes
from takhin.errors import StartupError
from takhin.schema import PAGE_BYTES
from takhin.schema.checksums import RESERVED_BYTES
from takhin.schema.checksums import load as load_checksums

FIXED_IN = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
"""First releases without the WAL-reset bug of 3.7.0 to 3.51.2 (sqlite.org/releaselog/3_51_3.html)."""

WAL_BYTES_KEPT = 64 << 20
"""When SQLite restarts a WAL that is larger, it gives the rest back to the file system."""
LEAST_CACHE_KIB = 128
"""Eight pages: the way from the root to a record. The size of a page cache that nobody has set."""
SPILL_PAGES = 256
"""4 MiB. A transaction that has changed more pages writes some of them to the WAL before its COMMIT."""
BUSY_MS_MAX = 5_000
"""How long a reader beside a broker waits for a lock."""


def library_version() -> str:
    """The SQLite that apsw carries, as "3.54.1"."""
    return apsw.sqlite_lib_version()


def check_library(version: str = "") -> None:
    """Refuse an SQLite that can lose a commit when two connections write and checkpoint at the same time.

    version: like "3.54.1"; empty for the one that apsw carries. Raises StartupError.
    """
    version = version or library_version()
    parts = tuple(int(part) for part in version.split(".")[:3])
    fixed = parts >= FIXED_IN[0] or any(parts[:2] == fix[:2] and parts >= fix for fix in FIXED_IN[1:])
    if not fixed:
        raise StartupError(
            f"SQLite {version} can lose commits (the WAL-reset bug, fixed in 3.51.3): install a newer apsw"
        )


def open_writer(path: Path, *, alone: bool = False) -> apsw.Connection:
    """A connection for the writer, or for a checkpoint. It never waits for a lock: the writer does that.

    alone: open the file exclusively; apsw.BusyError if any other connection has it, of this process or
    another. The WAL index is then rebuilt from the WAL, and no page of it counts as copied into the file.
    Raises apsw.Error.
    """
    with distrusted(str(path), apsw.SQLITE_OPEN_READWRITE) as connection, quota_is_full(connection):
        _configure_writer(connection, alone=alone)
    return connection


def _configure_writer(connection: apsw.Connection, *, alone: bool) -> None:
    # Closing the last connection of a file that cannot be used must not touch the WAL: it may be damaged, and
    # recovery needs a whole copy of it. See `close_whole`.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    if alone:
        # Before the first look at the WAL: SQLite rebuilds its index in memory (sqlite.org/wal.html#noshm).
        set_pragma(connection, "locking_mode", "exclusive")
    set_pragma(connection, "journal_mode", "wal")
    # A page that is not what was written is refused when it is read.
    set_pragma(connection, "checksum_verification", "1")
    # FULL: a commit returns after the WAL is synced. It is what an acknowledgement means.
    set_pragma(connection, "synchronous", 2)
    # Checkpoints are run by the writer, after a group is answered and never inside a commit.
    set_pragma(connection, "wal_autocheckpoint", 0)
    # After a reader held up checkpoints, the WAL shrinks to this many bytes when SQLite restarts it.
    set_pragma(connection, "journal_size_limit", WAL_BYTES_KEPT)
    set_page_cache(connection, LEAST_CACHE_KIB)
    # Up to here a transaction keeps what it has changed, whatever the size of its cache: else INSERTs would
    # write to the WAL. What is above the cache's size is freed at the COMMIT.
    set_pragma(connection, "cache_spill", SPILL_PAGES)
    set_pragma(connection, "temp_store", 2)  # in memory


@contextmanager
def distrusted(name: str, flags: int, vfs: str | None = None) -> Iterator[apsw.Connection]:
    """A connection that runs nothing that a file brings with it: it may come from elsewhere.

    The block sets it up; the connection outlives it, and is closed if it fails. Raises apsw.Error.
    """
    load_checksums()
    connection = apsw.Connection(name, flags=flags, vfs=vfs)
    with _closed_on_error(connection):
        _distrust(connection)
        yield connection


def _distrust(connection: apsw.Connection) -> None:
    for setting, value in (
        (apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0),
        (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),  # it runs no function that has effects outside the file
        (apsw.SQLITE_DBCONFIG_DEFENSIVE, 1),  # and no statement can write to sqlite_schema
    ):
        if connection.config(setting, value) != value:
            raise PragmaError(f"{connection.filename}: SQLite does not take its setting {setting}")


def close_whole(connection: apsw.Connection) -> None:
    """Close a writer. If it is the last connection, all of the WAL is copied into the file and removed."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    connection.close()


def close_untouched(connection: apsw.Connection, path: Path) -> None:
    """Close a writer and leave the file and its WAL as they are; a file without a WAL keeps none."""
    if wal_bytes(path):
        connection.close()
    else:
        close_whole(connection)


def open_reader(path: Path) -> apsw.Connection:
    """A read-only connection of the broker's, for scans of one statement. Raises apsw.Error.

    A scan reads each page once, so its cache need not be large.
    """
    with distrusted(str(path), apsw.SQLITE_OPEN_READONLY) as connection:
        set_pragma(connection, "checksum_verification", "1")
        set_page_cache(connection, LEAST_CACHE_KIB)
    return connection


def open_scratch(*, cache_kib: int) -> apsw.Connection:
    """A connection to a new database that is gone when it is closed. Raises apsw.Error.

    cache_kib: up to here it is in memory; what is above goes to a temporary file of SQLite's, which has no
    name (its folder: sqlite.org/tempfiles.html, 5). Partitions' files are attached to it by `reading_of`.
    """
    load_checksums()
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection("", flags=flags)
    with _closed_on_error(connection):
        # It is never rolled back, and nobody reads it after a crash. First: DEFENSIVE forbids it.
        set_pragma(connection, "journal_mode", "off")
        _distrust(connection)
        # Keys are found in 0.36 µs, with SQLite's 4 KiB in 0.45.
        set_pragma(connection, "page_size", PAGE_BYTES)
        set_pragma(connection, "synchronous", 0)
        set_page_cache(connection, cache_kib)
    return connection


def reading_of(path: Path) -> str:
    """How a partition's file is named where it is attached to be read."""
    return f"file:{quote(str(path.absolute()))}?mode=ro"


def set_page_cache(connection: apsw.Connection, kib: int) -> None:
    """Bound the pages that a connection keeps between its transactions, and free what is above."""
    set_pragma(connection, "cache_size", -kib)


def open_beside(path: Path, *, immutable: bool) -> apsw.Connection:
    """A read-only connection of another process than the broker's. Raises apsw.Error.

    immutable: nobody writes to the file, so no -wal and no -shm is made.
    """
    uri = f"file:{quote(str(path.absolute()))}?{'immutable=1' if immutable else 'mode=ro'}"
    with distrusted(uri, apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI) as connection:
        connection.set_busy_timeout(BUSY_MS_MAX)
    return connection


def open_copy(path: Path) -> apsw.Connection:
    """A connection to a damaged copy; what does not match its checksum is not read. Raises apsw.Error."""
    with distrusted(str(path), apsw.SQLITE_OPEN_READWRITE) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


def open_unverified(path: Path) -> apsw.Connection:
    """A connection to a copy, which reads pages whatever their checksums say. Raises apsw.Error."""
    with distrusted(str(path), apsw.SQLITE_OPEN_READWRITE) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)  # recover moves a table's root
        connection.pragma("checksum_verification", 0)
    return connection


def open_backup_target(path: Path, *, cache_kib: int, checksums: bool) -> apsw.Connection:
    """A connection to a new file that SQLite's backup API is to fill. Raises apsw.Error."""
    load_checksums()
    connection = apsw.Connection(str(path))
    with _closed_on_error(connection):
        # The file gets its name only when it is whole and synced, so no write needs an undo or an order.
        connection.pragma("journal_mode", "off")
        connection.pragma("synchronous", 0)
        connection.pragma("cache_size", -cache_kib)
        # Pages from a write-ahead log have no checksums. They get them when they are written, if SQLite knows
        # by then that the file has checksums: from a first page, which the backup replaces.
        connection.pragma("page_size", PAGE_BYTES)
        if checksums:
            connection.reserve_bytes("main", RESERVED_BYTES)
        connection.execute(sql.FIRST_PAGE)
    return connection


def set_pragma(connection: apsw.Connection, name: str, value: Any) -> None:
    """Set a PRAGMA and read it back. Raises PragmaError."""
    got = connection.pragma(name, value)
    if got is None:
        got = connection.pragma(name)
    if got != value:
        raise PragmaError(
            f"{connection.filename} has {name} = {got!r}, and SQLite does not set it to {value!r}"
        )


@contextmanager
def _closed_on_error(connection: apsw.Connection) -> Iterator[None]:
    """Close the connection if the block fails: it would keep its locks until the error is collected."""
    try:
        yield
    except BaseException:
        connection.close()
        raise
