"""Reads a file with a write-ahead log that nobody has open, without writing anything, anywhere.

SQLite keeps the index of a write-ahead log in a file beside it, the -shm, and makes that file if it is
missing. In exclusive mode it keeps the index in memory, but wants to lock and to clean up. So the file is
opened through a VFS that reads, and does nothing else. Whoever reads so must see afterwards that nothing
changed meanwhile. Knows no table.
"""

# ruff: noqa: N802  the methods of a VFS have SQLite's names

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import apsw

from takhin.disk.connection import distrusted
from takhin.schema.checksums import load as load_checksums

NAME = "takhin-unshared"
CHECKED, PLAIN = "cksmvfs", "unix"
"""The VFS that compares the checksums of pages, and the one for what has no pages."""
WRITING = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE


class _File(apsw.VFSFile):
    """A file that is only read. Locks are granted and not taken."""

    def xLock(self, level: int) -> None: ...

    def xUnlock(self, level: int) -> None: ...

    def xCheckReservedLock(self) -> bool:
        return False

    def xWrite(self, data: Any, offset: int) -> None:
        raise apsw.ReadOnlyError("it is only read")

    def xTruncate(self, size: int) -> None:
        raise apsw.ReadOnlyError("it is only read")


class _Vfs(apsw.VFS):
    """Opens files for reading, and removes none."""

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        base = CHECKED if flags[0] & apsw.SQLITE_OPEN_MAIN_DB else PLAIN
        reading = [flags[0] & ~WRITING | apsw.SQLITE_OPEN_READONLY, 0]
        flags[1] = reading[0]
        return _File(base, name, reading)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001
        raise apsw.ReadOnlyError("it is only read")


@cache
def _registered() -> _Vfs:
    """The VFS, which SQLite knows by its name as long as this object lives."""
    load_checksums()
    return _Vfs(NAME, PLAIN)


def open_unshared(path: Path) -> apsw.Connection:
    """A connection to a file that nobody has open. Raises apsw.Error."""
    _registered()
    with distrusted(str(path), apsw.SQLITE_OPEN_READONLY, NAME) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.pragma("locking_mode", "exclusive")
    return connection
