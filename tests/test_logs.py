"""What the log is set up to do: lines of libraries, and a bound on debug lines."""

import io
import json
import subprocess
import sys

import structlog

from takhin import logs

COMPLAINTS = """
import logging, warnings
from takhin import logs
from takhin.settings import LogSettings

logs.configure(LogSettings(format="json"))
logging.getLogger("asyncio").error("a task failed", exc_info=ValueError("why"))
warnings.warn("leaked", ResourceWarning)
warnings.warn("odd", UserWarning)
"""


def test_what_libraries_log_is_json_too():
    """asyncio's own complaints and Python's warnings are lines of the log, not text between them."""
    done = subprocess.run([sys.executable, "-c", COMPLAINTS], capture_output=True, text=True, check=True)
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line["library"]) for line in told] == [
        ("library_logged", "asyncio"),
        ("library_logged", "py.warnings"),
    ]
    assert (told[0]["level"], told[0]["reason"]) == ("error", "a task failed")
    assert "ValueError: why" in told[0]["exception"]


def test_debug_lines_are_bounded(monkeypatch):
    """Beyond so many debug lines a second the rest are counted, and others are written all the same."""
    now = 10.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    written = io.StringIO()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(written),
        processors=[logs.Bound(3), structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
    for number in range(5):
        logger.debug("read", number=number)
    logger.info("told")
    now += 1
    logger.debug("read", number=5)
    logger.debug("read", number=6)
    told = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line.get("number") for line in told] == [0, 1, 2, None, 5, 6]
    assert [line.get("dropped_before") for line in told] == [None, None, None, None, 2, None]
