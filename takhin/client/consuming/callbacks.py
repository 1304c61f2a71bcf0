"""The functions of a user that a member of a group calls when partitions come and go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from inspect import isawaitable

from takhin.client.errors import InCallbackError
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
    inside: the tasks and threads that run one of them now.
    """

    on_assigned: Callback | None = None
    on_revoked: Callback | None = None
    on_lost: Callback | None = None
    threaded: bool = False
    inside: set[object] = field(default_factory=set, init=False, compare=False)

    def check_outside(self) -> None:
        """Raise InCallbackError in one of these functions, for which closing the consumer would wait."""
        if _here() in self.inside:
            raise InCallbackError(
                "`close` waits for the callbacks of a consumer, and would never end in one of them: call "
                "`stop` there, and `close` where the consumer is iterated"
            )

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
                await self._call(callback, list(partitions))
        finally:
            _calling.reset(calling)

    async def _call(self, callback: Callback, given: list[TopicPartition]) -> None:
        if not self.threaded:
            with self._entered():
                result = callback(given)
                if isawaitable(result):
                    await result
            return
        try:
            result = await asyncio.to_thread(self._on_thread, callback, given)
            if isawaitable(result):
                await result
        except (SystemExit, KeyboardInterrupt) as error:  # would end the clients' thread, not the program
            raise _no_end(error) from error

    def _on_thread(self, callback: Callback, given: list[TopicPartition]) -> Awaitable[None] | None:
        try:
            with self._entered():
                return callback(given)
        except StopIteration as error:  # which no future takes, so that the loop would wait for ever
            raise _no_end(error) from error

    @contextmanager
    def _entered(self) -> Iterator[None]:
        here = _here()
        self.inside.add(here)
        try:
            yield
        finally:
            self.inside.discard(here)


def _here() -> object:
    """The running task, or the thread where there is no event loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return threading.get_ident()


def _no_end(error: BaseException) -> RuntimeError:
    return RuntimeError(f"a callback of a consumer raised {error!r}, which ends nothing there; call `stop`")
