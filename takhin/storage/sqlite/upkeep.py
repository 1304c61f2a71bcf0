"""What an engine does by itself, again and again.

It answers holds and `takhin recover`, takes back what could not be served, finds space on a full disk, and
sees that its files are where they were and that more can be opened.

Runs as tasks on the loop beside everything else. Knows the partitions only through the catalogue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import apsw
import structlog

from takhin.disk.descriptors import shortage
from takhin.disk.faults import NotNowError
from takhin.errors import PartitionUnavailableError
from takhin.storage.sqlite.catalogue import Catalogue
from takhin.storage.sqlite.hold import Hold
from takhin.storage.sqlite.retention import Retention
from takhin.storage.sqlite.shared import Shared

logger = structlog.get_logger()

WATCH_SPACE_SECONDS = 0.5
WATCH_HOLD_SECONDS = 0.1
"""How often the two are looked at: a statvfs and a lstat cost some µs each, and people wait for `held`."""
WATCH_PLACES_SECONDS = 0.1
WATCH_RETENTION_SECONDS = 0.1
WATCH_FREE_PAGES_SECONDS = 5.0
"""For as long a partition must have been quiet before space is given back."""
PLACES_AT_A_TIME = 64
"""Partitions whose files are looked at in one turn, also if nobody uses them: a look costs 2 to 6 µs."""
HOLD_AT_A_TIME = 64
"""Partitions that commit together before a hold: enough to share syncs, few enough not to fill the queues."""


class Upkeep:
    """The watches. Life: `begin`, `start`, `stop`, `end_hold`."""

    def __init__(self, shared: Shared, catalogue: Catalogue, hold: Hold, retention: Retention) -> None:
        self._shared = shared
        self._catalogue = catalogue
        self._hold = hold
        self._retention = retention
        self._tasks: list[asyncio.Task[None]] = []
        self._next_place = 0

    def begin(self, *, is_copy: bool) -> None:
        """Look at a hold before any file is opened. is_copy: the folder was copied from a held one."""
        self._hold.begin(is_copy=is_copy)
        self._shared.files.held = self._hold.asked

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(_watch(self.look_at_space, WATCH_SPACE_SECONDS)),
            asyncio.create_task(_watch(self.look_at_hold, WATCH_HOLD_SECONDS)),
            asyncio.create_task(_watch(self._catalogue.let_go, WATCH_HOLD_SECONDS)),
            asyncio.create_task(
                _watch(self._catalogue.take_back, self._shared.settings.recover_wait_ms / 1_000)
            ),
            asyncio.create_task(_watch(self.look_at_places, WATCH_PLACES_SECONDS)),
            asyncio.create_task(_watch(self.look_at_left_wals, WATCH_SPACE_SECONDS)),
            asyncio.create_task(_watch(self.look_at_descriptors, WATCH_SPACE_SECONDS)),
            asyncio.create_task(_watch(self._retention.look, WATCH_RETENTION_SECONDS)),
            asyncio.create_task(_watch(self._retention.look_at_free_pages, WATCH_FREE_PAGES_SECONDS)),
            asyncio.create_task(_watch(self.look_at_page_caches, WATCH_SPACE_SECONDS)),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._retention.stop()

    def end_hold(self) -> None:
        """Take the answer to a hold back: the broker stops, and nobody answers for the files any more."""
        self._hold.end()
        if self._shared.files.held and not self._hold.asked:  # removed since the last look
            self._release_hold()

    async def look_at_space(self) -> None:
        """See how much is free. On a full disk, give the ballast away and cut write-ahead logs."""
        space = self._shared.space
        if space.full:
            await self._shared.threads.checkpoint.quiet()
            space.give_ballast()
            for log in sorted(self._catalogue.logs(), key=lambda log: log.wal_bytes_left):
                if not log.closed:
                    with suppress(
                        apsw.Error, OSError
                    ):  # a failed disk, or a damaged file, which others report
                        await log.cut_wal(space.cut_bytes_max())
        await space.look()

    async def look_at_places(self) -> None:
        """See whether the folder's own files and some of the partitions' are still where they were.

        The partitions take turns.
        """
        self._catalogue.check_folder()
        logs = self._catalogue.logs()
        first = self._next_place if self._next_place < len(logs) else 0
        self._next_place = first + PLACES_AT_A_TIME
        for log in logs[first : self._next_place]:
            if not log.closed:
                with suppress(PartitionUnavailableError):  # health says it
                    log.life.check_place()

    async def look_at_page_caches(self) -> None:
        """See that files which nobody uses keep no more pages than their share."""
        for log in self._catalogue.logs():
            log.fit_page_caches()

    async def look_at_left_wals(self) -> None:
        """Open the files that were closed with a WAL, as a kill or a hold leaves them, one by one."""
        if not self._shared.files.held:
            for log in self._catalogue.logs():
                await log.open_for_wal()

    async def look_at_descriptors(self) -> None:
        """See whether files and connections can still be opened."""
        reason = shortage()
        if reason is None:
            self._shared.troubles.end("descriptors")
        else:
            self._shared.troubles.begin("descriptors", f"nothing can be opened: {reason}")

    async def look_at_hold(self) -> None:
        """See whether `hold` has come or gone, and act on it."""
        if not self._hold.asked:
            if self._hold.gone():
                self._release_hold()
            return
        self._hold.noticed(asyncio.get_running_loop().time())
        if not self._hold.answered:
            try:
                await self._take_hold()
                self._hold.answer()
            except (NotNowError, OSError) as error:
                self._hold.failed(error)

    async def _take_hold(self) -> None:
        """From now on no `.db` file changes, and no WAL is restarted. Raises NotNowError, OSError."""
        async with self._catalogue.unchanging:
            if self._catalogue.repairs.wanted()[1]:
                raise NotNowError("`takhin recover` is at work")
            self._shared.files.held = True
            await self._shared.threads.checkpoint.quiet()
            logs = self._catalogue.logs()
            for at in range(0, len(logs), HOLD_AT_A_TIME):
                await asyncio.gather(*(log.commit_before_hold() for log in logs[at : at + HOLD_AT_A_TIME]))
            self._catalogue.witness_held(held=True)

    def _release_hold(self) -> None:
        self._shared.files.held = False
        for log in self._catalogue.logs():
            log.life.wake()
        self._catalogue.witness_held(held=False)


async def _watch(look: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Look again and again, until cancelled."""
    while True:
        try:
            await look()
        except Exception:  # the next look may do better, and there must be one
            logger.exception("watch_failed", look=look.__qualname__)
        await asyncio.sleep(seconds)
