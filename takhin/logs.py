"""Sets up the broker's own log: lines of structlog on stderr, each with the name of an event."""

from __future__ import annotations

import logging
import sys

import structlog

from takhin.settings import LogSettings


def configure(settings: LogSettings) -> None:
    """Log for people on a terminal and as JSON elsewhere, unless the settings say which."""
    human = settings.format == "human" or (settings.format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor
    if human:
        renderer = structlog.dev.ConsoleRenderer(pad_event_to=0)
        exceptions = []
    else:
        renderer = structlog.processors.JSONRenderer()
        exceptions = [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *exceptions,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
