"""The next step of a partition's life, as a table: the facts that decide it, and the decision."""

from __future__ import annotations

from itertools import product

import pytest

from takhin.storage.sqlite.checkpoint import Phase
from takhin.storage.sqlite.steps import Facts, Step, due

OPENED = Facts(ready=True, is_open=True, may_open=True)
CLOSED = Facts(ready=True, may_open=True)
FAILED = OPENED._replace(failed=True)

TABLE = [
    ("nothing is asked of it", OPENED, Step.REST),
    ("nothing is asked of it, and it is closed", CLOSED, Step.REST),
    ("a write waits", OPENED._replace(queued=True), Step.GROUP),
    ("a write waits for company, a lock or space", OPENED._replace(queued=True, ready=False), Step.REST),
    ("a write needs the file", CLOSED._replace(queued=True), Step.OPEN),
    (
        "a write needs the file, which was locked just now",
        CLOSED._replace(queued=True, ready=False),
        Step.REST,
    ),
    ("a reader needs the file", CLOSED._replace(reading=True, ready=False), Step.OPEN),
    ("a write needs the file, and no slot is free", Facts(queued=True, ready=True), Step.REST),
    ("a reader needs the file, and no slot is free", Facts(reading=True, ready=True), Step.REST),
    ("a reader has the file", OPENED._replace(reading=True), Step.REST),
    ("others wait for a slot", OPENED._replace(gives_way=True), Step.GIVE_WAY),
    (
        "others wait for a slot, and writes for a group",
        OPENED._replace(gives_way=True, queued=True),
        Step.GIVE_WAY,
    ),
    (
        "others wait for a slot, and a checkpoint copies",
        OPENED._replace(gives_way=True, checkpoint=Phase.COPYING),
        Step.REST,
    ),
    ("a checkpoint copies", OPENED._replace(checkpoint=Phase.COPYING), Step.REST),
    (
        "a checkpoint copies, and a write waits",
        OPENED._replace(checkpoint=Phase.COPYING, queued=True),
        Step.GROUP,
    ),
    (
        "a checkpoint copies a WAL that is to grow no more, and a write waits",
        OPENED._replace(checkpoint=Phase.COPYING, queued=True, wal_full=True),
        Step.REST,
    ),
    ("a checkpoint's last bit is due", OPENED._replace(checkpoint=Phase.LAST_BIT), Step.LAST_BIT),
    (
        "a last bit is due, and the write of a hold waits: the hold's commit must come after it",
        OPENED._replace(checkpoint=Phase.LAST_BIT, queued=True),
        Step.LAST_BIT,
    ),
    (
        "a last bit is due, and the lock of another process delays the writes",
        OPENED._replace(checkpoint=Phase.LAST_BIT, queued=True, ready=False),
        Step.LAST_BIT,
    ),
    ("it ends", OPENED._replace(ending=True), Step.END),
    ("it ends while it is closed", CLOSED._replace(ending=True), Step.END),
    ("it ends, and writes wait", OPENED._replace(ending=True, queued=True), Step.GROUP),
    (
        "it ends, and writes wait for a lock",
        OPENED._replace(ending=True, queued=True, ready=False),
        Step.REST,
    ),
    ("it ends, and writes need the file", CLOSED._replace(ending=True, queued=True), Step.OPEN),
    ("it ends, and a checkpoint copies", OPENED._replace(ending=True, checkpoint=Phase.COPYING), Step.REST),
    (
        "it ends, and a last bit is due",
        OPENED._replace(ending=True, checkpoint=Phase.LAST_BIT),
        Step.LAST_BIT,
    ),
    ("it has failed", FAILED, Step.REST),
    ("it has failed, and it is time to try again", FAILED._replace(recovers=True), Step.RECOVER),
    (
        "it has failed, it is time to try again, and a checkpoint copies",
        FAILED._replace(recovers=True, checkpoint=Phase.COPYING),
        Step.REST,
    ),
    ("it has failed, and ends", FAILED._replace(recovers=True, ending=True), Step.END),
    (
        "it has failed and is closed, and a reader comes",
        FAILED._replace(is_open=False, reading=True),
        Step.OPEN,
    ),
    ("it has failed, and others wait for a slot", FAILED._replace(gives_way=True), Step.REST),
]


@pytest.mark.parametrize(("facts", "step"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_table(facts: Facts, step: Step) -> None:
    """Each situation has the step in the table."""
    assert due(facts) is step


def possible() -> list[Facts]:
    """Every combination of facts that can occur."""
    booleans = product([False, True], repeat=len(Facts._fields) - 1)
    every = [Facts(*values[:6], phase, *values[6:]) for values in booleans for phase in Phase]
    return [
        facts
        for facts in every
        if not (facts.checkpoint is not Phase.NONE and not facts.is_open)
        and not (facts.wal_full and facts.checkpoint is not Phase.COPYING)
        and not (facts.failed and (facts.queued or facts.checkpoint is Phase.LAST_BIT))
        and not (facts.recovers and not facts.failed)
        and not (facts.failed and not facts.may_open)
        and not (facts.gives_way and not facts.is_open)
    ]


def test_what_never_happens() -> None:
    """No file is closed or recovered during a checkpoint, or written while closed or failed."""
    assert len(possible()) > 200
    for facts in possible():
        step = due(facts)
        if facts.checkpoint is not Phase.NONE:
            assert step not in {Step.GIVE_WAY, Step.RECOVER, Step.END}, facts
        if facts.failed:
            assert step not in {Step.GROUP, Step.LAST_BIT, Step.GIVE_WAY}, facts
        if not facts.is_open:
            assert step not in {Step.GROUP, Step.LAST_BIT, Step.GIVE_WAY}, facts
        if not facts.may_open:
            assert step is not Step.OPEN, facts
        if step is Step.END:
            assert facts.ending, facts
            assert not facts.queued, facts


def test_whoever_waits_is_served() -> None:
    """Nobody waits at rest, except for something that ends by itself."""
    for facts in possible():
        if due(facts) is not Step.REST:
            continue
        in_the_way = not facts.ready or facts.checkpoint is Phase.COPYING
        served = facts.is_open or not facts.may_open
        assert not facts.queued or in_the_way or not facts.may_open, facts
        assert not facts.reading or served, facts
        assert not facts.ending or in_the_way or not facts.may_open, facts
