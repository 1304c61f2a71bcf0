"""Whether the frames of a write-ahead log in use are what was written, as SQLite itself checks them.

SQLite compares the checksums of a WAL when it recovers one, and not when it copies its pages into the file:
there a damaged page would get a checksum that is right. So before that, the WAL is recovered once more: under
a second name, a hard link in DATA/tmp, beside a file of one empty page. That connection has its index in
memory and changes nothing. 6 µs a frame, without Python's lock. (A -wal has none of SQLite's locks, which
would be lost with a descriptor that is closed: they are on the .db and the -shm.)

A commit must not wait for a check that grows with the WAL. So where the first frames are known to be whole
and copied, only the others are recovered, from a log that is made of them (see `wal.from_frame`).
"""

from __future__ import annotations

import errno
import os
import struct
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import apsw

from takhin.disk import wal
from takhin.disk.faults import NotNowError, WalDamagedError, sentence
from takhin.disk.layout import SUFFIX, scratch_of, wal_of
from takhin.schema import PAGE_BYTES
from takhin.schema.checksums import RESERVED_BYTES

STUB = struct.pack(
    f">16sHBBBBBB{100 - 24}xBHHHB{PAGE_BYTES - 108}x",
    *(b"SQLite format 3\0", PAGE_BYTES, 2, 2, RESERVED_BYTES, 64, 32, 32),
    *(13, 0, 0, PAGE_BYTES - RESERVED_BYTES, 0),
)
"""A file of one page in WAL mode, the empty root of a schema (sqlite.org/fileformat2.html)."""
LOOKS_MAX = 3
"""A WAL that is restarted between two looks has fewer frames than before. One that is restarted or cut off
during a look can seem too short or malformed. Neither repeats itself."""
WORTH_IT = 3
"""The last frames are checked alone if all of them are so many times more: copying them takes time, too."""

NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class UncheckableError(Exception):
    """The log cannot be checked where it is, now or later; the text is the reason, as a clause."""


class Sound(NamedTuple):
    """The beginning of a log that is as it was written."""

    head: bytes
    """The log's own first bytes, which are others after each restart."""
    frames: int


UNKNOWN = Sound(b"", 0)


def check_wal(
    path: Path, connection: apsw.Connection, known: Sound = UNKNOWN, *, full: bool = False
) -> Sound:
    """Check the WAL of a file, of which `connection` is open. Returns how much of it is whole.

    Frames that are added meanwhile need not be in the check: the next one has them. known: what is already
    checked and copied; only the rest is checked then, and no commit may run meanwhile. full: the disk is
    full, so the check is given up if it needs room. Raises WalDamagedError; UncheckableError; NotNowError if
    it may be possible later; apsw.Error.
    """
    try:
        if known.frames and _rest_is_whole(path, connection, known):
            return known
        return _looked_at(path, connection)
    except OSError as error:
        if error.errno in NO_LINKS or (full and error.errno in NO_ROOM):
            raise UncheckableError(sentence(error)) from error
        raise NotNowError(sentence(error)) from error
    except (apsw.CantOpenError, apsw.NoMemError) as error:  # descriptors or memory are short
        raise NotNowError(sentence(error)) from error


def _rest_is_whole(path: Path, connection: apsw.Connection, known: Sound) -> bool:
    """True if it is certain. In time that depends on the frames after those that are known."""
    with suppress(apsw.Error, OSError):  # the check of the whole log says what is wrong
        used = _frames(connection)
        if used == known.frames:
            return wal.head(wal_of(path)) == known.head
        if WORTH_IT * (used - known.frames) < used:
            rest = wal.from_frame(wal_of(path), known.head, known.frames, used)
            if rest is not None:
                return _recovered(path, lambda log: log.write_bytes(rest)) > used - known.frames
    return False


def _looked_at(path: Path, connection: apsw.Connection) -> Sound:
    for look in range(1, LOOKS_MAX + 1):
        used = _frames(connection)
        if used <= 0:
            return Sound(b"", 0)
        head = wal.head(wal_of(path))
        try:
            whole = _recovered(path, lambda link: link.hardlink_to(wal_of(path)))
        except apsw.Error:
            if look == LOOKS_MAX:
                raise
            continue
        if whole >= used:
            return Sound(head, whole)
    raise WalDamagedError(
        f"{wal_of(path)} is not as it was written: of its {used} frames in use only {max(whole, 0)} are whole"
    )


def _frames(connection: apsw.Connection) -> int:
    """The frames of its WAL that are in use."""
    connection.pragma("user_version")  # else it does not know of those that others have added
    in_use, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    return in_use


def _recovered(path: Path, put: Callable[[Path], object]) -> int:
    """The frames that SQLite takes from a WAL now. put: makes that WAL under the name that it is given.

    Raises OSError, apsw.Error.
    """
    scratch = scratch_of(path)
    scratch.mkdir(exist_ok=True)  # somebody may have removed it
    stub = scratch / f"{uuid.uuid4()}{SUFFIX}"
    log = wal_of(stub)
    try:
        put(log)
        stub.write_bytes(STUB)
        if os.geteuid() == 0:  # SQLite gives a -wal the owner of the file that it is beside
            owner = path.stat()
            os.chown(stub, owner.st_uid, owner.st_gid)
        connection = apsw.Connection(str(stub), flags=apsw.SQLITE_OPEN_READWRITE, vfs="unix")
        try:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.pragma("locking_mode", "exclusive")
            return _frames(connection)
        finally:
            connection.close()
    finally:
        for name in (log, stub):
            with suppress(OSError):  # swept at the next start
                name.unlink(missing_ok=True)
