"""The frames of a write-ahead log, and which of them are whole (sqlite.org/walformat.html). Knows no SQL.

SQLite checks a frame's checksum only when it recovers a log that a crash left, and the first frame that does
not match is the end of the log for it. Here the frames after that one are checked, too. The log is read
through SQLite's own VFS. Only page numbers and checksums are understood, in Python, at 0.3 ms a frame: enough
for `takhin verify`, and for a start on a file that is visibly incomplete.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import apsw

from takhin.disk.layout import size_bytes
from takhin.disk.wal_sums import FRAME_BYTES, FRAME_HEAD, are_whole, comparer, sums_of
from takhin.schema import PAGE_BYTES

HEAD = struct.Struct(">8I")
"""Magic, version, page size, number of the checkpoint, two salts, two sums."""
INDEX_HEAD = struct.Struct("=5I")
"""The begin of an index, in the machine's byte order: three words, four bytes, the last valid frame."""
MAGIC = 0x377F0682
"""The last bit is the byte order of the words of a checksum: 1 for big-endian."""


class Frame(NamedTuple):
    """One page as a transaction left it."""

    page: int
    pages_after: int
    """Pages of the file after this commit; 0 in all frames but the last one of a transaction."""
    whole: bool
    """True if its checksum is right."""


def frames(path: Path) -> Iterator[Frame]:
    """The frames that were written since SQLite last restarted the log, damaged ones included.

    path: the `-wal` file. The frame after a damaged one is checked with the sums that the damaged one
    carries. Raises apsw.Error.
    """
    file = apsw.VFSFile("", str(path), [apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READONLY, 0])
    try:
        size = file.xFileSize()
        if size < HEAD.size:
            return
        head = file.xRead(HEAD.size, 0)
        order = order_of(head)
        if order is None:
            return  # SQLite takes nothing from such a log
        *_, salt_1, salt_2, sum_1, sum_2 = HEAD.unpack(head)
        with closing(comparer()) as compare:
            for at in range(HEAD.size, size - FRAME_BYTES + 1, FRAME_BYTES):
                frame = file.xRead(FRAME_BYTES, at)
                if len(frame) < FRAME_BYTES:
                    return  # a broker has truncated it meanwhile
                before = sum_1, sum_2
                page, pages_after, of_1, of_2, sum_1, sum_2 = FRAME_HEAD.unpack_from(frame)
                if (of_1, of_2) != (salt_1, salt_2):
                    return  # written before the last restart
                yield Frame(page, pages_after, whole=are_whole(compare, [frame], before, order))
    finally:
        file.xClose()


def order_of(head: bytes) -> str | None:
    """The order of the bytes of a checksum's words, "<" or ">"; None if a log's head is not as it must be."""
    if len(head) < HEAD.size:
        return None
    magic, _, page_bytes, *_, sum_1, sum_2 = HEAD.unpack(head)
    order = ">" if magic & 1 else "<"
    sound = magic & ~1 == MAGIC and page_bytes == PAGE_BYTES
    return order if sound and sums_of(head[:24], (0, 0), order) == (sum_1, sum_2) else None


def frames_in_use(index: Path) -> int:
    """The number of frames that readers of a log use, as its shared index says; 0 without an index.

    index: the `-shm` file. It is read without a lock, so also where nothing may be written, and must not be
    read by a process that has the log open: that would lose its locks. Raises apsw.Error.
    """
    if size_bytes(index) < INDEX_HEAD.size:
        return 0
    file = apsw.VFSFile("", str(index), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
    try:
        *_, frames_max = INDEX_HEAD.unpack(file.xRead(INDEX_HEAD.size, 0))
    finally:
        file.xClose()
    return int(frames_max)


def committed(path: Path) -> tuple[set[int], int]:
    """(pages that SQLite takes from a log when it recovers it, pages of the file then; 0 if it takes none).

    path: the `-wal` file. Raises apsw.Error.
    """
    taken: set[int] = set()
    pages_after = 0
    since_commit: set[int] = set()
    for frame in frames(path):
        if not frame.whole:
            break
        since_commit.add(frame.page)
        if frame.pages_after:
            taken |= since_commit
            pages_after = frame.pages_after
            since_commit.clear()
    return taken, pages_after
