"""Work in small pieces on the event loop."""

from __future__ import annotations

import asyncio

import pytest

from takhin.turns import Backlog, Turnstile


async def test_a_turnstile():
    """A few pass in each turn of the loop, in order; one that gives up waiting takes nobody's place."""
    turnstile, passed = Turnstile(2), []

    async def passes(number: int) -> None:
        await turnstile.passed()
        passed.append(number)

    tasks = [asyncio.create_task(passes(number)) for number in range(7)]
    await asyncio.sleep(0)
    assert passed == [0, 1]
    tasks[3].cancel()
    seen = 2
    while len(passed) < 6:
        await asyncio.sleep(0)
        assert len(passed) - seen <= 2
        seen = len(passed)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert passed == [0, 1, 2, 4, 5, 6]


async def test_a_turnstile_for_large_ones():
    """One at a time passes of those who want to be alone; one that gives up takes nobody's place."""
    turnstile, passed = Turnstile(5), []

    async def passes(number: int) -> None:
        await turnstile.passed(alone=True)
        passed.append(number)

    tasks = [asyncio.create_task(passes(number)) for number in range(6)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    seen = 0
    while len(passed) < 5:
        await asyncio.sleep(0)
        assert len(passed) - seen <= 1
        seen = len(passed)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert passed == [0, 1, 3, 4, 5]


async def test_a_backlog_of_large_ones():
    """What is to be alone has nothing behind it in its turn."""
    backlog, done = Backlog(5), []
    for number in range(4):
        backlog.add(lambda number=number: done.append(number), alone=number % 2 == 0)
    await asyncio.sleep(0)
    assert done == [0]
    await asyncio.sleep(0)
    assert done == [0, 1, 2]
    await asyncio.sleep(0)
    assert done == [0, 1, 2, 3]


async def test_a_backlog():
    """A few are done in each turn of the loop, in order, also what is added meanwhile and after a fault."""
    backlog, done, faults = Backlog(2), [], []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: faults.append(context["exception"])
    )

    def fails() -> None:
        backlog.add(lambda: done.append(4))
        raise ZeroDivisionError

    for number in range(3):
        backlog.add(lambda number=number: done.append(number))
    backlog.add(fails)
    backlog.add(lambda: done.append(3))
    await asyncio.sleep(0)
    assert done == [0, 1]
    while len(done) < 5:  # noqa: ASYNC110  turns are counted
        await asyncio.sleep(0)
    assert done == [0, 1, 2, 3, 4]
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


async def test_a_backlog_is_dropped():
    """What is cleared is not done."""
    backlog = Backlog(1)
    for _ in range(3):
        backlog.add(lambda: pytest.fail("done"))
    backlog.clear()
    for _ in range(5):
        await asyncio.sleep(0)
