"""Sets up the broker's own log: lines of structlog on stderr, each with the name of an event.

Debug lines are written for each call, read and commit group, so whoever writes one asks `debugging` first: a
broker that does not want them puts none together. A broker that does gets a bounded number of them a second.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

import structlog

from takhin.settings import LogSettings

logger = structlog.get_logger()

INVALID_METADATA = "Invalid encoding on"
"""How gRPC begins a line about metadata that it cannot decode. Their value follows, which can be a token."""
LIBRARY_LINES_PER_S_MAX = 20


class _Debugging:
    """Whether this process wants debug lines. False where nobody has set up a log, as in a test's broker."""

    wanted = False


def debugging() -> bool:
    """True if debug lines are wanted. Ask it before one is put together (35 ns)."""
    return _Debugging.wanted


def configure(settings: LogSettings) -> None:
    """Log for people on a terminal and as JSON elsewhere, unless the settings say which.

    What libraries tell Python's own logging and warnings, asyncio above all, becomes lines of the same log.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    _Debugging.wanted = level <= logging.DEBUG
    structlog.configure(
        processors=[Bound(settings.debug_lines_per_s_max), *_processors(human=for_people(settings))],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    logging.basicConfig(handlers=[_OfLibraries()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def for_people(settings: LogSettings) -> bool:
    """True if the log is for people, False if it is JSON."""
    return settings.format == "human" or (settings.format == "auto" and sys.stderr.isatty())


def print_event(file: TextIO, event: str, **facts: object) -> None:
    """Write one event as JSON to a file of its own, whatever level is logged."""
    plain = structlog.make_filtering_bound_logger(logging.INFO)
    writer = structlog.wrap_logger(
        structlog.PrintLogger(file), processors=_processors(human=False), wrapper_class=plain
    )
    writer.info(event, **facts)


def _processors(*, human: bool) -> list[structlog.typing.Processor]:
    renderers: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    if human:
        renderers = [structlog.dev.ConsoleRenderer(pad_event_to=0)]
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *renderers,
    ]


class Bound:
    """Drops the debug lines of a second beyond so many. The next one written says how many they were."""

    def __init__(self, lines_per_s_max: int) -> None:
        self._lines_max = self._left = lines_per_s_max
        self._dropped = 0
        self._since = 0.0

    def __call__(
        self, _logger: object, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """See structlog's Processor. Raises DropEvent."""
        if method != "debug":
            return event
        now = time.monotonic()
        if now - self._since >= 1:
            self._since, self._left = now, self._lines_max
        if not self._left:
            self._dropped += 1
            raise structlog.DropEvent
        self._left -= 1
        if self._dropped:
            event["dropped_before"], self._dropped = self._dropped, 0
        return event


class _OfLibraries(logging.Handler):
    """Passes on some of what libraries log: strangers can make gRPC log something for each of their calls."""

    def __init__(self) -> None:
        super().__init__()
        self._left = LIBRARY_LINES_PER_S_MAX
        self._since = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith(INVALID_METADATA):
            return
        now = time.monotonic()
        if now - self._since >= 1:
            self._since, self._left = now, LIBRARY_LINES_PER_S_MAX
        if not self._left:
            return
        self._left -= 1
        error = record.exc_info[1] if record.exc_info else None
        logger.log(
            record.levelno, "library_logged", library=record.name, reason=record.getMessage(), exc_info=error
        )
