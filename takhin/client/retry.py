"""When to try again: the one policy of all clients. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

from takhin.errors import UnavailableError


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Waits that grow exponentially, with full jitter, until the deadline of what is retried.

    Wait n is drawn evenly from [0, min(wait_ms_max, first_wait_ms * 2**n)], so that many clients of one
    broker do not come back all at once (aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
    What a broker asks for (RetryInfo) is waited besides.

    attempts_max: how many attempts there are; 0 for any number.
    """

    first_wait_ms: int = 50
    wait_ms_max: int = 1_000
    attempts_max: int = 0

    def wait_s(self, failures: int, error: UnavailableError) -> float | None:
        """Seconds to wait after so many failures, 1 or more; None: this was the last attempt."""
        if failures == self.attempts_max:
            return None
        most_ms = min(self.wait_ms_max, self.first_wait_ms << min(failures - 1, 30))
        return (error.retry_ms + random.uniform(0, most_ms)) / 1_000  # noqa: S311  nothing secret
