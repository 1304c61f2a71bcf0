"""What commands print in common: JSON documents, progress bars, counts and sizes. Tables are in rows.py."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from takhin.cli.signals import ending
from takhin.cli.streams import STDIN
from takhin.client.model import time_of

Progress = Callable[[int, int], None]
"""Called with how much is done, and how much there is in all."""

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

BAR_REFRESHES_PER_S = 4
"""Refreshes of a progress bar: enough for the eye."""

ANSWER_BYTES_MAX = 1_000
"""Bytes of an answer to a question; a terminal hands over a line at a time."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON document instead of lines.")

yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def confirm(what: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone. Scripts, whose stdin is no terminal, are not asked."""
    if yes or sys.stdin is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    print(f"{what}? [y/N]: ", end="", file=sys.stderr, flush=True)
    ending.wait(STDIN, select.POLLIN)
    if os.read(STDIN, ANSWER_BYTES_MAX).strip().lower() not in (b"y", b"yes"):
        raise click.ClickException("nothing was deleted")


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


@contextmanager
def progress_bar(label: str, unit: str = "bytes", *, wanted: bool = True) -> Iterator[Progress]:
    """Show a bar with rate and time left, from the first progress on, if stderr is a terminal.

    unit: "bytes" or what is counted.
    """
    if not wanted or not sys.stderr.isatty():
        yield lambda _done, _of: None
        return
    # rich takes a tenth of a second to import
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar  # noqa: PLC0415

    if unit == "bytes":
        columns = [DownloadColumn(), TransferSpeedColumn()]
    else:
        columns = [MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    bar = Bar(
        TextColumn(label),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=BAR_REFRESHES_PER_S,
        transient=True,
    )
    task = bar.add_task(label, total=None, rate="")

    def show(done: int, of: int) -> None:
        bar.start()
        speed = bar.tasks[0].speed
        bar.update(task, completed=done, total=of, rate=f"{speed:,.0f} {unit}/s" if speed else "")

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


def time_text(timestamp: int) -> str:
    """A time (ms since 1970) in UTC; "-" for a negative one, the number itself beyond the year 9999."""
    if timestamp < 0:
        return "-"
    try:
        return time_of(timestamp).strftime(TIME_FORMAT)
    except OverflowError:
        return str(timestamp)


def age(ms: int) -> str:
    """A duration: 0.3 s, 75 s, 20 min, 5 h, 3 d."""
    seconds = ms / 1_000
    for unit, size, most in (("s", 1, 120), ("min", 60, 7_200), ("h", 3_600, 172_800)):
        if seconds < most:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
