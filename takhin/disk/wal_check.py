"""Whether the frames of a write-ahead log in use are what was written.

SQLite compares the checksums of a WAL when it recovers one, and not when it copies its pages into the file:
there a damaged page would get a checksum that is right. So the frames are compared before that, while commits
go on. Each is looked at once, unless it could not be copied then: it may have been damaged since. (The -wal
has none of SQLite's locks, which would be lost with a descriptor that is closed: they are on the .db and the
-shm.)
"""

from __future__ import annotations

from pathlib import Path

import apsw

from takhin.disk.faults import NotNowError, WalDamagedError, sentence
from takhin.disk.layout import wal_of
from takhin.disk.wal import HEAD, order_of
from takhin.disk.wal_sums import FRAME_BYTES, FRAME_HEAD, Sums, are_whole
from takhin.native import Library
from takhin.schema import PAGE_BYTES

LOOKS_MAX = 3
"""A WAL that is restarted or cut off during a look can seem damaged. That does not repeat itself."""

AT_ONCE, AT_ONCE_IN_C = 16, 64
"""Frames that are read and compared at once: each call lets go of Python's lock and has to get it back."""
SALTS = slice(16, 24)
"""Of a WAL's head; each frame has the same."""


class WalCheck:
    """The check of one file's WAL. On any thread, one call at a time."""

    def __init__(self, path: Path, native: Library | None = None) -> None:
        """path: the `.db` file. native: the library that compares; None: SQLite's and Python's arithmetic."""
        self._path = wal_of(path)
        self._native = native
        self._head = b""  # of the log that was looked at
        self._checked = 0  # so many of its frames were whole
        self._sums: Sums = (0, 0)  # which the last one of them carries

    def check(self, connection: apsw.Connection) -> None:
        """Check all frames in use but those that were checked and then copied. Call it before the others are.

        Frames that are added meanwhile may not be in the check. connection: one that has the file open,
        outside a transaction. Raises WalDamagedError, apsw.Error; NotNowError if it cannot be opened now.
        """
        for _ in range(LOOKS_MAX):
            used, copied = _frames(connection)
            if used <= 0 or self._look(connection, used, copied):
                return
        raise WalDamagedError(
            f"{self._path} is not as it was written: of its {used} frames in use only {self._checked} are "
            "whole"
        )

    def _look(self, connection: apsw.Connection, used: int, copied: int) -> bool:
        """True if all frames in use are whole."""
        try:
            file = apsw.VFSFile("", str(self._path), [apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_READONLY, 0])
        except apsw.CantOpenError as error:  # descriptors may be short; a WAL that is gone is noticed by name
            raise NotNowError(sentence(error)) from error
        try:
            head = file.xRead(HEAD.size, 0)
            order = order_of(head)
            if order is None:
                return False
            if head != self._head:
                self._head, self._checked, self._sums = head, 0, HEAD.unpack(head)[6:]
            elif copied < self._checked:
                self._go_back(file, copied)
            for at_once in (AT_ONCE if self._native is None else AT_ONCE_IN_C, 1):
                while self._checked < used:
                    if not self._next(connection, file, min(at_once, used - self._checked), order):
                        break
        finally:
            file.xClose()
        return self._checked >= used

    def _go_back(self, file: apsw.VFSFile, frames: int) -> None:
        """Take only so many frames as checked."""
        self._checked, self._sums = 0, HEAD.unpack(self._head)[6:]
        if frames > 0:
            last = file.xRead(FRAME_HEAD.size, HEAD.size + (frames - 1) * FRAME_BYTES)
            if len(last) == FRAME_HEAD.size:  # else it is cut off now
                self._checked, self._sums = frames, FRAME_HEAD.unpack(last)[4:]

    def _next(self, connection: apsw.Connection, file: apsw.VFSFile, count: int, order: str) -> bool:
        """True if so many more frames are whole; they are counted then."""
        content = file.xRead(count * FRAME_BYTES, HEAD.size + self._checked * FRAME_BYTES)
        if len(content) < count * FRAME_BYTES:
            return False
        if self._native is not None and order == "<":
            whole, self._sums = self._native.whole_frames(content, PAGE_BYTES, self._head[SALTS], self._sums)
            self._checked += whole
            return whole == count
        read = memoryview(content)
        frames = [read[at : at + FRAME_BYTES] for at in range(0, len(read), FRAME_BYTES)]
        salts = HEAD.unpack(self._head)[4:6]
        if any(FRAME_HEAD.unpack_from(frame)[2:4] != salts for frame in frames):
            return False
        if not are_whole(connection, frames, self._sums, order):
            return False
        self._sums = FRAME_HEAD.unpack_from(frames[-1])[4:]
        self._checked += count
        return True


def _frames(connection: apsw.Connection) -> tuple[int, int]:
    """(the frames of its WAL that are in use, those of them that are copied)."""
    connection.pragma("user_version")  # else it does not know of those that others have added
    return connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
