"""The first page of a partition's file, read without opening a connection: is the file ours, and all there?

The only place that checks a header. Start and copies call `checked_header` and raise errors of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import apsw

from takhin.disk import wal
from takhin.disk.layout import shm_of, wal_bytes, wal_of
from takhin.disk.plain import is_plain
from takhin.schema import APPLICATION_ID, VERSION
from takhin.schema.checksums import RESERVED_BYTES, SINCE_VERSION

HEADER_BYTES = 100
PAGE_BYTES_MIN = 512
LOCK_BYTE = 1 << 30
"""SQLite locks this byte, so the page that holds it is never written (sqlite.org/fileformat2.html)."""


class HeaderError(Exception):
    """A file cannot be used, as its first page shows. The text is a sentence that begins with its path."""


class NewerVersionError(HeaderError):
    """A later Takhin wrote the file. Nothing is wrong with it."""


class FileHeader(NamedTuple):
    """What the first page says of its file."""

    application_id: int
    user_version: int
    pages: int
    page_bytes: int
    reserved_bytes: int
    """Bytes at the end of each page that SQLite leaves to others: here, to checksums."""


def file_header(path: Path) -> FileHeader:
    """Read a file's header (sqlite.org/fileformat2.html) and leave no trace on the file or beside it.

    It is read through SQLite's VFS and not through a connection: a connection would fail on a file whose
    last checkpoint was cut short, and it would touch files that are not ours.
    All fields but the size are written before a file goes into service, so they are never in a WAL alone. The
    version is an exception: while an upgrade is in the WAL only, the header still says the old version.
    Raises ValueError if the file is not a database, apsw.Error if it cannot be read.
    """
    if not is_plain(path):
        raise ValueError("it is not a plain file")
    file = apsw.VFSFile("", str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
    try:
        header = file.xRead(HEADER_BYTES, 0) if file.xFileSize() >= HEADER_BYTES else b""
    finally:
        file.xClose()
    if not header.startswith(b"SQLite format 3\0"):
        raise ValueError("file is not a database")
    page_bytes = int.from_bytes(header[16:18], "big")
    if page_bytes == 1:  # stands for 65,536, which needs 17 bits
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


def checked_header(path: Path) -> FileHeader:
    """The header of a partition's file that this Takhin can open.

    Raises HeaderError for any other file, NewerVersionError for one of a later Takhin, apsw.Error, OSError.
    """
    if beside := [each.name for each in (wal_of(path), shm_of(path)) if not is_plain(each)]:
        raise HeaderError(f"{path} has a {beside[0]} that is not a plain file")
    try:
        header = file_header(path)
    except ValueError as error:
        raise HeaderError(f"{path} is not a Takhin partition: {error}") from error
    if header.application_id != APPLICATION_ID:
        raise HeaderError(
            f"{path} is not a Takhin partition: its application_id is {header.application_id:#x}, "
            f"not {APPLICATION_ID:#x}"
        )
    if header.user_version > VERSION:
        raise NewerVersionError(
            f"{path} has schema version {header.user_version}, this Takhin knows versions up to {VERSION}: "
            "use the newer Takhin that wrote it"
        )
    if (loss := _visible_loss(path, header)) is not None:
        raise HeaderError(f"{path} {loss}")
    return header


def _visible_loss(path: Path, header: FileHeader) -> str | None:
    """What a file has visibly lost, as a clause that follows its path. Checksums find the rest, later.

    After a crash within a checkpoint the file may be too short, and then the write-ahead log has the missing
    pages. SQLite would read a page that neither of them has as zeros. Raises apsw.Error.
    """
    if header.user_version >= SINCE_VERSION and header.reserved_bytes != RESERVED_BYTES:
        return "is damaged: its header says that its pages have no checksums"
    size_bytes = path.stat().st_size
    if size_bytes > header.pages * header.page_bytes and not wal_bytes(path):
        if path.stat().st_size != size_bytes:  # a broker has copied its write-ahead log meanwhile
            return None
        return (
            f"is longer than it should be: it has {size_bytes} bytes, and its header says "
            f"{header.pages * header.page_bytes}"
        )
    if size_bytes >= header.pages * header.page_bytes and size_bytes % header.page_bytes == 0:
        return None
    in_wal, pages = wal.committed(wal_of(path)) if wal_bytes(path) else (set(), 0)
    wanted = range(size_bytes // header.page_bytes + 1, (pages or header.pages) + 1)
    never_written = LOCK_BYTE // header.page_bytes + 1
    lost = next((page for page in wanted if page not in in_wal and page != never_written), None)
    if lost is None or path.stat().st_size != size_bytes:  # a broker's checkpoint has written it meanwhile
        return None
    beside = f", and page {lost} is not in its write-ahead log either" if wal_bytes(path) else ""
    return (
        f"is cut short: it has {size_bytes} bytes, and its header says "
        f"{header.pages * header.page_bytes}{beside}"
    )
