"""Whether the frames of a write-ahead log in use are what was written, as SQLite itself checks them.

SQLite compares the checksums of a WAL when it recovers one, and not when it copies its pages into the file:
there a damaged page would get a checksum that is right. So before that, the WAL is recovered once more: under
a second name, a hard link in DATA/tmp, beside a file of one empty page. That connection has its index in
memory and changes nothing. 6 µs a frame, without Python's lock. (A -wal has none of SQLite's locks, which
would be lost with a descriptor that is closed: they are on the .db and the -shm.)
"""

from __future__ import annotations

import os
import struct
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

import apsw
import structlog

from takhin.disk.faults import WalDamagedError
from takhin.disk.layout import SUFFIX, scratch_of, wal_of
from takhin.schema import PAGE_BYTES
from takhin.schema.checksums import RESERVED_BYTES

logger = structlog.get_logger()

STUB = struct.pack(
    f">16sHBBBBBB{100 - 24}xBHHHB{PAGE_BYTES - 108}x",
    *(b"SQLite format 3\0", PAGE_BYTES, 2, 2, RESERVED_BYTES, 64, 32, 32),
    *(13, 0, 0, PAGE_BYTES - RESERVED_BYTES, 0),
)
"""A file of one page in WAL mode, the empty root of a schema (sqlite.org/fileformat2.html)."""
LOOKS_MAX = 3
"""A WAL that is restarted between two looks has fewer frames than before. One that is restarted or cut off
during a look can seem too short or malformed. Neither repeats itself."""


def check_wal(path: Path, connection: apsw.Connection) -> None:
    """Check the WAL of a file, of which `connection` is open. Raises WalDamagedError, apsw.Error.

    Frames that are added meanwhile need not be in the check: the next one has them.
    """
    for look in range(1, LOOKS_MAX + 1):
        used = _frames(connection)
        if used <= 0:
            return
        try:
            whole = _recovered(path)
        except OSError as error:  # a file system without hard links, or a full one
            _unchecked(str(path.parent), error.strerror or str(error))
            return
        except apsw.Error:
            if look == LOOKS_MAX:
                raise
            continue
        if whole >= used:
            return
    raise WalDamagedError(
        f"{wal_of(path)} is not as it was written: of its {used} frames in use only {max(whole, 0)} are whole"
    )


def _frames(connection: apsw.Connection) -> int:
    """The frames of its WAL that are in use."""
    connection.pragma("user_version")  # else it does not know of those that others have added
    in_use, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    return in_use


def _recovered(path: Path) -> int:
    """The frames that SQLite takes from the WAL now. Raises OSError where no link can be made, apsw.Error."""
    stub = scratch_of(path) / f"{uuid.uuid4()}{SUFFIX}"
    link = wal_of(stub)
    try:
        stub.write_bytes(STUB)
        if os.geteuid() == 0:  # SQLite gives a -wal the owner of the file that it is beside
            owner = path.stat()
            os.chown(stub, owner.st_uid, owner.st_gid)
        link.hardlink_to(wal_of(path))
        connection = apsw.Connection(str(stub), flags=apsw.SQLITE_OPEN_READWRITE, vfs="unix")
        try:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.pragma("locking_mode", "exclusive")
            return _frames(connection)
        finally:
            connection.close()
    finally:
        for name in (link, stub):
            with suppress(OSError):  # swept at the next start
                name.unlink(missing_ok=True)


@cache
def _unchecked(folder: str, reason: str) -> None:
    """Say once that the logs of a folder cannot be checked."""
    logger.warning("wal_unchecked", folder=folder, reason=reason)
