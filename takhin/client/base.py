"""What producers, consumers and admins have in common: a connection, a life, and a warning when leaked."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Self

import grpc

from takhin.client.calls import Calls
from takhin.client.connection import Connection
from takhin.client.packing import Packing
from takhin.client.retry import Retry
from takhin.client.tls import Tls, TlsFiles
from takhin.errors import InvalidArgumentError


class Client:
    """Life: `open` (or `async with`), then calls, then `close`; all on one running event loop.

    A client belongs to the process and the loop that opened it. In processes forked from that one, it and all
    others raise ForkedError: start processes by spawn.
    """

    _kind: str
    """What a warning calls the client."""

    def __init__(
        self,
        server: str,
        tls: Tls | TlsFiles | grpc.ChannelCredentials | None,
        token: str | None,
        retry: Retry | None,
        compression: str | None = None,
        *,
        traces: bool = False,
    ) -> None:
        self._connection = Connection(server, tls=tls, token=token)
        calls = _traced_calls() if traces else Calls
        self._calls = calls(self._connection, Packing(compression))
        self._retry = retry or Retry()

    async def open(self) -> Self:
        """Get ready. A broker need not be there yet. Raises ClosedError after `close`."""
        self._connection.open()
        return self

    async def close(self) -> None:
        """Give up the connection. May be called again."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        connection = getattr(self, "_connection", None)  # absent where __init__ raised
        if connection is not None and connection.is_open:
            warnings.warn(
                f"{self._kind} of {connection.server} was not closed; use it in a `with` block",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )


def _traced_calls() -> type[Calls]:
    """Calls with spans. Raises InvalidArgumentError where OpenTelemetry is not installed."""
    try:
        from takhin.client.tracing import TracedCalls  # noqa: PLC0415  nothing of it where it is not wanted
    except ModuleNotFoundError as error:
        raise InvalidArgumentError(
            f"traces=True needs {error.name}, which is not installed: in a checkout of Takhin, "
            "pip install '.[otel]'",
            field="traces",
        ) from error
    return TracedCalls
