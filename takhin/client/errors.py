"""What goes wrong for a client: the errors that the broker raises, and those that never reach it.

    TakhinError
    ├── RefusedError             as in takhin.errors: the request cannot be granted as it stands
    │   └── …
    ├── UnavailableError         the same request may succeed later
    │   ├── UnreachableError     nothing was sent: no broker answers at the address
    │   ├── NoAnswerError        sent; then the connection was lost, or the time was up
    │   ├── OverloadedError
    │   │   └── TransportLimitError
    │   └── …                    as in takhin.errors
    ├── CallFailedError          a gRPC status that the broker itself did not give
    ├── ClosedError              the client is closed, or was never opened
    └── LogReplacedError         a log is another one than before: offsets may stand for other records

An error of the broker is the same exception whether it came in a response or as a gRPC status.
"""

from __future__ import annotations

from takhin.errors import OverloadedError, TakhinError, UnavailableError


class UnreachableError(UnavailableError):
    """No broker answers at the address. Nothing was sent."""


class NoAnswerError(UnavailableError):
    """A call ended before its answer came: what it asked for may or may not have been done."""


class TransportLimitError(OverloadedError):
    """gRPC itself refused the call at the broker: too many at one time, or a message that is too large."""


class CallFailedError(TakhinError):
    """A call ended with a gRPC status that the broker itself did not give; `details` has its name."""


class ClosedError(TakhinError):
    """The client is closed, or was never opened."""


class LogReplacedError(TakhinError):
    """The log is another one than before: an older copy was put back, or the topic was created again.

    Offsets below the consumer's position may stand for other records now. `Consumer.seek` goes on in the new
    log.
    """
