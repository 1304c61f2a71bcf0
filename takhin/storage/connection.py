"""Connections to a partition's file: every PRAGMA, with its reason. Knows no table.

apsw runs a text of several statements lazily, so each PRAGMA is run on its own and read back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import apsw

from takhin.errors import StartupError
from takhin.schema.checksums import load as load_checksums

FIXED_IN = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
"""First releases without the WAL-reset bug of 3.7.0 to 3.51.2 (sqlite.org/releaselog/3_51_3.html)."""


HEADER_BYTES = 100
PAGE_BYTES_MIN = 512

WAL_BYTES_KEPT = 64 << 20
"""A WAL that is larger gives the rest back when it begins anew."""


def library_version() -> str:
    """The SQLite that apsw carries, as "3.54.1"."""
    return apsw.sqlite_lib_version()


def check_library(version: str = "") -> None:
    """Refuse an SQLite that can lose a commit when two connections write and checkpoint at once.

    version: "3.54.1"; empty for the one that apsw carries. Raises StartupError.
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

    alone: no other connection has the file, of this process or another, else apsw.BusyError. What is in the
    WAL is then told by the WAL itself, and nothing of it counts as copied.
    """
    load_checksums()
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    # Whoever closes the last connection of a file that cannot be opened must not touch the WAL: it may be
    # damaged, and whole copies of it are what the rest can be had from. See `close_whole`.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    if alone:
        # Before the WAL is first looked at: its index is made anew, in memory (sqlite.org/wal.html#noshm).
        _set(connection, "locking_mode", "exclusive")
    _set(connection, "journal_mode", "wal")
    # A page that is not what was written is refused when it is read.
    _set(connection, "checksum_verification", "1")
    # FULL: a commit returns after the WAL is synced. It is what an acknowledgement means.
    _set(connection, "synchronous", 2)
    # Checkpoints are run by the writer, after a group is answered and never inside a commit.
    _set(connection, "wal_autocheckpoint", 0)
    # After a reader held it up, the WAL goes back to this many bytes at its next reset.
    _set(connection, "journal_size_limit", WAL_BYTES_KEPT)
    _set(connection, "cache_size", -4_096)  # KiB: the tail of the log and its indexes
    _set(connection, "temp_store", 2)  # in memory
    _set(connection, "trusted_schema", 0)  # a schema that someone altered runs no functions of ours
    return connection


def wal_of(path: Path) -> Path:
    """The write-ahead log beside a file, whether there is one or not."""
    return path.with_name(f"{path.name}-wal")


def wal_bytes(path: Path) -> int:
    """The size of the write-ahead log beside a file; 0 where there is none."""
    try:
        return wal_of(path).stat().st_size
    except FileNotFoundError:
        return 0


def close_whole(connection: apsw.Connection) -> None:
    """Close a writer; if no other connection is left, all of the WAL is copied into the file and removed."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    connection.close()


def close_untouched(connection: apsw.Connection, path: Path) -> None:
    """Close a writer: what was in the file and its WAL stays so, and no trace is left where no WAL was."""
    if wal_bytes(path):
        connection.close()
    else:
        close_whole(connection)


def open_reader(path: Path) -> apsw.Connection:
    """A read-only connection, for scans of one statement."""
    load_checksums()
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    _set(connection, "checksum_verification", "1")
    _set(connection, "cache_size", -1_024)  # KiB: a scan reads each page once
    _set(connection, "trusted_schema", 0)
    return connection


class FileHeader(NamedTuple):
    """What the first page of a file says of it."""

    application_id: int
    user_version: int
    pages: int
    page_bytes: int
    reserved_bytes: int
    """At the end of each page."""


def file_header(path: Path) -> FileHeader:
    """The header of a file, read without a trace on the file or beside it.

    Read from the file's header (sqlite.org/fileformat2.html) through SQLite's own VFS, as a connection
    would trip over a file whose last checkpoint was cut short, and a foreign file is not to be touched.
    All but the size is written before a file goes into service, so it is never in a WAL only; the version
    may be there after an upgrade, and what is told here is then that of before.
    Raises ValueError for what is no database, apsw.Error for what cannot be read.
    """
    file = apsw.VFSFile("", str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
    try:
        header = file.xRead(HEADER_BYTES, 0) if file.xFileSize() >= HEADER_BYTES else b""
    finally:
        file.xClose()
    if not header.startswith(b"SQLite format 3\0"):
        raise ValueError("file is not a database")
    page_bytes = int.from_bytes(header[16:18], "big")
    if page_bytes == 1:  # what 16 bits cannot say
        page_bytes = 1 << 16
    if page_bytes < PAGE_BYTES_MIN or page_bytes & (page_bytes - 1):
        raise ValueError(f"its header says that a page has {page_bytes} bytes")
    return FileHeader(
        application_id=int.from_bytes(header[68:72], "big"),
        user_version=int.from_bytes(header[60:64], "big"),
        pages=int.from_bytes(header[28:32], "big"),
        page_bytes=page_bytes,
        reserved_bytes=header[20],
    )


def _set(connection: apsw.Connection, name: str, value: Any) -> None:
    got = connection.pragma(name, value)
    if got is None:
        got = connection.pragma(name)
    if got != value:
        path = connection.filename
        connection.close()
        raise StartupError(f"PRAGMA {name} of {path!r} is {got!r} and cannot be {value!r}")
