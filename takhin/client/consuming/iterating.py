"""Iterating over records one by one, at the speed of a generator, and without its end.

A generator is over once an exception has left it, be it the cancellation of a wait. So another one takes its
place then, in a slot that Python looks up for each record without running any Python code.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol, Self

from takhin.client import compiled
from takhin.client.clock import monotonic
from takhin.client.consuming.assignment import Assignment
from takhin.client.model import Record

UNTIMED_MAX = 8
"""Records between two looks at the clock, which costs as much as a record."""

Anext = Callable[[], Awaitable[Record]]


class Records(Protocol):
    """The records of an assignment. Any number of tasks may wait for the next one; each record comes once.

    owner: whose records they are while it is iterated: it must live as long.
    """

    owner: object

    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Awaitable[Record]: ...


def records_of(assigned: Assignment) -> Records:
    """The records of an assignment, in the quickest way there is."""
    return GeneratedRecords(assigned) if compiled.Steps is None else _steps(compiled.Steps, assigned)


def _steps(make: Callable[..., Any], assigned: Assignment) -> Records:
    """By the compiled part, which takes records that are at hand, and needs help where there are none."""

    async def resume() -> Record:
        if steps.loaded is not None:
            steps.loaded.pass_by()
            steps.loaded = None  # whoever else waits asks for another one
        while (loaded := await assigned.next_loaded()) is not None:
            record: Record | None = steps.begin(loaded, assigned.turn_ends)
            if record is not None:
                return record
        raise StopAsyncIteration

    steps = make(resume, monotonic)
    found: Records = steps
    return found


class GeneratedRecords:
    """By a generator."""

    __slots__ = ("__anext__", "_assigned", "owner")

    __anext__: Anext
    """That of the generator that has records at hand; else `_begin`."""

    def __init__(self, assigned: Assignment) -> None:
        self._assigned = assigned
        self.owner: object = None
        self.__anext__ = self._begin

    def __aiter__(self) -> Self:
        return self

    def _begin(self) -> Awaitable[Record]:
        """The first record of a new generator."""
        own: list[Anext] = []
        own.append(self._hand_out(own).__anext__)
        return own[0]()

    async def _hand_out(self, own: list[Anext]) -> AsyncGenerator[Record, None]:
        """own: this generator's own `__anext__`."""
        try:
            while (loaded := await self._assigned.next_loaded()) is not None:
                self.__anext__ = own[0]
                left, turn_ends = 1, self._assigned.turn_ends
                for record in loaded.records:
                    loaded.processed = record.offset  # all before this one: it was asked for
                    yield record
                    if loaded.paused:
                        break
                    left -= 1
                    if not left:
                        if monotonic() > turn_ends:
                            break
                        left = UNTIMED_MAX
                loaded.pass_by()
                self._withdraw(own)  # whoever else waits begins another one
        finally:
            self._withdraw(own)

    def _withdraw(self, own: list[Anext]) -> None:
        if self.__anext__ is own[0]:
            self.__anext__ = self._begin
