"""Writes as values: each has its own answer, and one that fails does not affect its neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from storage.support import Store
from takhin.disk import statements as sql
from takhin.errors import EndOffsetMismatchError, InvalidArgumentError, RefusedError
from takhin.model import CommittedOffset, Condition, Header, TopicPartition
from takhin.storage.sources import SourceIndex
from takhin.storage.sqlite.group import Draft
from takhin.storage.sqlite.senders import Producers, Senders, Sources
from takhin.storage.sqlite.writes import Append, CommitOffset, SmallWrite, Trim
from takhin.testing.contract import NOW, batch, numbered, read_all, spec, under

SAID = CommittedOffset(1, "kept", NOW)


@dataclass(frozen=True, slots=True)
class Odd(SmallWrite):
    """A write that does what the test wants it to."""

    act: Callable[[Draft], object]

    def apply(self, draft: Draft) -> object:
        return self.act(draft)


@dataclass(frozen=True, slots=True)
class LongOdd(Odd):
    """The same with a turn of the loop for itself."""

    own_turn = True


def refuse(draft: Draft) -> object:
    raise InvalidArgumentError("not today", field="day")


def refuse_too_late(draft: Draft) -> object:
    draft.db.execute("DELETE FROM records")
    raise InvalidArgumentError("not today", field="day")


def stumble(draft: Draft) -> object:
    draft.db.execute("DELETE FROM records")
    raise ZeroDivisionError("a fault of ours")


def break_a_constraint(draft: Draft) -> object:
    return draft.db.execute("INSERT INTO records (offset, timestamp) VALUES (1000, NULL)")


@pytest.fixture
async def log(store: Store):
    made = (await store.engine.create_topic(spec("orders"))).partitions[0]
    await made.append(numbered(2))
    return made


async def among_neighbours(store: Store, log, odd: object) -> object:
    """The answer to one write in a group with others, which must all be stored, in order and durably."""
    writes = [
        Append(numbered(1, 2)),
        Append(numbered(1, 3)),
        odd,
        Append(numbered(2, 4)),
        CommitOffset("g", SAID),
    ]
    answers = await asyncio.gather(*map(log.life.submit, writes), return_exceptions=True)
    commits = log.life._state.mark.commits
    assert [answer.offset for answer in (answers[0], answers[1], answers[3])] == [2, 3, 4]
    assert answers[4] is None
    assert store.engine.troubles == []
    await store.reopen()
    assert [row[3] for row in await read_all(store.log("orders"))] == [b"%d" % n for n in (0, 1, 2, 3, 4, 5)]
    assert dict(store.engine.offsets.of("g")) == {("orders", 0): SAID}
    assert store.log("orders").life._state.mark.commits == commits
    return answers[2]


async def test_a_refusal_is_an_answer(store: Store, log):
    """A refusal is answered after the group's commit, and the group is one transaction."""
    before = log.life._state.mark.commits
    answer = await among_neighbours(store, log, Odd(refuse))
    assert isinstance(answer, InvalidArgumentError)
    assert store.log("orders").life._state.mark.commits == before + 1


async def test_a_batch_that_is_refused(store: Store, log):
    """A batch whose condition does not hold is refused alone."""
    refused = Append(under(numbered(1, 9), expected_offset=99))
    assert isinstance(await among_neighbours(store, log, refused), EndOffsetMismatchError)


@pytest.mark.parametrize(
    ("odd", "error"),
    [
        (Odd(stumble), ZeroDivisionError),
        (Odd(refuse_too_late), AssertionError),
        (Append(replace(batch(b"v"), timestamps=[None])), Exception),
        (Append(replace(batch(b"v"), timestamps=["noon"])), Exception),
        (Append(replace(batch(b"v"), keys=[1.5])), Exception),
        (Append(replace(batch(b"v"), values=[object()])), TypeError),
        (Append(replace(batch(b"v"), timestamps=[1 << 70])), Exception),
        (Append(replace(batch(b"v"), headers={0: [Header("\ud800", b"")]})), Exception),
        (Odd(break_a_constraint), Exception),
    ],
    ids=[
        "a fault",
        "a refusal after a change",
        "no timestamp",
        "a timestamp as text",
        "a number as key",
        "an object as value",
        "a timestamp beyond 64 bits",
        "a header key that is no text",
        "a constraint",
    ],
)
async def test_a_bad_write_fails_alone(store: Store, log, odd, error):
    """If a write fails that no check has refused, its group is rolled back and written again without it."""
    answer = await among_neighbours(store, log, odd)
    assert isinstance(answer, error)
    assert not isinstance(answer, RefusedError)


async def test_many_bad_writes_among_good_ones(store: Store, log):
    """Each bad write fails by itself, and the good ones keep their order."""
    writes = [Odd(stumble) if n % 3 == 0 else Append(numbered(1, n)) for n in range(60)]
    answers = await asyncio.gather(*map(log.life.submit, writes), return_exceptions=True)
    assert [isinstance(answer, ZeroDivisionError) for answer in answers] == [n % 3 == 0 for n in range(60)]
    good = [n for n in range(60) if n % 3]
    assert [row[3] for row in await read_all(log)][2:] == [b"%d" % n for n in good]
    assert store.engine.troubles == []
    assert store.engine.stats()["queued_bytes"] == 0


async def test_a_write_sees_the_appends_before_it(store: Store, log):
    """The rows of a group are inserted together, but before any write that uses the connection."""
    seen = Odd(lambda draft: draft.with_records().execute("SELECT count(*) FROM records").get)
    writes = [Append(numbered(3)), seen, Append(numbered(4)), seen]
    _, first, _, second = await asyncio.gather(*map(log.life.submit, writes))
    assert (first, second) == (5, 9)


async def test_the_turn_of_a_long_write_is_its_own(store: Store, log):
    """The records before it are in the table by then: to insert them takes turns, and it has but one."""

    def inserted_now(draft: Draft) -> int:
        before = draft.db.total_changes()
        return draft.with_records().total_changes() - before

    writes = [Append(numbered(3)), LongOdd(inserted_now), Append(numbered(4)), Odd(inserted_now)]
    _, long, _, short = await asyncio.gather(*map(log.life.submit, writes))
    assert (long, short) == (0, 4)
    assert len(await read_all(log)) == 9


async def test_a_refusal_behind_appends_costs_no_commit(store: Store, log):
    """Rows inserted for the refusing write do not count as its own: the group stays one transaction."""

    def look_and_refuse(draft: Draft) -> object:
        draft.with_records().execute("SELECT count(*) FROM records").fetchall()
        return refuse(draft)

    before = log.life._state.mark.commits
    writes = [*(Append(numbered(1, n)) for n in range(2, 22)), Odd(look_and_refuse), Append(numbered(1, 22))]
    answers = await asyncio.gather(*map(log.life.submit, writes), return_exceptions=True)
    assert isinstance(answers[-2], InvalidArgumentError)
    assert log.end_offset == 23
    assert log.life._state.mark.commits == before + 1


@pytest.mark.parametrize(
    ("size", "headers", "most"), [(10, 1_000, 7), (10, 5_000, 3), (1_000_000, 0, 4)], ids=str
)
async def test_a_step_of_a_trim_is_bounded(store: Store, log, size: int, headers: int, most: int):
    """Whatever records have, one step of a trim deletes no more than a turn of the loop has time for."""
    of_each = [Header("k", b"v")] * headers
    for _ in range(20):
        await log.append(batch(b"x" * size, headers={0: of_each}))
    await log.life.submit(Trim(22))
    assert 1 <= log.start_offset <= most
    await log.trim(21)
    assert [offset for offset, *_ in await read_all(log)] == [21]


async def test_forgotten_producers_are_asked_for_once(store: Store, log):
    """Many first batches in one group, each of which may have been forgotten, read the table once."""
    asked: list[str] = []

    def first_batches(draft: Draft) -> None:
        at = TopicPartition("orders", 0)
        sources = Sources(draft.db, at, 0, 1, SourceIndex())
        senders = Senders(at, Producers(draft.db, 940, 1_000), sources)
        draft.db.exec_trace = lambda _, statement, __: asked.append(statement) or True
        try:
            for number in range(50):
                maybe = draft.end_offset if number else None  # the first one fills the table
                condition = Condition(producer_id=b"%016d" % number, maybe_stored_from=maybe)
                assert senders.judge(numbered(1), condition, draft.end_offset) is None
                draft.append(numbered(1))
        finally:
            draft.db.exec_trace = None

    await log.life.submit(Odd(first_batches))
    assert asked.count(sql.PUT_PRODUCER_BATCH) == 50
    assert asked.count(sql.OLDEST_LAST_BATCH) == 1
