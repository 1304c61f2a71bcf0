"""What goes wrong for a client: the errors that the broker raises, and those that never reach it.

    TakhinError
    ├── RefusedError             as in takhin.errors: the request cannot be granted as it stands
    │   ├── LogReplacedError     a log is another one than before: offsets may stand for other records
    │   ├── UnauthenticatedError    the broker does not know who calls: no token, or one that is not valid
    │   ├── PermissionDeniedError   the caller may not do that
    │   └── …
    ├── UnavailableError         the same request may succeed later
    │   ├── UnreachableError     nothing was sent: no broker answers at the address
    │   │   └── HandshakeError   somebody answers, but the two sides do not come together: TLS, certificates
    │   ├── NoAnswerError        sent; then the connection was lost, or the time was up
    │   ├── OverloadedError
    │   │   └── TransportLimitError
    │   └── …                    as in takhin.errors
    ├── CallFailedError          a gRPC status that the broker itself did not give
    ├── ClosedError              the client is closed, or was never opened
    ├── ForkedError              gRPC does not survive a fork, so clients do not work in this process
    ├── OtherLoopError           the client was opened on another event loop
    ├── InCallbackError          a blocking client's method in a callback would wait for itself
    ├── NotSentError             the task that was to send the record was cancelled, or failed
    └── FlushError               records were not stored; `failures` lists them

An error of the broker is the same exception whether it came in a response or as a gRPC status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from takhin.errors import LogReplacedError, OverloadedError, TakhinError, UnavailableError

__all__ = [
    "CallFailedError",
    "ClosedError",
    "Failure",
    "FlushError",
    "ForkedError",
    "HandshakeError",
    "InCallbackError",
    "LogReplacedError",
    "NoAnswerError",
    "NotSentError",
    "OtherLoopError",
    "TransportLimitError",
    "UnreachableError",
]


class UnreachableError(UnavailableError):
    """No broker answers at the address. Nothing was sent."""


class HandshakeError(UnreachableError):
    """No connection comes about, because one side refuses the other, or does not speak TLS. Nothing was sent.

    details["reason"] says why, for a program: SERVER_AUTHORITY, SERVER_NAME, SERVER_CERTIFICATE_EXPIRED,
    SERVER_CERTIFICATE_EARLY, SERVER_CERTIFICATE, SERVER_IS_PLAIN, SERVER_WANTS_TLS, HANDSHAKE_FAILED,
    CLIENT_UNFIT, CLIENT_CERTIFICATE_MISSING or CLIENT_CERTIFICATE_REFUSED.

    heals: False where it is certain, and does not end before somebody changes the settings of one side. Then
    the client does not try again.
    """

    heals: bool = True


class NoAnswerError(UnavailableError):
    """A call ended before its answer came: what it asked for may or may not have been done."""


class TransportLimitError(OverloadedError):
    """gRPC itself refused the call at the broker: too many at one time, or a message that is too large."""


class CallFailedError(TakhinError):
    """A call ended with a gRPC status that the broker itself did not give; `details` has its name."""


class ClosedError(TakhinError):
    """The client is closed, or was never opened."""


class ForkedError(TakhinError):
    """This process was forked from one that had used a client, and gRPC does not survive that."""


class OtherLoopError(TakhinError):
    """The client was opened on another event loop than the one that runs: see `takhin.client.sync`."""


class InCallbackError(TakhinError):
    """A blocking client was to wait in a callback, on the one thread that could end the wait.

    See `takhin.client.sync.Delivery.add_done_callback`. Or a consumer was to be closed in one of its own
    callbacks.
    """


class NotSentError(TakhinError):
    """The record was not sent: the producer's task was cancelled from outside, or ended by a fault.

    The usual cause is a shutdown that cancels all of `asyncio.all_tasks()` before it closes the producer.
    """


class Failure(NamedTuple):
    """Records of one partition that were not stored, or of which nobody knows, and the first one's error."""

    topic: str
    partition: int
    record_count: int
    error: Exception


class FlushError(TakhinError):
    """Records were not stored, and nobody asked their deliveries. The first one's error is the cause.

    failures: by batch, in the order in which they ended; the first 1,000. record_count: of all there were.
    """

    def __init__(self, failures: Sequence[Failure], record_count: int) -> None:
        first = failures[0]
        records = "record was" if record_count == 1 else "records were"
        super().__init__(
            f"{record_count} {records} not stored; the first, of topic {first.topic!r} partition "
            f"{first.partition}: {first.error}",
            topic=first.topic,
            partition=first.partition,
        )
        self.failures = failures
        self.record_count = record_count
