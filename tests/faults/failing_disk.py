"""A disk whose writes and syncs fail with EIO when a test says so, and forget then what they did not keep.

An apsw VFS above SQLite's checksums. It models the page cache of Linux: after a failed sync the kernel takes
what it could not write for written, so that a later sync that succeeds does not bring it to the disk.
"""

# ruff: noqa: N802  the methods of a VFS have SQLite's names

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw
from takhin.schema import checksums

EIO = {"sync": apsw.SQLITE_IOERR_FSYNC, "write": apsw.SQLITE_IOERR_WRITE}


@dataclass
class Plan:
    """Which calls fail: those of a kind, on a partition's files, from the `first`, one or all of them.

    landed: whether what fails was done all the same. told: whether the caller hears of it.
    """

    kind: str
    path: Path
    first: int
    for_good: bool
    landed: bool = False
    told: bool = True
    calls: int = 0
    failures: int = 0

    def fails(self, kind: str, path: str) -> bool:
        """Count a call, and say whether it is one that fails."""
        if kind != self.kind or path.removesuffix("-wal") != str(self.path):
            return False
        self.calls += 1
        if self.calls < self.first or (self.failures and not self.for_good):
            return False
        self.failures += 1
        return True


@dataclass
class Unsynced:
    """A write that the disk may not have: what it has instead."""

    before: bytes
    lost: bool = False
    """A sync has failed since: no later one brings it to the disk."""


@dataclass
class Disk:
    """What fails now, and what is not on the disk, by path and offset. SQLite writes whole frames and pages,
    so that a second write to an offset covers the first."""

    plan: Plan | None = None
    unsynced: dict[str, dict[int, Unsynced]] = field(default_factory=dict)

    def fails(self, kind: str, path: str) -> bool:
        return self.plan is not None and self.plan.fails(kind, path)

    def written(self, path: str, offset: int, before: bytes) -> None:
        known = self.unsynced.setdefault(path, {}).get(offset)
        self.unsynced[path][offset] = Unsynced(known.before if known else before)

    def synced(self, path: str, *, failed: bool) -> None:
        if failed:
            for write in self.unsynced.get(path, {}).values():
                write.lost = True
        else:
            of = self.unsynced.get(path, {})
            self.unsynced[path] = {offset: write for offset, write in of.items() if write.lost}

    def truncated(self, path: str, size: int) -> None:
        of = self.unsynced.get(path, {})
        self.unsynced[path] = {offset: write for offset, write in of.items() if offset < size}

    def crash(self, data: Path, copy: Path, chance: random.Random) -> None:
        """Copy the folder as a power cut would leave it. A child copies, for the files are in use."""
        subprocess.run(["cp", "-r", data, copy], check=True)
        for path in copy.glob("topics/*/*-shm"):
            path.unlink()
        share = chance.choice([0, 0.5, 1])
        for name, writes in self.unsynced.items():
            if not Path(name).is_relative_to(data):  # of a copy that was looked at
                continue
            path = copy / Path(name).relative_to(data)
            if path.exists():  # what was built in tmp/ has been renamed since, and was synced
                with path.open("r+b") as file:
                    for offset, write in writes.items():
                        if chance.random() < share:
                            file.seek(offset)
                            file.write(write.before)


class FailingVFS(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__("failing", "cksmvfs", makedefault=True)

    def xOpen(self, name, flags):
        return FailingFile(self._disk, name, flags)

    def xDelete(self, name, sync_directory):
        super().xDelete(name, sync_directory)
        self._disk.unsynced.pop(name, None)


class FailingFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name, flags) -> None:
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("cksmvfs", name, flags)

    def _fail(self, kind: str) -> None:
        plan = self._disk.plan
        if plan is not None and plan.told:
            raise apsw.exception_for(EIO[kind])

    def xWrite(self, data, offset):
        failed = self._disk.fails("write", self._path)
        if not failed or self._disk.plan.landed:
            before = super().xRead(len(data), offset)
            super().xWrite(data, offset)
            self._disk.written(self._path, offset, before.ljust(len(data), b"\0"))
        if failed:
            self._fail("write")

    def xTruncate(self, size):
        super().xTruncate(size)
        self._disk.truncated(self._path, size)

    def xSync(self, flags):
        failed = self._disk.fails("sync", self._path)
        if not failed or self._disk.plan.landed:
            super().xSync(flags)
        self._disk.synced(self._path, failed=failed and not self._disk.plan.landed)
        if failed:
            self._fail("sync")


@contextmanager
def failing_disk() -> Iterator[Disk]:
    """Files that apsw opens while the block runs are on such a disk."""
    checksums.load()
    disk = Disk()
    vfs = FailingVFS(disk)
    try:
        yield disk
    finally:
        vfs.unregister()
