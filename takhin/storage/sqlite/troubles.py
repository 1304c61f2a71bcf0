"""What is wrong with the storage now, in sentences. Logged when it begins and when it ends; health asks."""

from __future__ import annotations

import structlog

logger = structlog.get_logger()


class Troubles:
    """All that keeps a part of the broker from its work, or soon will. Pure bookkeeping on the loop."""

    def __init__(self) -> None:
        self._now: dict[str, str] = {}

    @property
    def sentences(self) -> list[str]:
        return list(self._now.values())

    def begin(self, name: str, sentence: str) -> None:
        """It is wrong from now on, or still. name: what is wrong with what, as in `disk_full`."""
        if name not in self._now:
            logger.warning("trouble_began", trouble=name, reason=sentence)
        self._now[name] = sentence

    def end(self, name: str) -> None:
        """It is not, or no longer."""
        if self._now.pop(name, None) is not None:
            logger.info("trouble_ended", trouble=name)
