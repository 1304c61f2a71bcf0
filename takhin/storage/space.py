"""Room on the disk: a warning before it is gone, and a way out when it is. Knows no SQL.

On a full disk commits fail cleanly, but what would free space fails too: a trim writes before it deletes, and
a checkpoint may have to lengthen the file. So a file of a known size, DATA/ballast, is kept for that: it goes
when a write meets a full disk. From then on appends are refused at the door, while trims, deletions and
checkpoints use its room. Once enough is free, it is made anew and appends are let in again.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog

from takhin.errors import StorageFullError
from takhin.settings import StorageSettings
from takhin.storage.troubles import Troubles

log = structlog.get_logger()

WATCH_SECONDS = 0.5
SPENT_BYTES = 1 << 20
"""Less is as good as nothing: an open file's -shm alone takes 32 KiB."""
FULL = "disk_full"
LOW = "disk_low"


class DiskSpace:
    """Watches the data folder's file system. Lives on the loop."""

    def __init__(self, folder: Path, settings: StorageSettings, troubles: Troubles) -> None:
        self._folder = folder
        self._ballast = folder / "ballast"
        self._ballast_bytes = settings.ballast_bytes
        self._low_bytes = settings.free_bytes_low
        self._troubles = troubles
        self.full = False

    def check(self) -> None:
        """Raises StorageFullError while the disk is full."""
        if self.full:
            raise StorageFullError(
                f"the disk is full: {self._free_bytes()} bytes are free for {self._folder}, and records are "
                f"taken again when {self._wanted_bytes} are"
            )

    def ran_out(self) -> bool:
        """A write has met a full disk. True if that has freed room for what frees more."""
        self.full = True
        self._troubles.begin(FULL, f"the disk of {self._folder} is full: no records are taken")
        if not self._ballast.exists():
            return False
        self._ballast.unlink()
        return True

    async def watch(self) -> None:
        """Keep the ballast and tell of changes, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(WATCH_SECONDS)

    async def look(self) -> None:
        """See how much is free, and act on it."""
        free = self._free_bytes()
        if free < self._low_bytes:
            self._troubles.begin(LOW, f"{free} bytes are free for {self._folder}")
        else:
            self._troubles.end(LOW)
        if free < SPENT_BYTES:  # before a write meets it, or a read that has to open its file
            self.ran_out()
        if free < self._wanted_bytes:
            return
        try:
            await asyncio.to_thread(self._fill)
        except OSError as error:  # somebody else was faster
            log.warning("ballast_failed", path=str(self._ballast), error=error.strerror)
            return
        self.full = False
        self._troubles.end(FULL)

    def close(self) -> None:
        """Remove the ballast, so that no copy of a stopped broker's folder has it."""
        self._ballast.unlink(missing_ok=True)

    def _fill(self) -> None:  # on a worker thread
        if not self._ballast_bytes:
            return
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            if os.fstat(descriptor).st_size < self._ballast_bytes:
                os.posix_fallocate(descriptor, 0, self._ballast_bytes)
        finally:
            os.close(descriptor)

    @property
    def _wanted_bytes(self) -> int:
        """Free bytes at which there is room for the ballast and as much again, for records."""
        return max(2 * self._ballast_bytes, 1 << 20)

    def _free_bytes(self) -> int:
        system = os.statvfs(self._folder)
        return system.f_bavail * system.f_frsize
