"""Checksums of pages, by SQLite's own cksumvfs (sqlite.org/cksumvfs.html), which is part of apsw.

The last 8 bytes of every page are a checksum of the others; a page of the file that does not match is refused
when it is read. (Write-ahead logs have checksums of their own, which SQLite compares when it recovers one.)
Other programs can read such files. Pages that they write have no checksum and are refused here: see
docs/durability.md.
"""

from functools import cache

import apsw
import apsw.sqlite_extra

SINCE_VERSION = 2
"""The schema version that first had checksums, and counted commits."""
RESERVED_BYTES = 8
"""Bytes of a checksum, at the end of each page. The header has this number (sqlite.org/fileformat2.html)."""


@cache
def load() -> None:
    """Make every connection that apsw opens from now on compare the checksums of files that have them."""
    connection = apsw.Connection(":memory:")
    try:
        apsw.sqlite_extra.load(connection, "cksumvfs")
    finally:
        connection.close()


def rewrite(path: str, version: int) -> None:
    """Rewrite the closed file with checksums, and set its user_version to `version`.

    sqlite-utils has written it without them. Also lets the file give free pages back (auto_vacuum).
    """
    load()
    db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.pragma("checksum_verification", 0)
        db.reserve_bytes("main", RESERVED_BYTES)
        db.pragma("auto_vacuum", 2)  # INCREMENTAL: only when asked
        db.execute("VACUUM")
        db.pragma("user_version", version)
    finally:
        db.close()
