"""Whether an open file still has its name. An open file goes on, and takes records, after its name is gone.

SQLite opens a file and its `-wal` and `-shm` by name once and does not look at the names again. If a file is
removed or another one is put in its place, commits go into a file that no start will find. Opens nothing: a
look is one `stat` for each name, 2 µs.
"""

from __future__ import annotations

import os
from pathlib import Path

from takhin.disk.faults import FileGoneError
from takhin.disk.layout import shm_of, wal_of

Inode = tuple[int, int]
"""Device and number. As long as a file is open, no other one gets its inode."""


def inode(path: str | Path) -> Inode | None:
    """The inode that has the name now; None if nothing has it, or if that cannot be known."""
    try:
        found = os.stat(path)  # noqa: PTH116  a Path takes twice as long
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Inodes:
    """The inodes that a file and those beside it had when they were opened."""

    def __init__(self, path: Path) -> None:
        """Look at the names. Call it right after the file was opened, which makes those beside it."""
        beside = (path, wal_of(path), shm_of(path))
        self._noted = [(str(name), inode(name)) for name in beside]

    def check(self) -> None:
        """Raises FileGoneError if one of the names is gone, or is another file's. On any thread."""
        for name, noted in self._noted:
            _check(name, noted)

    def check_file(self) -> None:
        """As `check`, for the `.db` file alone: a closed file has nothing beside it."""
        _check(*self._noted[0])


def _check(name: str, noted: Inode | None) -> None:
    found = inode(name)
    if found != noted or found is None:
        what = "is gone" if found is None else "is another file now"
        raise FileGoneError(
            f"{name} {what}: it was removed or replaced under the running broker. Put the files back while "
            "no broker runs, or restore a backup, then start the broker again"
        )
