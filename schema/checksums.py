"""Checksums of pages, by SQLite's own cksumvfs (sqlite.org/cksumvfs.html), which is part of apsw.

The last 8 bytes of every page are a checksum of the others; a page whose checksum does not match is refused
when it is read. (Write-ahead logs have checksums of their own, which SQLite compares when it recovers one.)
Other programs can read such files. Pages that they write have no checksum and are refused here: see
docs/durability.md.
"""

from functools import cache

import apsw
import apsw.sqlite_extra

SINCE_VERSION = 2
"""The first schema version with checksums and with a count of commits."""
RESERVED_BYTES = 8
"""The bytes of a checksum at the end of each page, as noted in the header (sqlite.org/fileformat2.html)."""


@cache
def load() -> None:
    """Make every connection that apsw opens from now on verify the checksums of files that have them."""
    connection = apsw.Connection(":memory:")
    try:
        apsw.sqlite_extra.load(connection, "cksumvfs")
    finally:
        connection.close()


def rewrite(path: str, version: int) -> None:
    """Rewrite the closed file with checksums, and set its user_version to `version`.

    sqlite-utils has written it without them. The new file can also give free pages back (auto_vacuum).
    """
    load()
    db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.pragma("checksum_verification", 0)
        db.reserve_bytes("main", RESERVED_BYTES)
        db.pragma("auto_vacuum", 2)  # INCREMENTAL: only on request
        db.execute("VACUUM")
        db.pragma("user_version", version)
    finally:
        db.close()
