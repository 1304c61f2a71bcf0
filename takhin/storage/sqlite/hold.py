"""DATA/hold asks for a time in which the files can be copied, DATA/held answers that it has come.

From held on no `.db` file changes and `-wal` files only grow, so a copy made by any tool is whole. It is not
enough to stop checkpoints: SQLite restarts a WAL that has been copied into its file entirely with the next
commit, under a copier that is half way through it. So every log that has a WAL gets one more commit first.

Owns the two files and what is said about them; upkeep.py makes copying safe.
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from takhin.disk.layout import Layout
from takhin.storage.sqlite.troubles import Troubles

logger = structlog.get_logger()

OLD = "hold_old"
FAILED = "hold_failed"


class Hold:
    """The question `hold` and the answer `held`. Lives on the loop."""

    def __init__(self, folder: Path, troubles: Troubles, *, age_ms_max: int) -> None:
        """age_ms_max: a hold that is older is a trouble."""
        self._asked = Layout(folder).hold
        self._held = Layout(folder).held
        self._age_ms_max = age_ms_max
        self._troubles = troubles
        self._since: float | None = None  # on the loop's clock, when `hold` was first seen

    @property
    def asked(self) -> bool:
        return os.path.lexists(self._asked)

    @property
    def answered(self) -> bool:
        return self._held.exists()

    def begin(self, *, is_copy: bool) -> None:
        """Remove an answer that another broker left behind, and in a copy the question, too."""
        self._held.unlink(missing_ok=True)
        if is_copy:
            self._asked.unlink(missing_ok=True)

    def end(self) -> None:
        """The broker stops: nobody answers for the files any more."""
        self._held.unlink(missing_ok=True)

    def noticed(self, now: float) -> None:
        """`hold` is there. now: the loop's time."""
        if self._since is None:
            self._since = now
            logger.info("hold_asked")
        age = now - self._since
        if age * 1_000 > self._age_ms_max:
            self._troubles.begin(
                OLD,
                f"{self._asked} is there for {age:.0f} s: until it is removed no write-ahead "
                "log is copied into its file, and all of them grow",
            )

    def answer(self) -> None:
        """Copying is safe from now on. Raises OSError."""
        self._held.touch()
        self._troubles.end(FAILED)
        logger.info("held")

    def failed(self, error: Exception) -> None:
        """Copying could not be made safe; it will be tried again."""
        self._troubles.begin(FAILED, f"{self._asked} cannot be answered yet: {error}")

    def gone(self) -> bool:
        """`hold` is not there. True if it was when somebody last looked."""
        if self._since is None:
            return False
        self._held.unlink(missing_ok=True)
        self._since = None
        self._troubles.end(OLD)
        self._troubles.end(FAILED)
        logger.info("hold_ended")
        return True
