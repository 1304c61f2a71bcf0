"""The first page of a partition's file: what it says of the file, read without opening a connection."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import apsw

from takhin.disk import wal
from takhin.disk.layout import wal_bytes, wal_of
from takhin.schema.checksums import RESERVED_BYTES, SINCE_VERSION

HEADER_BYTES = 100
PAGE_BYTES_MIN = 512
LOCK_BYTE = 1 << 30
"""The page it lies in is used for locks and never written (sqlite.org/fileformat2.html)."""


class FileHeader(NamedTuple):
    """What the first page of a file says of it."""

    application_id: int
    user_version: int
    pages: int
    page_bytes: int
    reserved_bytes: int
    """At the end of each page."""


def file_header(path: Path) -> FileHeader:
    """The header of a file, read without a trace on the file or beside it.

    Read from the file's header (sqlite.org/fileformat2.html) through SQLite's own VFS, as a connection
    would trip over a file whose last checkpoint was cut short, and a foreign file is not to be touched.
    All but the size is written before a file goes into service, so it is never in a WAL only; the version
    may be there after an upgrade, and what is told here is then that of before.
    Raises ValueError for what is no database, apsw.Error for what cannot be read.
    """
    file = apsw.VFSFile("", str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
    try:
        header = file.xRead(HEADER_BYTES, 0) if file.xFileSize() >= HEADER_BYTES else b""
    finally:
        file.xClose()
    if not header.startswith(b"SQLite format 3\0"):
        raise ValueError("file is not a database")
    page_bytes = int.from_bytes(header[16:18], "big")
    if page_bytes == 1:  # what 16 bits cannot say
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


def visible_loss(path: Path, header: FileHeader) -> str | None:
    """What a file has visibly lost, to be said after its name. (The rest is told by checksums, when read.)

    A crash within a checkpoint leaves a file too short, and all that it lacks in the write-ahead log. What
    neither has, SQLite would take for zeros. Raises apsw.Error.
    """
    if header.user_version >= SINCE_VERSION and header.reserved_bytes != RESERVED_BYTES:
        return "is damaged: its header says that its pages have no checksums"
    size_bytes = path.stat().st_size
    if size_bytes >= header.pages * header.page_bytes and size_bytes % header.page_bytes == 0:
        return None
    in_wal, pages = wal.committed(wal_of(path)) if wal_bytes(path) else (set(), 0)
    wanted = range(size_bytes // header.page_bytes + 1, (pages or header.pages) + 1)
    never_written = LOCK_BYTE // header.page_bytes + 1
    lost = next((page for page in wanted if page not in in_wal and page != never_written), None)
    if lost is None or path.stat().st_size != size_bytes:  # a broker has copied it meanwhile
        return None
    beside = f", and page {lost} is not in its write-ahead log either" if wal_bytes(path) else ""
    return (
        f"is cut short: it has {size_bytes} bytes, and its header says "
        f"{header.pages * header.page_bytes}{beside}"
    )
