"""What every call needs, done once: errors put on the wire, and its end when the broker stops.

A method of the service raises. Here the error becomes the response's own error field or a gRPC status, by the
table in wire/status.py. An error that is none of ours is logged under an id, and the client gets INTERNAL
with that id and nothing else of it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
import structlog
from google.protobuf import message_factory

from takhin.errors import InternalError, ShuttingDownError, TakhinError
from takhin.logs import debugging
from takhin.quotas import Quotas
from takhin.rpc.access_log import AccessLog
from takhin.rpc.arrivals import Arrival, Arrivals
from takhin.rpc.call_log import CallLog
from takhin.rpc.call_quotas import PRODUCE, PRODUCE_STREAM, CallQuotas, StreamQuota
from takhin.rpc.calls import Context, Handler, Watcher, running, watched
from takhin.rpc.gate import Gate, Passage
from takhin.rpc.gzip_answers import asks_for_gzip, is_worth_gzip
from takhin.rpc.last_calls import LastCalls
from takhin.rpc.parsing import Parser, Refused
from takhin.rpc.places import source_of
from takhin.rpc.requests import Requests
from takhin.settings import Settings
from takhin.turns import Turnstile
from takhin.v1 import takhin_pb2 as pb
from takhin.wire import convert
from takhin.wire.crowd import bounds, too_large
from takhin.wire.packed import PlainRequests
from takhin.wire.status import TABLE, rich_status

logger = structlog.get_logger()


SERVICE = pb.DESCRIPTOR.services_by_name["TakhinService"]
HEALTH = "/grpc.health.v1.Health/"
"""What the methods of the health service begin with. They answer also while the broker stops."""
HEALTH_CHECKS = (HEALTH, f"/{SERVICE.full_name}/HealthCheck")
"""What the methods begin with that have places of their own: no crowd of other calls may hide the health."""
SELF_ENDING = (PRODUCE_STREAM, f"{HEALTH}Watch")
"""Streams that end by themselves when the broker stops, which finish their remaining answers first."""
UNREAD_SECONDS = 1.0
"""How long the stop waits for the client of a tail to read what is being written to it."""
STATUS_DETAILS = "grpc-status-details-bin"


class ClientGoneError(Exception):
    """A response could not be written because the client has gone."""


def without_frames(error: TakhinError) -> TakhinError:
    """The error without its traceback, whose frames keep the request that it is about.

    They do so until a full collection, because a frame has a variable for the error, too.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def known(error: Exception, method: str) -> TakhinError:
    """The error itself if it is one of ours, else an InternalError under whose id it is logged.

    It keeps nothing of the request: see `without_frames`.
    """
    if isinstance(error, TakhinError) and type(error) in TABLE:
        return without_frames(error)
    incident = uuid.uuid4().hex[:12]
    logger.error("internal_error", incident=incident, method=method, exc_info=error)
    return InternalError(incident)


async def abort(context: Context, error: TakhinError) -> None:
    """End the call with the error's gRPC status and its google.rpc details."""
    without_frames(error)
    metadata = ((STATUS_DETAILS, rich_status(error).SerializeToString()),)
    with client_may_be_gone():
        await context.abort(TABLE[type(error)].status, str(error), metadata)


@contextmanager
def client_may_be_gone() -> Iterator[None]:
    """Raise CancelledError for what gRPC raises when the client has just gone, and with it the call."""
    try:
        yield
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of the server."""

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        quotas: Quotas,
        watchers: Sequence[Watcher] = (),
        plain: PlainRequests | None = None,
    ) -> None:
        """plain: finds produce requests whose records stay packed; None: none do."""
        self._gate = gate
        self._quotas = CallQuotas(quotas, settings.rpc.calls_max)
        self._watchers: list[Watcher] = [self._quotas, *watchers, *([CallLog()] if debugging() else [])]
        if settings.log.access:
            self._watchers.append(AccessLog())
        self._arrivals = Arrivals(settings.rpc.arrivals_max, settings.rpc)
        self._health_arrivals = Arrivals(settings.rpc.health_arrivals_max, settings.rpc)
        self._bounds = bounds(settings)
        self._plain = plain
        self._message_bytes_max = settings.rpc.message_bytes_max
        self._gzip = settings.rpc.gzip
        self._turnstile = Turnstile()
        self._handlers: dict[str, Handler] = {}
        self._unary_calls: set[asyncio.Task[Any]] = set()
        self._streams: dict[asyncio.Task[Any], str] = {}
        self._writing: set[asyncio.Task[Any]] = set()
        self._ending = False
        self.last_calls = LastCalls(settings.rpc.calls_max)

    async def end_calls(self, seconds: float) -> None:
        """Refuse new calls, end every stream with UNAVAILABLE, and wait so long for those that are at work.

        Streams of SELF_ENDING get half of the time to finish their answers.
        """
        self._ending = True
        for arrivals in (self._arrivals, self._health_arrivals):
            arrivals.end()
        now = asyncio.get_running_loop().time
        deadline = now() + seconds
        tails = [task for task, method in self._streams.items() if method not in SELF_ENDING]
        for task in tails:
            # Not within a write: during the first one gRPC refuses the status, and the call would hang.
            if task not in self._writing:
                task.cancel()
        for _ in range(2):  # for what is being written, then for the status, which may find no room either
            await self._end_streams(tails, min(seconds / 4, UNREAD_SECONDS))
        await self._end_streams(list(self._streams), deadline - seconds / 2 - now())
        if self._unary_calls:
            await asyncio.wait(self._unary_calls, timeout=max(0.0, deadline - now()))

    def _arrivals_of(self, method: str) -> Arrivals:
        return self._health_arrivals if method.startswith(HEALTH_CHECKS) else self._arrivals

    async def _end_streams(self, tasks: list[asyncio.Task[Any]], seconds: float) -> None:
        """Wait for streams to end; those that have not by then have clients that do not read."""
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, seconds))
        for task in tasks:
            task.cancel()

    async def _admit(self, method: str, context: Context) -> None:
        """Raise ShuttingDownError while the broker stops, OverloadedError for a call that is one too many.

        Raises what the gate raises for a caller that it does not let in. No quota refuses a health check.
        """
        self.last_calls.came()
        if self._ending and not method.startswith(HEALTH):
            await self.last_calls.before_refusal()
            raise ShuttingDownError
        self._gate.admit(method, context)
        call = running()
        self._quotas.enter(call)
        if call.streams or not method.startswith(HEALTH_CHECKS):
            self._quotas.admit(call)

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
        streams = bool(handler.response_streaming)
        wrapped = watched(wrapped, method, self._watchers, streams=streams)
        self._handlers[method] = wrapped
        return wrapped

    def _unary(self, handler: Handler, method: str) -> Handler:
        """A unary method, as one whose request is a stream of one message: the same on the wire.

        gRPC would receive and parse a unary request before it calls anything. This one is pulled when there
        is a place for it.
        """
        inner: Any = handler.unary_unary
        parse, arrivals = self._parser(handler, method), self._arrivals_of(method)
        response_class = _response_class(method)
        repeated = () if response_class is None else convert.repeated_fields(response_class)

        async def answer(request: list[Any], context: Context) -> Any:
            _well_formed(request[0])
            asked = {name: getattr(request[0], name) for name in repeated}
            try:
                await self._gate.check(method, request[0])
                with client_may_be_gone():
                    response = await inner(request.pop(), context)  # which may let go of a large one
            except grpc.aio.AbortError:
                raise
            except Exception as raised:  # noqa: BLE001  the boundary: everything gets an answer
                request.clear()
                error = known(raised, method)
                row = TABLE[type(error)]
                if row.in_band and response_class is not None:
                    return convert.refusal(response_class(), asked, error, row.code)
                return await abort(context, error)
            if self._gzip and is_worth_gzip(response) and asks_for_gzip(context):
                context.set_compression(grpc.Compression.Gzip)
            return response

        async def call(_: object, context: Context) -> Any:
            task = _current_task()
            self._unary_calls.add(task)
            try:
                await self._admit(method, context)
                async with arrivals.request(context, source_of(running()), parse) as request:
                    return await answer(request, context)
            except TakhinError as error:  # there is no request, or it is not allowed
                return await abort(context, error)
            finally:
                self._unary_calls.discard(task)

        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)

    def _stream(self, handler: Handler, method: str) -> Handler:
        """A method with a stream of responses, as one that has a stream of requests, too: see `_unary`."""
        streaming = handler.request_streaming
        inner: Any = handler.stream_stream if streaming else handler.unary_stream
        parse, arrivals = self._parser(handler, method), self._arrivals_of(method)

        async def begun(context: Context, passage: Passage) -> Any:
            if method == PRODUCE_STREAM:
                quota = StreamQuota(running())
                arriving = arrivals.requests(Requests(context), source_of(running()), parse, quota)
                return inner(self._allowed(method, arriving), context)
            async with arrivals.request(context, source_of(running()), parse) as request:
                first = _well_formed(request.pop())
            running().received += 1
            await self._gate.check(method, first, passage)
            if not streaming:
                return inner(first, context)
            quota = StreamQuota(running())
            messages = Requests(context, self._turnstile)
            later = arrivals.requests(messages, source_of(running()), parse, quota, begun=True)
            return inner(self._parsed(first, later, method, passage), context)

        async def call(_: object, context: Context) -> None:
            task = _current_task()
            self._streams[task] = method
            refusal: TakhinError | None = None
            try:
                await self._admit(method, context)
                with self._gate.passage(method) as passage:
                    try:
                        await self._run(await begun(context, passage), context, task, passage)
                    finally:
                        refusal = passage.refusal
            except asyncio.CancelledError:
                if refusal is None and not self._ending:
                    raise
                await abort(context, refusal or ShuttingDownError())
            except grpc.aio.AbortError:
                raise
            except ClientGoneError:
                logger.debug("client_gone", method=method, peer=context.peer())
            except Exception as raised:  # noqa: BLE001  the boundary: everything gets an answer
                await abort(context, known(raised, method))
            finally:
                del self._streams[task]

        return grpc.stream_stream_rpc_method_handler(call, None, _serializer(handler))

    def _parser(self, handler: Handler, method: str) -> Parser:
        """Parses the method's requests, and refuses what is too large or has too many elements."""
        parse: Any = handler.request_deserializer
        refuse = self._bounds.get(method.rpartition("/")[2], too_large)
        plain = self._plain if method in (PRODUCE, PRODUCE_STREAM) else None
        return Parser(parse, refuse, self._message_bytes_max, plain)

    async def _allowed(self, method: str, arriving: AsyncIterator[Arrival]) -> AsyncGenerator[Arrival, None]:
        """The requests of a produce stream; in place of each that is not allowed, its refusal."""
        async for arrival in arriving:
            await self._judge(method, arrival)
            yield arrival

    async def _judge(self, method: str, arrival: Arrival) -> None:
        request = arrival.request
        if not isinstance(request, Refused):
            try:
                await self._gate.check(method, request)
            except TakhinError as error:
                refusal = without_frames(error)
                arrival.request = Refused(refusal, request.topic, request.partition)

    async def _parsed(
        self, first: Any, requests: AsyncIterator[Arrival], method: str, passage: Passage
    ) -> AsyncGenerator[Any, None]:
        """The requests of a stream, whose first one is there. Raises the error of one that is refused."""
        yield first
        async for arrival in requests:
            arrival.leave()
            request = _well_formed(arrival.request)
            await self._gate.check(method, request, passage)
            yield request

    async def _run(self, stream: Any, context: Context, task: asyncio.Task[Any], passage: Passage) -> None:
        """Run a streaming method of either style: a coroutine that writes, or a generator of responses."""
        if not hasattr(stream, "__aiter__"):
            with client_may_be_gone():
                await stream
            return
        call = running()
        gzip = self._gzip and asks_for_gzip(context)
        if gzip:
            context.set_compression(grpc.Compression.Gzip)
        async with aclosing(stream):
            async for response in stream:
                if gzip and not is_worth_gzip(response):
                    context.disable_next_message_compression()
                self._writing.add(task)
                passage.writing = True
                try:
                    if not call.sent:
                        # By itself; with a response that waits for its client to read it would keep gRPC from
                        # taking a status, and the call would never end.
                        await context.send_initial_metadata(())
                    await context.write(response)
                except grpc.aio.InternalError as error:  # gRPC raises it when the connection is gone
                    raise ClientGoneError from error
                finally:
                    self._writing.discard(task)
                    passage.writing = False
                call.sent += 1
                if passage.refusal is not None:
                    raise passage.refusal
                if self._ending and self._streams[task] not in SELF_ENDING:
                    raise ShuttingDownError


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  grpc.aio runs every handler in a task
    return task


def _well_formed(request: Any) -> Any:
    """The request. Raises its error if it is malformed."""
    if isinstance(request, Refused):
        raise request.error
    return request


def _serializer(handler: Handler) -> Callable[[Any], bytes]:
    """The handler's serializer, except that it returns bytes as they are."""
    serialize: Any = handler.response_serializer
    return lambda response: response if isinstance(response, bytes) else serialize(response)


def _response_class(method: str) -> type[Any] | None:
    """The response's class if the method is ours and its response has an error field, else None."""
    found = SERVICE.methods_by_name.get(method.rpartition("/")[2])
    if found is None or f"/{SERVICE.full_name}/{found.name}" != method:
        return None
    if "error_code" not in found.output_type.fields_by_name:
        return None
    return message_factory.GetMessageClass(found.output_type)
