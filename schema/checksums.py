"""Checksums of pages, by SQLite's own cksumvfs (sqlite.org/cksumvfs.html), which apsw carries along.

The last 8 bytes of every page hold a checksum of the others; a page of the file that does not match is
refused when it is read. (Write-ahead logs have SQLite's own checksums, looked at when one is recovered.)
Other programs read such files as any others. What they write carries no checksum, and is refused here: see
docs/durability.md.
"""

from functools import cache

import apsw
import apsw.sqlite_extra

SINCE_VERSION = 2
"""The schema version that first had checksums, and counted commits."""
RESERVED_BYTES = 8
"""Bytes at the end of each page; the file's header says how many there are (sqlite.org/fileformat2.html)."""


@cache
def load() -> None:
    """Let every connection opened by apsw from now on check files that have checksums, and write them."""
    connection = apsw.Connection(":memory:")
    try:
        apsw.sqlite_extra.load(connection, "cksumvfs")
    finally:
        connection.close()


def rewrite(path: str, version: int) -> None:
    """Write the closed file anew with checksums, and make `version` its user_version.

    What sqlite-utils wrote has none yet. The file also learns to give pages back (auto_vacuum).
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
