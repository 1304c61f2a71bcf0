"""The frames of a write-ahead log, and which of them are whole (sqlite.org/walformat.html). Knows no SQL.

SQLite checks a frame's checksum only when it recovers a log that a crash left, and the first frame that does
not match is the end of the log for it. Here the frames after that one are checked, too. The log is read
through SQLite's own VFS. Only page numbers and checksums are understood, in Python, at 0.3 ms a frame: enough
for `takhin verify`, and for a start on a file that is visibly incomplete.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw

from takhin.disk.layout import size_bytes

HEAD = struct.Struct(">8I")
"""Magic, version, page size, number of the checkpoint, two salts, two sums."""
FRAME_HEAD = struct.Struct(">6I")
"""Page, pages of the file after a commit or 0, two salts, two sums."""
INDEX_HEAD = struct.Struct("=5I")
"""The begin of an index, in the machine's byte order: three words, four bytes, the last valid frame."""
MAGIC = 0x377F0682
"""The last bit is the byte order of the words of a checksum: 1 for big-endian."""

LEFT_OUT = 2
"""A page's number, for the frame that stands for others: any would do."""

Sums = tuple[int, int]


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
    with _opened(path) as file:
        size = file.xFileSize()
        if size < HEAD.size:
            return
        begin = file.xRead(HEAD.size, 0)
        if len(begin) < HEAD.size:
            return
        magic, _, page_bytes, _, *salts, sum_1, sum_2 = HEAD.unpack(begin)
        order = ">" if magic & 1 else "<"
        if magic & ~1 != MAGIC or _sums(begin[:24], (0, 0), order) != (sum_1, sum_2):
            return  # SQLite takes nothing from such a log
        sums = sum_1, sum_2
        for at in range(HEAD.size, size - FRAME_HEAD.size - page_bytes + 1, FRAME_HEAD.size + page_bytes):
            frame = file.xRead(FRAME_HEAD.size + page_bytes, at)
            if len(frame) < FRAME_HEAD.size + page_bytes:
                return  # a broker has truncated it meanwhile
            page, pages_after, *of_frame, sum_1, sum_2 = FRAME_HEAD.unpack(frame[: FRAME_HEAD.size])
            if of_frame != salts:
                return  # written before the last restart
            sums = _sums(frame[FRAME_HEAD.size :], _sums(frame[:8], sums, order), order)
            yield Frame(page, pages_after, whole=sums == (sum_1, sum_2))
            sums = sum_1, sum_2


def head(path: Path) -> bytes:
    """The first bytes of a log, which are others after each restart. Raises apsw.Error.

    path: the `-wal` file.
    """
    with _opened(path) as file:
        return bytes(file.xRead(HEAD.size, 0))


def from_frame(path: Path, expected: bytes, first: int, beyond: int) -> bytes | None:
    """A log of some frames of another one, from `first` up to `beyond`: whole if and only if they are.

    The sums of each frame go on from those of the frame before. So the first frame here is of our own making:
    it stands for all that were left out, and its last two words are chosen so that its sums are the ones that
    the last of those carries. path: the `-wal` file. The first frame is 0, and `first` is not. None if the
    log no longer has the head `expected`. Raises apsw.Error.
    """
    with _opened(path) as file:
        if file.xRead(HEAD.size, 0) != expected:
            return None
        magic, _, page_bytes, _, *salts, sum_1, sum_2 = HEAD.unpack(expected)
        size = FRAME_HEAD.size + page_bytes
        found = bytes(file.xRead((beyond - first + 1) * size, HEAD.size + (first - 1) * size))
    if len(found) < FRAME_HEAD.size:
        return None  # it has been cut off meanwhile
    order = ">" if magic & 1 else "<"
    zeros = bytes(page_bytes - 8)
    start = FRAME_HEAD.pack(LEFT_OUT, 0, *salts, *FRAME_HEAD.unpack(found[: FRAME_HEAD.size])[-2:])
    before_1, before_2 = _sums(zeros, _sums(start[:8], (sum_1, sum_2), order), order)
    sum_1, sum_2 = FRAME_HEAD.unpack(start)[-2:]
    chosen = sum_1 - before_1 - before_2, sum_2 - before_2 - sum_1
    end = struct.pack(f"{order}2I", *(word & 0xFFFF_FFFF for word in chosen))
    return b"".join((expected, start, zeros, end, found[size:]))


@contextmanager
def _opened(path: Path) -> Iterator[apsw.VFSFile]:
    file = apsw.VFSFile("", str(path), [apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READONLY, 0])
    try:
        yield file
    finally:
        file.xClose()


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


def _sums(content: bytes, before: Sums, order: str) -> Sums:
    """SQLite's checksum of content (a multiple of 8 bytes). before: the sums of the content before it."""
    sum_1, sum_2 = before
    words = iter(struct.unpack(f"{order}{len(content) // 4}I", content))
    for word in words:
        sum_1 = (sum_1 + word + sum_2) & 0xFFFF_FFFF
        sum_2 = (sum_2 + next(words) + sum_1) & 0xFFFF_FFFF
    return sum_1, sum_2
