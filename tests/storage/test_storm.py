"""Storms over the SQLite engine (storm.py) break none of its promises (storm_ledger.py)."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import uvloop

from faults.failing_disk import failing_disk
from storage.storm import Storm
from takhin.storage.sqlite.copying import Copying
from takhin.storage.sqlite.life import Life
from takhin.storage.sqlite.partition import SqlitePartition

FEW, MANY = 3, 16
"""Slots for open files: with few of them all wait for one, with many a log stays open at rest."""
KINDS = [
    (asyncio.new_event_loop, True, FEW),
    (uvloop.new_event_loop, False, FEW),
    (asyncio.new_event_loop, False, MANY),
    (uvloop.new_event_loop, True, MANY),
    (asyncio.new_event_loop, True, MANY),
    (uvloop.new_event_loop, False, MANY),
    (asyncio.new_event_loop, False, FEW),
    (uvloop.new_event_loop, True, FEW),
]
"""(the event loop, True if the disk fails, slots)."""
CONTROL = 5
"""The kind of storm in which files at rest stay open, so that the next commit would restart their logs."""
CONTROL_HOLDS_MAX = 40
"""A weakness should be seen within so many holds."""


def seed() -> str:
    """STORM_SEED, or else a new one, which is printed."""
    chosen = os.environ.get("STORM_SEED") or str(random.SystemRandom().randrange(1, 2**32))
    print(f"STORM_SEED={chosen}")
    return chosen


def raged(folder: Path, seed: str, kind: int, **limits: float) -> tuple[Storm, list[str]]:
    """A storm that is over, and what is wrong after it."""
    new_event_loop, fails, slots = KINDS[kind % len(KINDS)]
    with (
        failing_disk() if fails else nullcontext() as disk,
        asyncio.Runner(loop_factory=new_event_loop) as runner,
    ):

        async def rage() -> tuple[Storm, list[str]]:
            storm = Storm(folder, seed, slots=slots, disk=disk, **limits)
            return storm, await storm.run()

        return runner.run(rage())


@pytest.mark.parametrize(
    ("storms", "holds", "breaks"),
    [(2, 2, 1), pytest.param(40, 12, 12, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])],
)
def test_a_storm_breaks_no_promise(memory, storms, holds, breaks, figures):
    """Every promise is kept under calls, cancellations, changes of topics, holds and failures at once."""
    of_all, counts = seed(), Counter()
    for number in range(storms):
        storm, faults = raged(memory / str(number), f"{of_all} {number}", number, holds=holds, breaks=breaks)
        print(f"storm {number}: {storm.held} holds, {storm.broken} failures, {dict(storm.counts)}")
        assert faults == [], storm.troubles
        counts += storm.counts + Counter(holds=storm.held, failures=storm.broken)
    assert counts["append"] > 0
    figures(
        f"storms: {storms}, {counts['append']} appends, {counts['left early']} calls left early, "
        f"{counts['holds']} holds, {counts['failures']} disk failures, 0 promises broken"
    )


async def no_commit(_: SqlitePartition) -> None:
    """Stand in for `commit_before_hold`."""


def may_checkpoint(life: Life) -> bool:
    """Stand in for `Life._may_checkpoint`, without a look at holds."""
    return life._file.is_open and life._ended is None


@pytest.mark.control
@pytest.mark.parametrize("weakness", ["no commit before held", "checkpoints under held"])
def test_a_careless_hold_is_seen(memory, monkeypatch, weakness):
    """Control: without one of its two parts a hold lets files change, and the check reports it."""
    if weakness == "no commit before held":
        monkeypatch.setattr(SqlitePartition, "commit_before_hold", no_commit)
        change = "was restarted"
    else:
        monkeypatch.setattr(Copying, "must_stop", False)
        monkeypatch.setattr(Life, "_may_checkpoint", property(may_checkpoint))
        change = "was changed"
    storm, faults = raged(memory / "data", seed(), CONTROL, holds=CONTROL_HOLDS_MAX, breaks=0, lulls=1.0)
    print(f"seen in hold {storm.held}")
    assert any(fault.startswith("under held") and change in fault for fault in faults), faults
