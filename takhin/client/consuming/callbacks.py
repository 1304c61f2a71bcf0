"""The functions of a user that a member of a group calls when partitions come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import isawaitable

from takhin.model import TopicPartition

Callback = Callable[[list[TopicPartition]], Awaitable[None] | None]
"""A plain or an async function of the partitions that it is about."""


_calling: ContextVar[bool] = ContextVar("calling", default=False)


def in_callback() -> bool:
    """True in a callback, and in what it calls, also on another thread or in a task of its own.

    Meanwhile the user's program may be in the middle of a record of another partition.
    """
    return _calling.get()


@dataclass(frozen=True, slots=True)
class Callbacks:
    """on_assigned: before the first record of new partitions is handed out. on_revoked: when all that was
    handed out of some is processed, before they are given up. on_lost: after they were lost without that.

    threaded: plain functions are called on a thread of their own, where they may wait.
    """

    on_assigned: Callback | None = None
    on_revoked: Callback | None = None
    on_lost: Callback | None = None
    threaded: bool = False

    async def call(
        self,
        callback: Callback | None,
        partitions: Sequence[TopicPartition],
        seconds_max: float | None = None,
    ) -> None:
        """Call one of them. Raises what it raises, and TimeoutError after seconds_max."""
        if callback is None or not partitions:
            return
        calling = _calling.set(True)
        try:
            async with asyncio.timeout(seconds_max):
                given = list(partitions)
                result = await asyncio.to_thread(callback, given) if self.threaded else callback(given)
                if isawaitable(result):
                    await result
        finally:
            _calling.reset(calling)
