"""Work in small pieces on the event loop."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from takhin.turns import WOKEN_AT_ONCE, Backlog, Turnstile


def take(seconds: float) -> None:
    """Be at work for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def turns_of(passed: list[int], tasks: list[asyncio.Task[None]]) -> list[list[int]]:
    """Who has passed in each turn of the loop, until all tasks are done."""
    turns, seen = [], 0
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        if len(passed) > seen:
            turns.append(passed[seen:])
            seen = len(passed)
    return turns


async def test_a_turnstile():
    """As many pass in a turn as it has time for, in order; one that gives up takes nobody's place."""
    turnstile, passed = Turnstile(0.003), []

    async def passes(number: int) -> None:
        await turnstile.passed()
        passed.append(number)
        take(0.002)

    tasks = [asyncio.create_task(passes(number)) for number in range(9)]
    tasks[0].add_done_callback(lambda _task: tasks[3].cancel())
    turns = await turns_of(passed, tasks)
    assert passed == [0, 1, 2, 4, 5, 6, 7, 8]
    assert max(map(len, turns)) == 2


async def test_a_turnstile_of_quick_ones():
    """Those that take no time pass together."""
    turnstile, passed = Turnstile(10.0), []

    async def passes(number: int) -> None:
        await turnstile.passed()
        passed.append(number)

    tasks = [asyncio.create_task(passes(number)) for number in range(100)]
    assert await turns_of(passed, tasks) == [list(range(100))]


async def test_a_turnstile_for_slow_ones():
    """One passes in each turn, however long it takes, and the others keep their order."""
    turnstile, passed = Turnstile(0.0), []

    async def passes(number: int) -> None:
        await turnstile.passed()
        passed.append(number)

    tasks = [asyncio.create_task(passes(number)) for number in range(2 * WOKEN_AT_ONCE + 5)]
    turns = await turns_of(passed, tasks)
    assert turns == [[number] for number in range(2 * WOKEN_AT_ONCE + 5)]


async def test_a_backlog_of_slow_ones():
    """What takes long has nothing behind it in its turn."""
    backlog, done = Backlog(0.002), []

    def slow(number: int) -> None:
        done.append(number)
        take(0.003)

    for number in range(3):
        backlog.add(partial(slow, number))
    for number in range(3):
        await asyncio.sleep(0)
        assert done == list(range(number + 1))


async def test_a_backlog():
    """What is due is done in order, also what is added meanwhile and after a fault."""
    backlog, done, faults = Backlog(), [], []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: faults.append(context["exception"])
    )

    def fails() -> None:
        backlog.add(lambda: done.append(4))
        raise ZeroDivisionError

    for number in range(3):
        backlog.add(partial(done.append, number))
    backlog.add(fails)
    backlog.add(lambda: done.append(3))
    await asyncio.sleep(0)
    assert done == [0, 1, 2]
    while len(done) < 5:  # noqa: ASYNC110  turns are counted
        await asyncio.sleep(0)
    assert done == [0, 1, 2, 3, 4]
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


async def test_a_backlog_is_dropped():
    """What is cleared is not done."""
    backlog = Backlog()
    for _ in range(3):
        backlog.add(lambda: pytest.fail("done"))
    backlog.clear()
    for _ in range(5):
        await asyncio.sleep(0)
