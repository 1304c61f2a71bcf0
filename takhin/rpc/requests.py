"""The requests of a stream as they come from gRPC."""

from __future__ import annotations

import grpc

from takhin.rpc.calls import Context, running
from takhin.turns import Turnstile


class Requests:
    """The requests of the running call's stream, as bytes, each counted as it comes.

    It keeps none of them. gRPC's own iterator keeps each until it is asked for the next one. Where there is a
    turnstile each passes it: hundreds of members of groups say something at one moment.
    """

    def __init__(self, context: Context, turnstile: Turnstile | None = None) -> None:
        self._context = context
        self._turnstile = turnstile
        self._call = running()

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> bytes:
        request = await self._context.read()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        if self._turnstile is not None:
            await self._turnstile.passed()
        self._call.received += 1
        raw: bytes = request
        return raw
