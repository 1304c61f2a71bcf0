"""A span for each call of the server, by OpenTelemetry's conventions for RPCs.

A call that comes with a `traceparent` is a part of its client's trace, and traced if the client traces it. Of
all others a share is traced. Which ones is decided before anything is made of them: a span that nobody is to
see costs as much as a small call.
"""

from __future__ import annotations

import random

import grpc
from opentelemetry import context as otel
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from takhin.model import ANONYMOUS
from takhin.rpc.calls import Call, Context

SYSTEM, METHOD, STATUS = "rpc.system.name", "rpc.method", "rpc.response.status_code"
CLIENT_ADDRESS, CLIENT_PORT = "client.address", "client.port"
ERROR_TYPE, USER, ERROR_CODE = "error.type", "user.name", "takhin.error_code"
RECEIVED, SENT = "takhin.messages_received", "takhin.messages_sent"
FIELDS = ("traceparent", "tracestate")
FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
"""The statuses that are an error of the server, by the conventions; the others are the client's."""
FAULT_CODES = {"INTERNAL", "STORAGE_FULL", "PARTITION_UNAVAILABLE", "OUTCOME_UNKNOWN"}
"""The same of the error codes that a response carries itself, without their prefix."""
STATUSES = {status.name for status in grpc.StatusCode}


class CallSpans:
    """Watches calls. tracer: makes the spans.

    ratio: the share of the calls without a trace of their own that is traced; None: the tracer decides.
    """

    def __init__(self, tracer: Tracer, ratio: float | None) -> None:
        self._tracer = tracer
        self._ratio = ratio
        self._propagator = TraceContextTextMapPropagator()
        self._spans: dict[Call, Span] = {}

    def began(self, call: Call, context: Context) -> None:
        parent = self._parent(context)
        if parent is None:
            return
        host, _, port = call.caller.address.rpartition(":")
        attributes: dict[str, AttributeValue] = {SYSTEM: "grpc", METHOD: call.method[1:]}
        if port.isdigit():
            attributes |= {CLIENT_ADDRESS: host.strip("[]"), CLIENT_PORT: int(port)}
        span = self._tracer.start_span(call.method[1:], parent, kind=SpanKind.SERVER, attributes=attributes)
        if span.is_recording():
            self._spans[call] = span

    def ended(self, call: Call) -> None:
        span = self._spans.pop(call, None)
        if span is None:
            return
        status = call.status if call.status in STATUSES else "CANCELLED"
        span.set_attribute(STATUS, status)
        if call.caller.principal != ANONYMOUS:
            span.set_attribute(USER, call.caller.principal)
        if call.streams:
            span.set_attributes({RECEIVED: call.received, SENT: call.sent})
        code = call.error.removeprefix("ERROR_CODE_")
        if code:
            span.set_attribute(ERROR_CODE, code)
        if status in FAULTS or code in FAULT_CODES:
            span.set_attribute(ERROR_TYPE, code or status)
            span.set_status(StatusCode.ERROR)
        span.end()

    def _parent(self, context: Context) -> otel.Context | None:
        """The context of the call's span; None if the call is not to be traced."""
        found = {name: value for name, value in context.invocation_metadata() or () if name in FIELDS}
        if found:
            parent = self._propagator.extract(found, otel.Context())
            remote = get_current_span(parent).get_span_context()
            if remote.is_valid:
                return parent if remote.trace_flags.sampled or self._ratio is None else None
        wanted = self._ratio is None or random.random() < self._ratio  # noqa: S311  no secret
        return otel.Context() if wanted else None
