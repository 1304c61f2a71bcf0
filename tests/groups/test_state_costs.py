"""What a step costs for a large group: the coordinator's event loop does nothing else meanwhile."""

from __future__ import annotations

import time
from functools import partial

import pytest

from groups.support import Case, join, reading
from takhin.groups.assignors import assign
from takhin.groups.events import CatalogueChanged, CommitsEnded, Heartbeat, Leave, Subscribe
from takhin.groups.group import Rules
from takhin.groups.state import step

MEMBERS, PARTITIONS, STEP_MS_MAX = 300, 1_000, 5


def best_ms(call) -> float:
    """The least of several times of the processor, so that what else the machine does counts little."""
    times = []
    for _ in range(15):
        began = time.thread_time()
        call()
        times.append((time.thread_time() - began) * 1_000)
    return min(times)


def large(members: int) -> Case:
    """A group with these members, and with assignments for all of them, which none has answered."""
    case = Case(partitions=PARTITIONS, rules=Rules(50, 100, 3_000, MEMBERS + 1))
    for number in range(members):
        case.do(join(f"m{number}"))
    case.retarget()
    return case


@pytest.mark.timed
def test_steps_of_a_large_group(figures):
    """No event of a group with 300 members and 1,000 partitions takes more than 5 ms."""
    case, fewer, alone = large(MEMBERS), large(MEMBERS - 60), large(1)
    everything = alone.member("m0")
    for number in range(1, MEMBERS):
        alone.do(join(f"m{number}"))
        if number >= MEMBERS - 60:
            fewer.do(join(f"m{number}"))
    alone.retarget()
    one = case.member("m0")
    events = {
        "join": (case, join("new")),
        "heartbeat": (case, Heartbeat("m0", one.epoch, one.assigned)),
        "subscribe": (case, Subscribe("m0", reading("u"))),
        "leave": (case, Leave("m0")),
        "topic grows": (case, CatalogueChanged({"t": PARTITIONS + 1})),
        "target for 60 more": (fewer, assign(fewer.group)),
        "commits ended": (alone, CommitsEnded(everything.assigned)),
        "all is let go of": (alone, Heartbeat("m0", everything.epoch, alone.member("m0").assigned)),
        "the owner of all leaves": (alone, Leave("m0")),
    }
    times = {name: best_ms(partial(step, of.group, event, of.now)) for name, (of, event) in events.items()}
    figures(", ".join(f"{name} {ms:.2f} ms" for name, ms in times.items()))
    assert max(times.values()) <= STEP_MS_MAX, times
