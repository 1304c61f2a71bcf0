"""Room on the disk: a warning before it is gone, and a way out when it is. Knows no SQL.

On a full disk commits fail cleanly, but what would free space fails too: a trim writes before it deletes,
and a checkpoint may have to lengthen the file. So a file of a known size, DATA/ballast, is kept for that.
When a write meets a full disk, appends are refused, also those that wait in queues, and once everything
under way has ended the ballast goes: trims and deletions use its space, and write-ahead logs are cut one
after the other where there is space for that (upkeep.py). What frees space takes turns then: several at once
would use up what one of them needs. Once enough is free, the ballast is made again
and appends are let in.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from takhin.disk.capacity import unfit, wanted_after_full
from takhin.disk.layout import Layout, unfinished
from takhin.errors import StorageFullError
from takhin.sentences import sized
from takhin.settings import StorageSettings
from takhin.storage.sqlite.troubles import Troubles

logger = structlog.get_logger()

SPENT_BYTES = 1 << 20
"""Less free space is as good as none: the -shm of one open file takes 32 KiB."""
CUT_MARGIN_BYTES = 128 << 10
"""What is left when a write-ahead log is cut."""
FULL = "disk_full"
LOW = "disk_low"


class DiskSpace:
    """Watches the data folder's file system. Lives on the loop."""

    def __init__(self, folder: Path, settings: StorageSettings, troubles: Troubles) -> None:
        self.full = False
        self._folder = folder
        self._ballast = Layout(folder).ballast
        self._settings = settings
        self._ballast_bytes = settings.ballast_bytes
        self._low_bytes = settings.free_bytes_low
        self._troubles = troubles
        self._closed = False
        self._turn = asyncio.Lock()
        self._wait_seconds = settings.busy_wait_ms_max / 1_000

    def stats(self) -> Mapping[str, int]:
        """The disk of the data folder in numbers, for the engine's stats; none if it cannot be asked."""
        try:
            system = os.statvfs(self._folder)
        except OSError:  # the folder is gone: what else is wrong then, each partition says
            return {}
        free = system.f_bavail * system.f_frsize
        return {
            "disk_free_bytes": free,
            "disk_total_bytes": system.f_blocks * system.f_frsize,
            "disk_full": int(self.full),
            "disk_low": int(free < self._low_bytes),
            "ballast_bytes": self._ballast_bytes if self.has_ballast else 0,
        }

    def check(self) -> None:
        """Raises StorageFullError while the disk is full."""
        if self.full:
            raise self.error()

    def error(self) -> StorageFullError:
        return StorageFullError(
            f"the disk is full: {sized(self._free_bytes())} are free for {self._folder} (a quota may leave "
            f"less), and records are taken again when {sized(self._wanted_bytes)} are"
        )

    def warn_of_unfit(self) -> None:
        """Say in the log which limits do not fit this disk."""
        system = os.statvfs(self._folder)
        for sentence, do in unfit(self._settings, system.f_blocks * system.f_frsize):
            logger.warning("disk_small", reason=sentence, do=do)

    def ran_out(self) -> bool:
        """A write has met a full disk. True if there will soon be room for what frees more."""
        self.full = True
        self._troubles.begin(FULL, f"the disk of {self._folder} is full: no records are taken")
        return self.has_ballast

    def give_ballast(self) -> None:
        """Let what frees space use the ballast's. Call it while the disk is full and no checkpoint runs."""
        self._ballast.unlink(missing_ok=True)

    @property
    def has_ballast(self) -> bool:
        """True until its space is given to what frees more."""
        return self._ballast.exists()

    @property
    def has_room(self) -> bool:
        """True if there is room for a step of what frees space, and for a few more after it."""
        return self._free_bytes() > self._ballast_bytes // 8

    def cut_bytes_max(self) -> int:
        """How much longer a file may get where its write-ahead log is cut: that gives more back."""
        return max(0, self._free_bytes() - CUT_MARGIN_BYTES)

    @asynccontextmanager
    async def in_turn(self) -> AsyncIterator[None]:
        """Wait, while the disk is full, until nobody else is freeing space.

        Raises StorageFullError if that takes longer than a write may wait for space.
        """
        if not self.full:
            yield
            return
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise self.error() from None
        try:
            yield
        finally:
            self._turn.release()

    async def look(self) -> None:
        """See how much is free, and act on it."""
        free = self._free_bytes()
        if free < self._low_bytes:
            limit = sized(self._low_bytes)
            what = f"{sized(free)} are free for {self._folder}, less than storage.free_bytes_low ({limit})"
            self._troubles.begin(LOW, what)
        else:
            self._troubles.end(LOW)
        if free < SPENT_BYTES:  # before a write meets it, or a read that has to open its file
            self.ran_out()
        if free < self._wanted_bytes:
            return
        if self._ballast_bytes and not self._ballast.exists():
            try:
                await asyncio.to_thread(self._fill)
            except OSError as error:  # somebody else was faster, or a quota leaves less than is free
                if not self.full:
                    logger.warning("ballast_failed", path=str(self._ballast), error=error.strerror)
                return
        self.full = False
        self._troubles.end(FULL)

    def close(self) -> None:
        """Remove the ballast, so that no copy of a stopped broker's folder has it."""
        self._closed = True
        self._ballast.unlink(missing_ok=True)

    def _fill(self) -> None:  # on a worker thread
        part = unfinished(self._ballast)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            if self.full:  # a quota can leave less than is free, so see whether the space is ours to use
                os.posix_fallocate(descriptor, 0, self._wanted_bytes)
                os.ftruncate(descriptor, 0)
            os.posix_fallocate(descriptor, 0, self._ballast_bytes)
            part.rename(self._ballast)
            if self._closed:
                self._ballast.unlink(missing_ok=True)
        except OSError:
            part.unlink()
            raise
        finally:
            os.close(descriptor)

    @property
    def _wanted_bytes(self) -> int:
        """Free bytes at which there is room for the ballast and as much again, for records."""
        return wanted_after_full(self._settings, SPENT_BYTES)

    def _free_bytes(self) -> int:
        system = os.statvfs(self._folder)
        return system.f_bavail * system.f_frsize
