"""SIGINT (Ctrl-C) and SIGTERM: they end every command, which then says how far it came.

An exception that a signal's handler raises is lost where Python runs code that may not fail, such as a
finalizer: it is printed there, and the command goes on. So a signal is noted first, and looked for wherever
a command waits. A pipe wakes such a wait, also if the signal comes just before it. A running broker replaces
all this by its own handlers (takhin/process.py).
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar, cast

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ENDING_S = 1.0
"""How long further signals are ignored, because the command ends already: Ctrl-C is easily pressed twice. Who
presses it later does not want to wait."""
WAKE_BYTES = 512
"""Bytes taken from the pipe at a time; each signal puts one in."""


class EndedError(Exception):
    """A signal has ended a coroutine."""


class Ending:
    """What the signals of this process have asked for."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The first signal that came."""
        self._insists_at = 0.0
        """Another signal from then on ends the process as it is."""
        self._cancel: Callable[[], object] | None = None
        """Ends the coroutine that is running, if one is."""
        self._woken = -1
        """The end of the pipe from which waits are woken; -1 if signals are not handled."""

    def exit_code(self) -> int:
        """The code that shells give a program which the signal has ended."""
        return 128 + (self.number or signal.SIGINT)

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals in the block, but for those that we were started to ignore."""
        if threading.current_thread() is not threading.main_thread():  # only there may they be handled
            yield
            return
        self.number = None
        self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        former = {number: signal.getsignal(number) for number in SIGNALS}
        former_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        try:
            for number, handler in former.items():
                if handler is not signal.SIG_IGN:
                    signal.signal(number, self._on_signal)
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(former_wake)
            os.close(wake)
            os.close(self._woken)
            self._woken = -1

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            if time.monotonic() >= self._insists_at:
                os._exit(self.exit_code())  # in the midst of anything: an exception would be printed there
            return
        self.number, self._insists_at = number, time.monotonic() + ENDING_S
        if self._cancel is None:
            raise KeyboardInterrupt
        self._cancel()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come, even if that was raised before and was lost."""
        if self.number is not None:
            raise KeyboardInterrupt

    def wait(self, descriptor: int, events: int) -> None:
        """Wait until a descriptor is ready for `events` of poll(). Raises KeyboardInterrupt at a signal."""
        poll = select.poll()
        poll.register(descriptor, events)
        if self._woken >= 0:
            poll.register(self._woken, select.POLLIN)
        while True:
            self.check()
            ready = dict(poll.poll())
            if self._woken in ready:
                self._drain()
            if descriptor in ready:
                self.check()
                return

    def _drain(self) -> None:
        os.read(self._woken, WAKE_BYTES)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine, which a signal cancels. Raises KeyboardInterrupt then."""
        try:
            return asyncio.run(self._cancelled(work))
        except EndedError:
            raise KeyboardInterrupt from None

    async def _cancelled(self, work: Coroutine[Any, Any, T]) -> T:
        loop, task = asyncio.get_running_loop(), cast("asyncio.Task[T]", asyncio.current_task())
        if self._woken >= 0:
            loop.add_reader(self._woken, self._drain)
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        if self.number is not None:  # it came before, and was lost
            self._cancel()
        try:
            return await work
        except (asyncio.CancelledError, KeyboardInterrupt) as error:
            if self.number is None:
                raise
            raise EndedError from error
        finally:
            self._cancel = None
            if self._woken >= 0:
                loop.remove_reader(self._woken)


ending = Ending()
"""The one of this process, since it has one set of signals."""
