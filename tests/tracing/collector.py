"""A collector of spans: OTLP's TraceService on loopback, in the process of the test."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc

WAIT_S_MAX = 20


class Collected(NamedTuple):
    """A span as it came, in words. links: ids of spans."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    failed: bool
    attributes: dict[str, object]
    links: list[str]
    resource: dict[str, object]


def values_of(attributes):
    return {of.key: getattr(of.value, of.value.WhichOneof("value")) for of in attributes}


class Collector(service_grpc.TraceServiceServicer):
    """Keeps the spans that it is sent. endpoint: its address. hangs: it takes requests and never answers."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.spans: list[Collected] = []
        self._changed = threading.Condition()
        self._open = threading.Event()
        if not hangs:
            self._open.set()
        self._server = grpc.server(ThreadPoolExecutor(4))
        service_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def Export(self, request, context):  # noqa: N802  the service's own name
        self._open.wait(60)
        with self._changed:
            for of in request.resource_spans:
                for scope in of.scope_spans:
                    self.spans += [
                        _collected(span, values_of(of.resource.attributes)) for span in scope.spans
                    ]
            self._changed.notify_all()
        return service.ExportTraceServiceResponse()

    def wait(self, *names: str) -> list[Collected]:
        """The spans of these names, each of which comes once at least."""
        deadline = time.monotonic() + WAIT_S_MAX
        with self._changed:
            while not set(names) <= {span.name for span in self.spans}:
                assert self._changed.wait(deadline - time.monotonic()), [of.name for of in self.spans]
            return [span for span in self.spans if span.name in names]

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.set()
        self._server.stop(None)


def _collected(span, resource):
    return Collected(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.status.code == span.status.STATUS_CODE_ERROR,
        values_of(span.attributes),
        [link.span_id.hex() for link in span.links],
        resource,
    )
