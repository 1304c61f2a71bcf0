"""What waits for one member's stream: bounded, in order, and ended for good."""

from __future__ import annotations

import asyncio

import pytest

from takhin.errors import FencedMemberError
from takhin.groups.seat import Seat
from takhin.members import Assignment, HeartbeatAnswer, Joined
from takhin.model import TopicPartition

NONE: frozenset[TopicPartition] = frozenset()


async def test_only_the_newest_of_each_kind_waits():
    """A member that does not read holds one assignment and one answer, and gets them in order."""
    seat = Seat("m")
    for epoch in range(1_000):
        seat.say(HeartbeatAnswer(epoch))
        seat.say(Assignment(epoch, NONE))
    seat.say(Joined("m", 0, 1, 1))
    said = [await seat.next() for _ in range(3)]
    assert said == [Joined("m", 0, 1, 1), Assignment(999, NONE), HeartbeatAnswer(999)]


async def test_who_waits_is_told():
    """`next` waits for something to be said, and for the end."""
    seat = Seat("m")
    waiting = asyncio.create_task(seat.next())
    await asyncio.sleep(0)
    seat.say(HeartbeatAnswer(1))
    assert await waiting == HeartbeatAnswer(1)
    waiting = asyncio.create_task(seat.next())
    await asyncio.sleep(0)
    seat.end()
    assert await waiting is None


async def test_the_end_counts_once():
    """What was not sent is dropped, what is said later too, and the first reason stays."""
    seat = Seat("m")
    seat.say(HeartbeatAnswer(1))
    seat.end(FencedMemberError("first"))
    seat.say(HeartbeatAnswer(2))
    seat.end()
    for _ in range(2):
        with pytest.raises(FencedMemberError, match="first"):
            await seat.next()
