"""Reads one partition's file from another process than the broker's, and leaves no trace where it can.

SQLite makes a -wal and a -shm beside a WAL-mode file when it reads it, and a reader leaves them there. So a
file without a -wal is read as immutable, which makes neither, and one with a -wal but no -shm, such as a
copy, through unshared.py. If its time or size has changed afterwards, a broker has opened it meanwhile, and
it is read once more, as a file in use. So is what a killed broker has left, with its -shm.

Also finds the damage in a file: pages, and frames of its write-ahead log. Knows no table.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

import apsw

from takhin.disk import statements as sql
from takhin.disk import wal
from takhin.disk.connection import open_beside
from takhin.disk.faults import is_damage
from takhin.disk.header import HeaderError, NewerVersionError, checked_header
from takhin.disk.layout import shm_of, wal_bytes, wal_of
from takhin.disk.plain import is_plain
from takhin.disk.unshared import open_unshared
from takhin.errors import CopyError
from takhin.schema import PAGE_BYTES
from takhin.schema.checksums import SINCE_VERSION, load

T = TypeVar("T")

AHEAD_BYTES = 1 << 20
"""Bytes of one read ahead."""
CACHE_KIB = 1_024
"""Each page is read once, so a larger cache takes time and saves none."""


class DamagedError(CopyError):
    """The file is not as it was written."""


def read(path: Path, work: Callable[[apsw.Connection], T], *, version: int | None = None) -> T:
    """Call `work` with a connection in a read transaction, which sees one state of the file; its result.

    `work` may be called twice, see above. version: what `check_header` returned for the file; None to call it
    now. Raises DamagedError for a file that is not a Takhin partition or is visibly incomplete, CopyError for
    one of a later Takhin, apsw.Error, OSError.
    """
    before = _still(path)
    if version is None:
        version = check_header(path)
    if before is not None:
        try:
            done = _work(path, version, work, still=True)
        except apsw.Error:
            if _still(path) == before:
                raise
        else:
            if _still(path) == before:
                return done
    return _work(path, version, work, still=False)


def read_ahead(path: Path, bytes_max: int) -> None:
    """Read a file of at most `bytes_max` bytes from front to back, so that the system has it in memory.

    SQLite then reads it in the order of its trees without waiting for the disk at each page. Errors are left
    to that reading: the file may be damaged, or may have become shorter.
    """
    if not is_plain(path):
        return
    with suppress(apsw.Error):
        file = apsw.VFSFile("unix", str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
        try:
            size = file.xFileSize()
            if size <= bytes_max:
                for at in range(0, size, AHEAD_BYTES):
                    file.xRead(min(AHEAD_BYTES, size - at), at)
        finally:
            file.xClose()


def _still(path: Path) -> list[tuple[int, int, int]] | None:
    """What a write would change; None for a file with a -shm: it is in use, or its broker was killed."""
    if shm_of(path).exists():
        return None
    found = [path.stat()]
    with suppress(FileNotFoundError):
        found.append(wal_of(path).stat())
    return [(of.st_ino, of.st_size, of.st_mtime_ns) for of in found]


def _work(path: Path, version: int, work: Callable[[apsw.Connection], T], *, still: bool) -> T:
    if still and wal_of(path).exists():
        connection = open_unshared(path)
    else:
        connection = open_beside(path, immutable=still)
    try:
        connection.pragma("cache_size", -CACHE_KIB)
        connection.execute(sql.BEGIN_READ)
        connection.execute(sql.TOUCH).fetchall()  # from here on it is one state
        if version >= SINCE_VERSION and str(connection.pragma("checksum_verification")) != "1":
            raise DamagedError(f"{path} is damaged: its pages are not read with their checksums")
        return work(connection)
    finally:
        connection.close()


def check_header(path: Path) -> int:
    """The schema version of a partition's file, by its first page, read without a trace.

    Raises DamagedError, CopyError, apsw.Error, OSError as `read` does.
    """
    try:
        return checked_header(path).user_version
    except NewerVersionError as error:
        raise CopyError(str(error)) from error
    except HeaderError as error:
        raise DamagedError(str(error)) from error


def wal_faults(path: Path) -> list[str]:
    """Damage in the write-ahead log of a file in use, as sentences. SQLite does not notice it in use.

    Raises apsw.Error.
    """
    if not wal_bytes(path):
        return []
    in_use = wal.frames_in_use(shm_of(path))
    found = _damaged_frames(path, in_use)
    if found:  # look twice, because a frame may be overwritten while it is read
        found = [frame for frame in found if frame in _damaged_frames(path, in_use)]
    return [
        f"frame {number} of {wal_of(path).name} does not match its checksum (page {page})"
        for number, page in found[:3]
    ]


def _damaged_frames(path: Path, in_use: int) -> list[tuple[int, int]]:
    """(number of the frame, number of its page) for each that does not match; the first frame is 1."""
    numbered = enumerate(islice(wal.frames(wal_of(path)), max(0, in_use)), 1)
    return [(number, frame.page) for number, frame in numbered if not frame.whole]


def damaged_pages(path: Path) -> list[int]:
    """The numbers of the pages that do not match their checksums; the first page is 1.

    For a file that nobody writes to; its -wal is not read. Raises apsw.Error if reading fails for another
    reason.
    """
    load()
    file = apsw.VFSFile("cksmvfs", str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
    damaged = []
    try:
        for number in range(file.xFileSize() // PAGE_BYTES):
            try:
                file.xRead(PAGE_BYTES, number * PAGE_BYTES)
            except apsw.IOError as error:
                if not is_damage(error):
                    raise
                damaged.append(number + 1)
    finally:
        file.xClose()
    return damaged
