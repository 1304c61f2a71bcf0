"""Runs a coroutine that waits for disk threads, without a task.

A task would add a turn of the loop to every commit group. Here the coroutine is resumed inside the callback
that brings a thread's outcome, so a group is committed and answered in one turn.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from enum import Enum, auto
from typing import Any, TypeVar

from takhin.storage.sqlite.threads import DiskThreads

T = TypeVar("T")


class OthersTurn(Enum):
    """What a coroutine asks for to let others have their turn."""

    OTHERS_TURN = auto()


Request = tuple[DiskThreads, Callable[[], object]] | OthersTurn | None
Outcome = tuple[Any, Exception | None] | None


@types.coroutine
def on(threads: DiskThreads, work: Callable[[], T]) -> Generator[Request, Outcome, T]:
    """Run `work` on one of the threads; return what it returns, raise what it raises.

    Inside a Course only.
    """
    outcome = yield threads, work
    assert outcome is not None  # noqa: S101  only `woken` is resumed without one
    result, error = outcome
    if error is not None:
        raise error
    returned: T = result
    return returned


@types.coroutine
def woken() -> Generator[Request, Outcome, None]:
    """Wait until somebody calls `Course.go_on`. Inside a Course only."""
    yield None


@types.coroutine
def others_turn() -> Generator[Request, Outcome, None]:
    """Let the loop do what else is due, then go on. Inside a Course only."""
    yield OthersTurn.OTHERS_TURN


class Course:
    """One coroutine and where it stands. It may await `on`, `woken` and `others_turn`, and nothing else."""

    def __init__(self, coroutine: Coroutine[Request, Outcome, None]) -> None:
        self._coroutine = coroutine

    def go_on(self) -> None:
        """Start it, or resume it from `woken`; it runs until it waits again."""
        self._resume(None)

    def _resume(self, outcome: Outcome) -> None:
        try:
            request = self._coroutine.send(outcome)
        except StopIteration:
            return
        if isinstance(request, OthersTurn):
            asyncio.get_running_loop().call_soon(self._resume, None)
        elif request is not None:
            threads, work = request
            threads.submit(work, self._done)

    def _done(self, result: object, error: Exception | None) -> None:
        self._resume((result, error))
