"""How one partition's file is read, beside a running broker or without one, leaving no trace where it can.

A reader of a WAL-mode file makes a -wal and a -shm beside it and leaves them there. So a file without a
-wal is read as immutable, which makes neither, and its time and size are looked at afterwards: a broker that
has opened it meanwhile shows in them, and then it is read once more, as a file in use.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import apsw

from takhin.disk import wal
from takhin.disk.faults import is_damage
from takhin.disk.header import file_header, visible_loss
from takhin.disk.layout import wal_bytes, wal_of
from takhin.errors import CopyError
from takhin.schema import APPLICATION_ID, PAGE_BYTES, VERSION
from takhin.schema.checksums import SINCE_VERSION, load

AHEAD_BYTES = 1 << 20
T = TypeVar("T")

BUSY_MS_MAX = 5_000
CACHE_KIB = 1_024
"""A page is read once: a larger cache costs time instead of saving it."""

READ_LOG = "SELECT * FROM log WHERE id = 0"


class DamagedError(CopyError):
    """The file is not as it was written."""


@dataclass(frozen=True, slots=True)
class Log:
    """What a file says of itself in its table log."""

    topic: str
    partition: int
    topic_id: str
    incarnation_id: str
    start_offset: int
    end_offset: int
    commits: int


def read(path: Path, work: Callable[[apsw.Connection], T], *, version: int | None = None) -> T:
    """What `work` makes of a connection with a read transaction, which sees one state of the file.

    It may be called twice, see above. version: by a `check_header` before, which else is made now.
    Raises DamagedError for a file that is no Takhin partition or visibly incomplete, CopyError for one of a
    later Takhin, apsw.Error, OSError.
    """
    load()
    before = _still(path)
    if version is None:
        version = check_header(path)
    if before is not None:
        try:
            done = _work(path, "immutable=1", version, work)
        except apsw.Error:
            if _still(path) == before:
                raise
        else:
            if _still(path) == before:
                return done
    return _work(path, "mode=ro", version, work)


def _connection(path: Path, mode: str) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(f"file:{quote(str(path.absolute()))}?{mode}", flags=flags)
    connection.set_busy_timeout(BUSY_MS_MAX)
    return connection


def read_ahead(path: Path, bytes_max: int) -> None:
    """Have the system read a file of at most that size from front to back, and keep what it read.

    SQLite then reads page after page in the order of its trees, without waiting for the disk each time. What
    cannot be read, for it is damaged or was trimmed meanwhile, is left to that.
    """
    with suppress(apsw.Error):
        file = apsw.VFSFile("unix", str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
        try:
            size = file.xFileSize()
            if size <= bytes_max:
                for at in range(0, size, AHEAD_BYTES):
                    file.xRead(min(AHEAD_BYTES, size - at), at)
        finally:
            file.xClose()


def _still(path: Path) -> tuple[int, int, int] | None:
    """What a write to the file would change; None while it has a -wal, so is in use or was killed."""
    if wal_of(path).exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _work(path: Path, mode: str, version: int, work: Callable[[apsw.Connection], T]) -> T:
    connection = _connection(path, mode)
    try:
        connection.pragma("trusted_schema", 0)
        connection.pragma("cache_size", -CACHE_KIB)
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # from here on it is one state
        if version >= SINCE_VERSION and str(connection.pragma("checksum_verification")) != "1":
            raise DamagedError(f"{path} is damaged: its pages are not read with their checksums")
        return work(connection)
    finally:
        connection.close()


def check_header(path: Path) -> int:
    """The schema version of the file, by its first bytes, read without a trace.

    Raises DamagedError, CopyError, OSError as `read` does.
    """
    try:
        header = file_header(path)
    except ValueError as error:
        raise DamagedError(f"{path} is no Takhin partition: {error}") from error
    if header.application_id != APPLICATION_ID:
        raise DamagedError(
            f"{path} is no Takhin partition: its application_id is {header.application_id:#x}, "
            f"not {APPLICATION_ID:#x}"
        )
    if header.user_version > VERSION:
        raise CopyError(
            f"{path} has schema version {header.user_version}, this Takhin knows versions up to {VERSION}"
        )
    if (loss := visible_loss(path, header)) is not None:
        raise DamagedError(f"{path} {loss}")
    return header.user_version


def read_log(connection: apsw.Connection) -> Log | None:
    """The file's row in the table log; None if it is missing. Files of schema version 1 count no commits."""
    cursor = connection.execute(READ_LOG)
    row = cursor.fetchone()
    if row is None:
        return None
    found = dict(zip(_columns(connection), row, strict=True))
    return Log(**{name: found.get(name, 0) for name in Log.__slots__})


def _columns(connection: apsw.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM pragma_table_info('log')")]


def num_partitions(connection: apsw.Connection) -> int | None:
    """How many partitions the topic has; None in all files but partition 0's."""
    found: int | None = connection.execute("SELECT num_partitions FROM topic WHERE id = 0").get
    return found


def wal_faults(path: Path) -> list[str]:
    """Damage in the write-ahead log of a file in use, of which SQLite notices none while it is in use.

    Raises apsw.Error.
    """
    if not wal_bytes(path):
        return []
    connection = _connection(path, "mode=ro")
    try:
        connection.pragma("user_version")  # without having read, it would not know
        in_use, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    finally:
        connection.close()
    found = _damaged_frames(path, in_use)
    if found:  # twice, as a frame may be written anew while it is read
        found = [frame for frame in found if frame in _damaged_frames(path, in_use)]
    return [
        f"frame {number} of {wal_of(path).name} does not match its checksum (page {page})"
        for number, page in found[:3]
    ]


def _damaged_frames(path: Path, in_use: int) -> list[tuple[int, int]]:
    """(number of the frame, number of its page) of those that do not match, the first frame being 1."""
    numbered = enumerate(islice(wal.frames(wal_of(path)), max(0, in_use)), 1)
    return [(number, frame.page) for number, frame in numbered if not frame.whole]


def damaged_pages(path: Path) -> list[int]:
    """The numbers of the pages that do not match their checksums, page 1 being the first.

    For a file that is not written to; what is in its -wal is not looked at. Raises apsw.Error where reading
    fails for another reason.
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
