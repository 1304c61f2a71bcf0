"""What is known of a call while it runs, and those who watch calls: the debug log, and others like it.

Every call of the server gets a Call, which `running` returns within the call's own task. The interceptor puts
its caller there; watchers hear of its beginning and its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Protocol, TypeAlias
from urllib.parse import unquote

import grpc

from takhin.model import ANONYMOUS, Caller
from takhin.quotas import Allowance
from takhin.v1 import takhin_pb2 as pb

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

PEERS_REMEMBERED = 4_096
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
"""The four kinds of methods, by whether they take and give one message or a stream."""


class Call:
    """One call.

    method: its path, /SERVICE/METHOD. streams: it has more than a request and a response.
    peer: the connection, as gRPC names it. began: of time.perf_counter(), in seconds.
    caller: who makes it.
    allowance: what it is counted with while it runs; None: with nothing.
    received, sent: of a stream, how many messages have come and gone.
    status: once it has ended, the name of its gRPC status, or of what ended it without one.
    error: the name of the ErrorCode in its response, or "".
    refused: how many responses of a stream told of each ErrorCode, as far as nobody has counted them yet.
    """

    __slots__ = (
        "allowance",
        "began",
        "caller",
        "error",
        "method",
        "peer",
        "received",
        "refused",
        "sent",
        "status",
        "streams",
    )

    def __init__(self, method: str, peer: str, *, streams: bool) -> None:
        self.method = method
        self.streams = streams
        self.peer = peer
        self.began = time.perf_counter()
        self.caller = caller_of(peer)
        self.allowance: Allowance | None = None
        self.received = self.sent = 0
        self.status = ""
        self.error = ""
        self.refused: dict[str, int] = {}

    def count_refusal(self, response: Any) -> None:
        """Count a response of a stream that tells of an error."""
        name = _in_band(response)
        self.refused[name] = self.refused.get(name, 0) + 1


class Watcher(Protocol):
    """Hears of every call, on the event loop; so it must be quick, and must not raise."""

    def began(self, call: Call, context: Context) -> None:
        """The call begins. Nothing of its request is known yet."""

    def ended(self, call: Call) -> None:
        """The call has ended; its status and its error are known."""


_running: ContextVar[Call] = ContextVar("call")


def running() -> Call:
    """The call of the task that is running, or of the one that made it."""
    return _running.get()


def begin(call: Call) -> None:
    """Make this the running call of the current task, and of those that it makes."""
    _running.set(call)


def watched(handler: Handler, method: str, watchers: Sequence[Watcher], *, streams: bool) -> Handler:
    """The handler, a coroutine as the interceptor makes all, within a Call that the watchers hear of.

    streams: the method has more than a request and a response.
    """
    kind = next(kind for kind in KINDS if getattr(handler, kind) is not None)
    inner: Callable[[Any, Context], Any] = getattr(handler, kind)

    async def run(request: Any, context: Context) -> Any:
        call = Call(method, context.peer(), streams=streams)
        begin(call)
        for watcher in watchers:
            watcher.began(call, context)
        try:
            response = await inner(request, context)
            call.status, call.error = grpc.StatusCode.OK.name, _in_band(response)
        except BaseException as error:
            call.status = _status(error, context)
            # gRPC keeps with a call the error that aborts it, and with that the frames that it came through,
            # which keep the call. As long as it is there its connection counts it among those under way.
            if isinstance(error, grpc.aio.AbortError):
                error.__traceback__ = None
            del request, context
            raise
        else:
            return response
        finally:
            for watcher in watchers:
                watcher.ended(call)

    make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(run, handler.request_deserializer, handler.response_serializer)


@lru_cache(PEERS_REMEMBERED)
def caller_of(peer: str) -> Caller:
    """The caller at the other end of a connection. gRPC names it ipv4:HOST:PORT or ipv6:%5BHOST%5D:PORT."""
    peer = unquote(peer)
    scheme, _, address = peer.partition(":")
    return Caller(ANONYMOUS, address if scheme in ("ipv4", "ipv6") else peer)


def _in_band(response: Any) -> str:
    """The name of the error that a response tells of; "" if it tells of none."""
    code = getattr(response, "error_code", pb.ERROR_CODE_UNSPECIFIED)
    return "" if code == pb.ERROR_CODE_UNSPECIFIED else pb.ErrorCode.Name(code)


def _status(error: BaseException, context: Any) -> str:
    """The name of the status that the client gets, or what ended the call without one."""
    if isinstance(error, grpc.aio.AbortError) or context.code():
        # With a code already, it is cancelled: the client has gone as soon as it had the status.
        return str(grpc.StatusCode(context.code()).name)
    return type(error).__name__
