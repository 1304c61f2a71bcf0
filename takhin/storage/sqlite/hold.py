"""DATA/hold asks for a time in which the files can be copied, DATA/held answers that it has come.

From held on no `.db` file changes and `-wal` files only grow, so a copy made by any tool is whole. It is not
enough to stop checkpoints: a WAL that has been copied into its file entirely is begun anew by the next
commit, under a copier that is half way through it. So every log that has a WAL gets one more commit first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from takhin.storage.sqlite.troubles import Troubles

log = structlog.get_logger()

OLD = "hold_old"
FAILED = "hold_failed"


class Hold:
    """Answers `hold` with `held`. Lives on the loop."""

    def __init__(
        self,
        folder: Path,
        *,
        take: Callable[[], Awaitable[None]],
        release: Callable[[], None],
        age_ms_max: int,
        troubles: Troubles,
    ) -> None:
        """take: makes copying safe; called again until it has not raised TimeoutError.
        release: lets checkpoints go on.
        """
        self._asked = folder / "hold"
        self._held = folder / "held"
        self._take = take
        self._release = release
        self._age_ms_max = age_ms_max
        self._troubles = troubles
        self._since: float | None = None  # on the loop's clock, when `hold` was first seen

    @property
    def asked(self) -> bool:
        return os.path.lexists(self._asked)

    def begin(self, *, is_copy: bool) -> None:
        """Take away an answer that another broker left behind, and in a copy the question, too."""
        self._held.unlink(missing_ok=True)
        if is_copy:
            self._asked.unlink(missing_ok=True)

    def end(self) -> None:
        """The broker stops: nobody answers for the files any more."""
        self._held.unlink(missing_ok=True)

    async def look(self) -> None:
        """See whether `hold` has come or gone, or has been there for long, and act on it."""
        now = asyncio.get_running_loop().time()
        if not self.asked:
            if self._since is not None:
                self._since = None
                self._held.unlink(missing_ok=True)
                self._release()
                self._troubles.end(OLD)
                self._troubles.end(FAILED)
                log.info("hold_ended")
            return
        if self._since is None:
            self._since = now
            log.info("hold_asked")
        if not self._held.exists():
            try:
                await self._take()
                self._held.touch()
                self._troubles.end(FAILED)
                log.info("held")
            except OSError as error:
                self._troubles.begin(FAILED, f"{self._asked} cannot be answered yet: {error}")
        if (now - self._since) * 1_000 > self._age_ms_max:
            self._troubles.begin(
                OLD,
                f"{self._asked} is there for {now - self._since:.0f} s: until it is removed no write-ahead "
                "log is copied into its file, and all of them grow",
            )
