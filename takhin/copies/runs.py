"""Runs of offsets, and what is in one list of them and not in another. Knows no file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Run(NamedTuple):
    """Offsets [start, end)."""

    start: int
    end: int


def said(run: Run) -> str:
    """A run for people."""
    return f"{run.start} to {run.end - 1}" if run.end - run.start > 1 else f"{run.start}"


def joined(runs: Iterable[Run]) -> list[Run]:
    """The same offsets in as few runs as possible, in order."""
    whole: list[Run] = []
    for run in sorted(runs):
        if whole and run.start <= whole[-1].end:
            whole[-1] = Run(whole[-1].start, max(whole[-1].end, run.end))
        elif run.start < run.end:
            whole.append(run)
    return whole


def without(runs: Iterable[Run], others: Iterable[Run]) -> list[Run]:
    """What is in `runs` and not in `others`."""
    left = joined(runs)
    for other in joined(others):
        left = [
            part
            for run in left
            for part in (Run(run.start, min(run.end, other.start)), Run(max(run.start, other.end), run.end))
            if part.start < part.end
        ]
    return left


def within(runs: Iterable[Run], others: Iterable[Run]) -> list[Run]:
    """What is in both."""
    runs = joined(runs)
    return without(runs, without(runs, others))
