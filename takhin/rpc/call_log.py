"""Debug lines about calls: the outcome and duration of each, a stream's start, a connection's first call.

Only for a broker that wants them: the interceptor wraps its methods once more then, and not at all otherwise.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

import grpc
import structlog

from takhin.v1 import takhin_pb2 as pb

logger = structlog.get_logger()

PEERS_REMEMBERED = 4_096
"""Connections whose first call is not told of again; one that is silent while so many others call is."""
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
"""The four kinds of methods, by whether they take and give one message or a stream."""


class CallLog:
    """Tells of the calls of one server."""

    def __init__(self) -> None:
        self._peers: OrderedDict[str, None] = OrderedDict()

    def wrapped(self, handler: Any, method: str, *, streams: bool) -> Any:
        """The handler, a coroutine as the interceptor makes all, with a line for each of its calls.

        streams: the method is one of more than a request and a response.
        """
        kind = next(kind for kind in KINDS if getattr(handler, kind) is not None)
        inner = getattr(handler, kind)

        async def call(request: Any, context: Any) -> Any:
            peer = context.peer()
            self._look_at(peer, method)
            if streams:
                logger.debug("stream_began", method=method, peer=peer)
            began = time.perf_counter()
            outcome = ""
            try:
                response = await inner(request, context)
                outcome = _in_band(response)
            except BaseException as error:
                outcome = _outcome(error, context)
                raise
            else:
                return response
            finally:
                took = round((time.perf_counter() - began) * 1_000, 3)
                event = "stream_ended" if streams else "call"
                logger.debug(event, method=method, peer=peer, outcome=outcome, took_ms=took)

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(call, handler.request_deserializer, handler.response_serializer)

    def _look_at(self, peer: str, method: str) -> None:
        """Tell of a connection that makes its first call."""
        if peer in self._peers:
            self._peers.move_to_end(peer)
            return
        logger.debug("connection_first_call", peer=peer, method=method)
        self._peers[peer] = None
        if len(self._peers) > PEERS_REMEMBERED:
            self._peers.popitem(last=False)


def _in_band(response: Any) -> str:
    """The name of the error that a response tells of; OK if it tells of none."""
    code = getattr(response, "error_code", pb.ERROR_CODE_UNSPECIFIED)
    return "OK" if code == pb.ERROR_CODE_UNSPECIFIED else pb.ErrorCode.Name(code)


def _outcome(error: BaseException, context: Any) -> str:
    """The name of the status that the client gets, or what ended the call without one."""
    if isinstance(error, grpc.aio.AbortError) or context.code():
        # With a code already, it is cancelled: the client has gone as soon as it had the status.
        return str(grpc.StatusCode(context.code()).name)
    return type(error).__name__
