"""Settings of Hypothesis, and one table at the end of a run with the figures that tests have found."""

from __future__ import annotations

import asyncio
import gc
import signal
import tempfile
from pathlib import Path

import pytest
import uvloop
from hypothesis import settings

import forked
from storage.support import MEMORY
from takhin.disk import versions

gc.disable()  # until the tests are collected: nearly all of what that makes stays

settings.register_profile("takhin", deadline=None)  # the time would depend on what else the machine is doing
settings.load_profile("takhin")

versions.subprocess = forked  # engines in this process build their new files in a child, too

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell, as of its children
    signal.signal(signal.SIGINT, signal.default_int_handler)


UVLOOP_FOLDERS = {"storage", "faults"}
"""Where tests drive the storage themselves: on the event loop that `takhin serve` uses."""


def pytest_asyncio_loop_factories(config, item):
    """Choose the event loop of an asynchronous test."""
    if item.path.parent.name in UVLOOP_FOLDERS:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


def pytest_collection_finish():
    """Spare the garbage collector the tests themselves, of which there are thousands in each process."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture
def memory():
    """A folder in memory, if there is one: for tests that write a great deal which need not last."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture
def figures(record_property):
    """Call it with a line about what was done and found; `make soak` shows it beside the test's outcome."""

    def say(line):
        record_property("figures", line)

    return say


def pytest_terminal_summary(terminalreporter):
    lines = [
        f"{report.outcome:6} {report.duration:6.0f} s  {line}"
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, line in getattr(report, "user_properties", ())
        if name == "figures" and report.when == "call"
    ]
    if lines:
        terminalreporter.section("figures")
        for line in sorted(lines, key=lambda line: line[18:]):
            terminalreporter.write_line(line)
