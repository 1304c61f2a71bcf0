"""The thread on which all blocking clients of a process run their event loop, and what it does at the end.

Knows nothing of the clients but what their producers have yet to send.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from functools import cache

from takhin.client.clock import monotonic
from takhin.client.forks import forked
from takhin.client.producing.outbox import BUSY, Outbox

logger = logging.getLogger("takhin.client")

END_S_MAX = 5.0
"""How long the end of a program waits for the clients' thread itself, which a callback may keep busy."""


@cache
def loop_of(pid: int) -> asyncio.AbstractEventLoop:
    """The loop that all blocking clients of this process share, on a daemon thread of its own.

    It is never closed: when a call ends late, gRPC reports that to the loop on which it was made.
    """
    loop = Loop()
    threading.Thread(target=loop.run_forever, name=f"takhin clients of {pid}", daemon=True).start()
    atexit.register(_send_the_rest, loop)
    return loop


class Loop(asyncio.SelectorEventLoop):
    """An event loop that goes by the real clock, also where a test of its users freezes time."""

    def time(self) -> float:
        return monotonic()


def _send_the_rest(loop: asyncio.AbstractEventLoop) -> None:
    """At the end of the process, send the records of blocking producers that were not closed.

    Says which are lost. Takes as long as their delivery_timeout_ms allows, and END_S_MAX.
    """
    if forked():
        return
    try:
        outboxes = asyncio.run_coroutine_threadsafe(_busy(loop), loop).result(END_S_MAX)
        if not outboxes:
            return
        logger.warning(
            "the program ends with a Producer that was not closed; sending the rest of its records"
        )
        delivery_s_max = max(outbox.options.delivery_s_max for outbox in outboxes)
        flushed = asyncio.run_coroutine_threadsafe(_flushed(outboxes), loop)
        for outcome in flushed.result(delivery_s_max + END_S_MAX):
            if isinstance(outcome, BaseException):
                logger.error("records were lost at the program's end: %s", outcome)
    except TimeoutError:
        logger.exception("records may be lost at the program's end: the clients' thread does not answer")


async def _busy(loop: asyncio.AbstractEventLoop) -> list[Outbox]:
    """The outboxes of the blocking producers that have something to send. Those of other loops are theirs."""
    return list(BUSY.get(loop, ()))


async def _flushed(outboxes: list[Outbox]) -> list[BaseException | None]:
    return await asyncio.gather(*(outbox.flush() for outbox in outboxes), return_exceptions=True)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs on this thread, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
