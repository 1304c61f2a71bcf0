"""Spans of the records that a client sends and reads, by OpenTelemetry's conventions for messaging.

It uses the API alone: the program sets up the SDK, and says there what is sampled and where spans go. With
`traces=False`, the default, nothing of this is imported.

A record that is traced has a span "create TOPIC", whose context travels in its header `traceparent`. Each
request that has such records has a span "send TOPIC". So have responses ("receive TOPIC"), and what a program
does with a record ("process TOPIC", by `processing`). They are linked to "create". Commits have one, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import datetime
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from opentelemetry import context as otel
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    get_current_span,
    get_tracer,
    set_span_in_context,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from takhin.client.calls import Calls, MemberAt, Produced
from takhin.client.clock import monotonic
from takhin.client.connection import Connection
from takhin.client.model import CommittedOffset, Headers, Record
from takhin.client.packing import Packing
from takhin.client.producing.records import RecordEncoder
from takhin.client.streams import ConsumeStream
from takhin.client.unread import Unread
from takhin.model import TopicPartition

HEADER = "traceparent"
STATE = "tracestate"
LINKS_MAX = 128
"""As many as a span of the SDK has if nobody says otherwise."""
OFFER_SECONDS = 0.001
"""Where no span is active, a record in so much time may begin a trace: a sampler takes 10 µs or more."""

LOOK_RECORDS = 16
"""Records between two looks at the clock, while they come faster than that."""

SYSTEM, OPERATION, TYPE = "messaging.system", "messaging.operation.name", "messaging.operation.type"
DESTINATION, PARTITION = "messaging.destination.name", "messaging.destination.partition.id"
GROUP, COUNT = "messaging.consumer.group.name", "messaging.batch.message_count"
OFFSET, ERROR_TYPE = "messaging.takhin.offset", "error.type"
SERVER_ADDRESS, SERVER_PORT = "server.address", "server.port"

_propagator = TraceContextTextMapPropagator()
_of_call: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("of_call", default=())
"""What calls say of the span that they belong to."""


class TracedRecord(bytes):
    """A record as bytes of a request, and the context of its "create" span."""

    context: SpanContext


class Tracing:
    """Makes the spans of one client. server: HOST:PORT."""

    def __init__(self, server: str) -> None:
        self._tracer = get_tracer("takhin.client", version("takhin"))
        host, _, port = server.rpartition(":")
        self._about: dict[str, AttributeValue] = {SYSTEM: "takhin", SERVER_ADDRESS: host.strip("[]")}
        if port.isdigit():
            self._about[SERVER_PORT] = int(port)
        self._next_offer = 0.0
        self.unoffered = 0
        """So many records come before the next one that may begin a trace."""

    def created(self, topic: str, context: otel.Context) -> Span | None:
        """A "create" span for a record, which has ended; None if the record is not traced.

        context: the current one.
        """
        current = get_current_span(context).get_span_context()
        if current.is_valid:
            if not current.trace_flags.sampled:
                return None
        elif not self._may_begin():
            return None
        span = self.begun("create", "create", topic, SpanKind.PRODUCER)
        span.end()
        return span if span.get_span_context().trace_flags.sampled else None

    def _may_begin(self) -> bool:
        """True if a record may begin a trace, as far as the sampler wants it."""
        if (now := monotonic()) < self._next_offer:
            self.unoffered = LOOK_RECORDS
            return False
        self._next_offer = now + OFFER_SECONDS
        return True

    def begun(
        self,
        operation: str,
        kind: str,
        of: str,
        span_kind: SpanKind,
        attributes: Mapping[str, AttributeValue] = MappingProxyType({}),
        *,
        contexts: Sequence[SpanContext] = (),
        parent: otel.Context | None = None,
    ) -> Span:
        """A span that has begun. of: a topic or a group. contexts: to which it is linked."""
        return self._tracer.start_span(
            f"{operation} {of}",
            parent,
            kind=span_kind,
            attributes={**self._about, OPERATION: operation, TYPE: kind, **attributes},
            links=[Link(context) for context in contexts[:LINKS_MAX]],
        )


class _TracingEncoder(RecordEncoder):
    def __init__(self, topic: str, max_message_bytes: int, tracing: Tracing) -> None:
        super().__init__(topic, max_message_bytes)
        self.plain_bytes_max = -1  # it has to see every record
        self._plain = super().encode
        self._tracing = tracing

    def encode(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Headers = (),
        timestamp: datetime | int | None = None,
    ) -> bytes:
        tracing = self._tracing
        context = otel.get_current()
        if tracing.unoffered and not context:  # most records, where there are many
            tracing.unoffered -= 1
            return self._plain(value, key, headers, timestamp)
        plain = self._plain(value, key, headers, timestamp)  # raises what is wrong with the record
        if headers and any(name == HEADER for name, _ in headers):  # its own stays
            return plain
        span = tracing.created(self._topic, context)
        if span is None:
            return plain
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, set_span_in_context(span, otel.Context()))
        own = [(name, text.encode()) for name, text in carrier.items()]
        if not self.fits(value, key, (*headers, *own)):
            return plain
        record = TracedRecord(self._plain(value, key, (*headers, *own), timestamp))
        record.context = span.get_span_context()
        return record


class TracedCalls(Calls):
    """The calls about records and commits, with a span for each that has to do with a traced record."""

    def __init__(self, connection: Connection, packing: Packing) -> None:
        super().__init__(connection, packing)
        self._tracing = Tracing(connection.server)
        connection.more_metadata = _of_call.get

    def encoder(self, topic: str, max_message_bytes: int) -> RecordEncoder:
        return _TracingEncoder(topic, max_message_bytes, self._tracing)

    async def produce_message(
        self, deadline: float, at: TopicPartition, records: Sequence[bytes], **more: Any
    ) -> Produced:
        contexts = [record.context for record in records if type(record) is TracedRecord]
        if not contexts:
            return await super().produce_message(deadline, at, records, **more)
        span = self._tracing.begun(
            "send",
            "send",
            at.topic,
            SpanKind.CLIENT,
            {DESTINATION: at.topic, PARTITION: str(at.partition), COUNT: len(records)},
            contexts=contexts,
            parent=context_of(contexts[0]),
        )
        with _calling(span):
            produced = await super().produce_message(deadline, at, records, **more)
            span.set_attribute(OFFSET, produced.offset)
            return produced

    @asynccontextmanager
    async def consume_messages(
        self, deadline: float, at: TopicPartition, **more: Any
    ) -> AsyncIterator[ConsumeStream]:
        async with super().consume_messages(deadline, at, **more) as stream:
            yield _TracedStream(stream, at, self._tracing)

    async def commit_offset(
        self,
        deadline: float,
        group_id: str,
        offsets: Mapping[tuple[str, int], int | CommittedOffset],
        incarnation_ids: Mapping[tuple[str, int], str] = MappingProxyType({}),
        member: MemberAt | None = None,
    ) -> None:
        attributes: dict[str, AttributeValue] = {GROUP: group_id}
        if len(topics := {topic for topic, _ in offsets}) == 1:
            attributes[DESTINATION] = topics.pop()
        span = self._tracing.begun("commit", "settle", group_id, SpanKind.CLIENT, attributes)
        with _calling(span):
            await super().commit_offset(deadline, group_id, offsets, incarnation_ids, member)


class _TracedStream(ConsumeStream):
    """A stream with a span for each response that has traced records."""

    def __init__(self, inner: ConsumeStream, at: TopicPartition, tracing: Tracing) -> None:
        self._inner = inner
        self._at = at
        self._tracing = tracing

    async def read(self, *, silence_s_max: float | None = None) -> Unread | None:
        response = await self._inner.read(silence_s_max=silence_s_max)
        if response is not None and response.headers:
            found = (context_in(headers) for headers in response.headers.values())
            contexts = [context for context in found if context is not None and context.trace_flags.sampled]
            if contexts:
                topic, partition = self._at
                count = len(response)
                about: dict[str, AttributeValue] = {
                    DESTINATION: topic,
                    PARTITION: str(partition),
                    COUNT: count,
                }
                span = self._tracing.begun(
                    "receive",
                    "receive",
                    topic,
                    SpanKind.CLIENT,
                    {**about, OFFSET: response.position},
                    contexts=contexts,
                    parent=context_of(contexts[0]),
                )
                span.end()
        return response


@contextmanager
def processing(record: Record, *, group_id: str | None = None) -> Iterator[Span]:
    """A span "process TOPIC" for what is done with a record in the block, which is the current one there.

    It belongs to the trace in which the record was sent, and is linked to the span there. Where another span
    is active, it belongs to that one's trace, and is linked all the same. It notes what the block raises.
    """
    tracer = get_tracer("takhin.client", version("takhin"))
    sent = context_in(record.headers)
    active = get_current_span().get_span_context().is_valid
    attributes: dict[str, AttributeValue] = {
        SYSTEM: "takhin",
        OPERATION: "process",
        TYPE: "process",
        DESTINATION: record.topic,
        PARTITION: str(record.partition),
        OFFSET: record.offset,
    }
    if group_id is not None:
        attributes[GROUP] = group_id
    span = tracer.start_span(
        f"process {record.topic}",
        None if active or sent is None else context_of(sent),
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        links=[] if sent is None else [Link(sent)],
    )
    with _ended(span):
        yield span


def context_in(headers: Sequence[tuple[str, bytes]]) -> SpanContext | None:
    """The context that a record's headers carry; None if there is none, or none that makes sense."""
    carrier = {name: value.decode("ascii", "replace") for name, value in headers if name in (HEADER, STATE)}
    if HEADER not in carrier:
        return None
    found = get_current_span(_propagator.extract(carrier, otel.Context())).get_span_context()
    return found if found.is_valid else None


def context_of(span: SpanContext) -> otel.Context:
    """A context in which a span of elsewhere is the current one."""
    return set_span_in_context(NonRecordingSpan(span), otel.Context())


@contextmanager
def _calling(span: Span) -> Iterator[None]:
    """Like `_ended`; the calls in the block say that they belong to the span."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, set_span_in_context(span, otel.Context()))
    token = _of_call.set(tuple(carrier.items()))
    try:
        with _ended(span):
            yield
    finally:
        _of_call.reset(token)


@contextmanager
def _ended(span: Span) -> Iterator[None]:
    """The span is the current one in the block, and ends with it."""
    with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except BaseException as error:
            span.set_attribute(ERROR_TYPE, type(error).__name__)
            span.set_status(StatusCode.ERROR, str(error))
            raise
