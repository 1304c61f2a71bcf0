"""Waiters are woken all at once, and forgotten when they leave."""

from __future__ import annotations

import asyncio

from takhin.storage.waiters import Waiters


async def test_one_who_leaves_is_forgotten():
    """Cancelled waiters, like those of leaving consumers, do not pile up on a log that never grows."""
    waiters = Waiters()
    staying = asyncio.create_task(waiters.wait())
    leaving = [asyncio.create_task(waiters.wait()) for _ in range(100)]
    await asyncio.sleep(0)
    for waiter in leaving:
        waiter.cancel()
    await asyncio.wait(leaving)
    assert len(waiters._waiting) == 1
    waiters.wake()
    async with asyncio.timeout(5):
        await staying
    assert not waiters._waiting


async def test_a_wake_is_for_those_who_wait():
    """A waiter that comes after a wake waits for the next one."""
    waiters = Waiters()
    waiters.wake()
    waiting = asyncio.create_task(waiters.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiters.wake()
    async with asyncio.timeout(5):
        await waiting
