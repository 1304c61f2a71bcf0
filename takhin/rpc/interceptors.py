"""What every call needs, done once: errors put on the wire, streams ended when the broker stops.

A method of the service raises; here an error becomes the response's own error field or a gRPC status, by
the table in wire/status.py. What nobody foresaw is logged under an id and told as INTERNAL without its text.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf import message_factory

from takhin.errors import InternalError, ShuttingDownError, TakhinError
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert
from takhin.wire.status import TABLE, rich_status

log = structlog.get_logger()

SERVICE = pb.DESCRIPTOR.services_by_name["TakhinService"]
STATUS_DETAILS = "grpc-status-details-bin"

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def known(error: Exception, method: str) -> TakhinError:
    """The error itself if it is one of ours, else an InternalError under whose id it is logged."""
    if isinstance(error, TakhinError) and type(error) in TABLE:
        return error
    incident = uuid.uuid4().hex[:12]
    log.error("internal_error", incident=incident, method=method, exc_info=error)
    return InternalError(incident)


async def abort(context: Context, error: TakhinError) -> None:
    """End the call with the error's gRPC status and its google.rpc details."""
    metadata = ((STATUS_DETAILS, rich_status(error).SerializeToString()),)
    await context.abort(TABLE[type(error)].status, str(error), metadata)


class Calls(grpc.aio.ServerInterceptor):
    """Stands around every method of the server."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._streams: set[asyncio.Task[Any]] = set()
        self._ending = False

    def end_streams(self) -> None:
        """End every stream with UNAVAILABLE."""
        self._ending = True
        for task in self._streams:
            task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        known_handler = self._handlers.get(method)
        if known_handler is not None:
            return known_handler
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        wrapped = (
            self._stream(handler, method) if handler.response_streaming else self._unary(handler, method)
        )
        self._handlers[method] = wrapped
        return wrapped

    def _unary(self, handler: Handler, method: str) -> Handler:
        inner: Any = handler.unary_unary
        response_class = _response_class(method)

        async def call(request: Any, context: Context) -> Any:
            try:
                return await inner(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as raised:  # noqa: BLE001  the boundary: everything gets an answer
                error = known(raised, method)
                row = TABLE[type(error)]
                if row.in_band and response_class is not None:
                    return convert.refusal(response_class(), request, str(error), row.code)
                return await abort(context, error)

        return grpc.unary_unary_rpc_method_handler(
            call, handler.request_deserializer, handler.response_serializer
        )

    def _stream(self, handler: Handler, method: str) -> Handler:
        make: Any = grpc.stream_stream_rpc_method_handler
        inner: Any = handler.stream_stream
        if not handler.request_streaming:
            make = grpc.unary_stream_rpc_method_handler
            inner = handler.unary_stream

        async def call(request: Any, context: Context) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101  grpc.aio runs every handler in a task
            self._streams.add(task)
            try:
                await _run(inner(request, context), context)
            except asyncio.CancelledError:
                if not self._ending:
                    raise
                await abort(context, ShuttingDownError())
            except grpc.aio.AbortError:
                raise
            except Exception as raised:  # noqa: BLE001  the boundary: everything gets an answer
                await abort(context, known(raised, method))
            finally:
                self._streams.discard(task)

        wrapped: Handler = make(call, handler.request_deserializer, handler.response_serializer)
        return wrapped


async def _run(stream: Any, context: Context) -> None:
    """Run a streaming method of either style: a coroutine that writes, or a generator of responses."""
    if hasattr(stream, "__aiter__"):
        async with aclosing(stream):
            async for response in stream:
                await context.write(response)
    else:
        await stream


def _response_class(method: str) -> type[Any] | None:
    """The response's class if the method is ours and its response has an error field, else None."""
    found = SERVICE.methods_by_name.get(method.rpartition("/")[2])
    if found is None or f"/{SERVICE.full_name}/{found.name}" != method:
        return None
    if "error_code" not in found.output_type.fields_by_name:
        return None
    return message_factory.GetMessageClass(found.output_type)
