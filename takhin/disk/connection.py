"""Connections to a partition's file: every PRAGMA, with its reason. Knows no table.

apsw runs a text of several statements lazily, so each PRAGMA is run on its own and read back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw

from takhin.disk.layout import wal_bytes
from takhin.errors import StartupError
from takhin.schema.checksums import load as load_checksums

FIXED_IN = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
"""First releases without the WAL-reset bug of 3.7.0 to 3.51.2 (sqlite.org/releaselog/3_51_3.html)."""


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


def _set(connection: apsw.Connection, name: str, value: Any) -> None:
    got = connection.pragma(name, value)
    if got is None:
        got = connection.pragma(name)
    if got != value:
        path = connection.filename
        connection.close()
        raise StartupError(f"PRAGMA {name} of {path!r} is {got!r} and cannot be {value!r}")
