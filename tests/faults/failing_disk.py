"""A disk whose writes and syncs fail with EIO when a test says so, and then lose what was not synced.

An apsw VFS above SQLite's checksums. It models the page cache of Linux: after a failed sync the kernel treats
the pages that it could not write as written, so that a later successful sync does not bring them to the disk.
"""

# ruff: noqa: N802  the methods of a VFS have SQLite's names

from __future__ import annotations

import errno
import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw
from takhin.schema import checksums

GATE_S_MAX = 20.0
"""After this time a call that nobody lets through fails."""

EIO = {"sync": apsw.SQLITE_IOERR_FSYNC, "write": apsw.SQLITE_IOERR_WRITE, "open": apsw.SQLITE_CANTOPEN}


@dataclass
class Plan:
    """Which calls fail: those of one kind, on a partition's files, from the `first` on, one or all of them.

    landed: True if the failing call takes effect all the same. told: True if it returns its error.
    wal: True for the write-ahead log alone, False for the `.db` file alone, None for both.
    code: the error code for SQLite; None for EIO's. errno: what the system says was the reason.
    """

    kind: str
    path: Path
    first: int
    for_good: bool
    landed: bool = False
    told: bool = True
    wal: bool | None = None
    code: int | None = None
    errno: int = errno.EIO
    calls: int = 0
    failures: int = 0

    def fails(self, kind: str, path: str) -> bool:
        """Count a call; True if it is one that fails."""
        if kind != self.kind or path.removesuffix("-wal") != str(self.path):
            return False
        if self.wal not in (None, path.endswith("-wal")):
            return False
        self.calls += 1
        if self.calls < self.first or (self.failures and not self.for_good):
            return False
        self.failures += 1
        return True


@dataclass
class Gate:
    """Stops the `number`-th call of a kind on a file, on its thread, until the test lets it through."""

    kind: str
    path: Path
    number: int = 1
    calls: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def wait(self, kind: str, path: str) -> None:
        if (kind, path) != (self.kind, str(self.path)):
            return
        self.calls += 1
        if self.calls == self.number:
            self.reached.set()
            if not self.opened.wait(GATE_S_MAX):
                raise TimeoutError(f"{kind} of {path} was not let through")


@dataclass
class Unsynced:
    """A write that may not be on the disk. before: what the disk has instead."""

    before: bytes
    lost: bool = False
    """True after a failed sync: no later one brings the write to the disk."""


@dataclass
class Disk:
    """What fails now, and what is not on the disk, by path and offset.

    SQLite writes whole frames and pages, so a second write to an offset covers the first.
    """

    plan: Plan | None = None
    gate: Gate | None = None
    unsynced: dict[str, dict[int, Unsynced]] = field(default_factory=dict)

    def failing(self, kind: str, path: str) -> Plan | None:
        """The plan by which this call fails, if it does. Called on any thread."""
        if self.gate is not None:
            self.gate.wait(kind, path)
        plan = self.plan
        return plan if plan is not None and plan.fails(kind, path) else None

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

    def crash(self, data: Path, copy: Path, chance: random.Random, share: float) -> None:
        """Copy the folder as a power cut would leave it. A child copies, because the files are in use.

        share: about which share of the unsynced writes is lost.
        """
        subprocess.run(["cp", "-r", data, copy], check=True)
        for path in copy.glob("topics/*/*-shm"):
            path.unlink()
        for name, writes in self.unsynced.items():
            if not Path(name).is_relative_to(data):  # of an earlier copy that an engine was started on
                continue
            path = copy / Path(name).relative_to(data)
            if path.exists():  # a file of tmp/ was renamed later, and was synced
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
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        plan = self._disk.failing("open", path)
        if plan is not None:
            raise apsw.exception_for(plan.code or EIO[plan.kind])
        return FailingFile(self._disk, name, flags)

    def xGetLastError(self):
        plan = self._disk.plan
        return (0, "") if plan is None else (plan.errno, "")

    def xDelete(self, name, sync_directory):
        super().xDelete(name, sync_directory)
        self._disk.unsynced.pop(name, None)


class FailingFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name, flags) -> None:
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("cksmvfs", name, flags)

    def _fail(self, plan: Plan) -> None:
        if plan.told:
            raise apsw.exception_for(plan.code or EIO[plan.kind])

    def xWrite(self, data, offset):
        plan = self._disk.failing("write", self._path)
        if plan is None or plan.landed:
            before = super().xRead(len(data), offset)
            super().xWrite(data, offset)
            self._disk.written(self._path, offset, before.ljust(len(data), b"\0"))
        if plan is not None:
            self._fail(plan)

    def xTruncate(self, size):
        super().xTruncate(size)
        self._disk.truncated(self._path, size)

    def xSync(self, flags):
        plan = self._disk.failing("sync", self._path)
        if plan is None or plan.landed:
            super().xSync(flags)
        self._disk.synced(self._path, failed=plan is not None and not plan.landed)
        if plan is not None:
            self._fail(plan)


@contextmanager
def failing_disk() -> Iterator[Disk]:
    """Put all files that apsw opens while the block runs on such a disk."""
    checksums.load()
    disk = Disk()
    vfs = FailingVFS(disk)
    try:
        yield disk
    finally:
        vfs.unregister()
