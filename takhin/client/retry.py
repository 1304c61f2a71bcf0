"""When to try again: the one policy of all clients, and the loop that follows it.

Knows no RPC: an attempt is any coroutine function whose first argument is a deadline (of clock.monotonic()).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Concatenate, ParamSpec, TypeVar

from takhin.client.clock import monotonic
from takhin.client.errors import HandshakeError
from takhin.errors import UnavailableError

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("takhin.client")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Waits that grow exponentially, with full jitter, until the deadline of what is retried.

    Wait n is drawn evenly from [0, min(wait_ms_max, first_wait_ms * 2**n)], so that many clients of one
    broker do not come back all at once (aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
    The wait that a broker asks for (RetryInfo) is added to it.

    attempts_max: how many attempts there are; 0 for any number.
    """

    first_wait_ms: int = 50
    wait_ms_max: int = 1_000
    attempts_max: int = 0

    def wait_s(self, failures: int, error: UnavailableError) -> float | None:
        """Seconds to wait after `failures` failed attempts (at least 1); None after the last attempt."""
        if failures == self.attempts_max:
            return None
        most_ms = min(self.wait_ms_max, self.first_wait_ms << min(failures - 1, 30))
        return (error.retry_ms + random.uniform(0, most_ms)) / 1_000  # noqa: S311  nothing secret


async def pause(retry: Retry, failures: int, error: UnavailableError, deadline: float) -> bool:
    """Wait before the next attempt. Returns False, at once, if there is none before the deadline.

    After an error that does not heal there is none.
    """
    if isinstance(error, HandshakeError) and not error.heals:
        return False
    wait_s = retry.wait_s(failures, error)
    if wait_s is None or monotonic() + wait_s >= deadline:
        logger.info("attempt %d failed, and was the last one: %s", failures, error)
        return False
    logger.log(logging.DEBUG if failures > 1 else logging.INFO, "attempt %d failed: %s", failures, error)
    await asyncio.sleep(wait_s)
    return True


async def retried(
    retry: Retry,
    deadline: float,
    attempt: Callable[Concatenate[float, P], Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """The result of `attempt(deadline, …)`, repeated after each UnavailableError while time is left.

    Raises what the last attempt raised.
    """
    for failures in count(1):
        try:
            return await attempt(deadline, *args, **kwargs)
        except UnavailableError as error:
            if not await pause(retry, failures, error, deadline):
                raise
    raise AssertionError  # count has no end
