"""A span for each call of the server, by OpenTelemetry's conventions for RPCs.

A call that comes with a `traceparent` is a part of its client's trace, and traced if the client traces it;
where callers have to prove who they are, one that has not done so decides nothing. Of all others a share is
traced. So a span is made when its call has ended, if anybody is to see it: one that nobody is to see costs as
much as a small call.
"""

from __future__ import annotations

import random
import time
from typing import NamedTuple

import grpc
from opentelemetry import context as otel
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from takhin.model import ANONYMOUS, NO_PROOF
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


class Beginning(NamedTuple):
    """When a call has begun, and its parent. wanted: it is one of those that are traced in any case."""

    at_ns: int
    parent: otel.Context | None
    wanted: bool


class CallSpans:
    """Watches calls. tracer: makes the spans.

    ratio: the share of the calls without a trace of their own that is traced; None: the tracer decides.
    identified: callers have to prove who they are, and the trace of one that has not counts for nothing.
    """

    def __init__(self, tracer: Tracer, ratio: float | None, *, identified: bool) -> None:
        self._tracer = tracer
        self._ratio = ratio
        self._identified = identified
        self._propagator = TraceContextTextMapPropagator()
        self._began: dict[Call, Beginning] = {}

    def began(self, call: Call, context: Context) -> None:
        parent = self._parent(context)
        wanted = self._ratio is None or random.random() < self._ratio  # noqa: S311  no secret
        if wanted or (parent is not None and _is_sampled(parent)):
            self._began[call] = Beginning(time.time_ns(), parent, wanted)

    def ended(self, call: Call) -> None:
        beginning = self._began.pop(call, None)
        if beginning is None:
            return
        parent, wanted = beginning.parent, beginning.wanted
        if parent is not None and self._identified and call.caller.proof == NO_PROOF:
            parent = None
        elif parent is not None and self._ratio is not None:
            wanted = _is_sampled(parent)
        if not wanted:
            return
        span = self._span(call, parent, beginning.at_ns)
        if not span.is_recording():
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

    def _span(self, call: Call, parent: otel.Context | None, began_ns: int) -> Span:
        host, _, port = call.caller.address.rpartition(":")
        attributes: dict[str, AttributeValue] = {SYSTEM: "grpc", METHOD: call.method[1:]}
        if port.isdigit():
            attributes |= {CLIENT_ADDRESS: host.strip("[]"), CLIENT_PORT: int(port)}
        return self._tracer.start_span(
            call.method[1:],
            otel.Context() if parent is None else parent,
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=began_ns,
        )

    def _parent(self, context: Context) -> otel.Context | None:
        """The context that the call's client gives it; None if it gives none."""
        found = {name: value for name, value in context.invocation_metadata() or () if name in FIELDS}
        if not found:
            return None
        parent = self._propagator.extract(found, otel.Context())
        return parent if get_current_span(parent).get_span_context().is_valid else None


def _is_sampled(parent: otel.Context) -> bool:
    """True if the client traces the call."""
    return bool(get_current_span(parent).get_span_context().trace_flags.sampled)
