"""Counts calls as the interceptors of other languages do: the numbers behind the metrics grpc_server_*."""

from __future__ import annotations

import time
from collections.abc import Collection

from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2

from takhin.meters import MethodMeter, Tally
from takhin.rpc.calls import Call, Context
from takhin.rpc.interceptors import SERVICE

UNARY = "unary"
KINDS = {
    (False, False): UNARY,
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}
"""What others call a method, by whether its requests and its responses are streams."""
CODES = {"OK": "OK", "CANCELLED": "Canceled", "CancelledError": "Canceled"}
"""Statuses that Go, whose names everybody's dashboards have, writes unlike any other; and a call that the
client has left."""
UNKNOWN = "Unknown"
PREFIX = "ERROR_CODE_"
STATUSES = frozenset(
    (
        *("INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED"),
        *("RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
        *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
    )
)


class CallMeter:
    """Watches the calls of one server. Messages of a stream are counted while it runs."""

    def __init__(self) -> None:
        self.refused = Tally("method", "error")
        """Responses whose `error_code` says no, though the status of their call is OK."""
        self._methods: dict[str, MethodMeter] = {}
        self._streams: dict[Call, tuple[int, int]] = {}  # how many of their messages are in the meters
        for service in (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"]):
            for method in service.methods:
                self._meter(f"/{service.full_name}/{method.name}")

    def began(self, call: Call, _context: Context) -> None:
        meter = self._meter(call.method)
        meter.started += 1
        if meter.kind == UNARY:
            meter.received += 1
        else:
            self._streams[call] = 0, 0

    def ended(self, call: Call) -> None:
        meter = self._meter(call.method)
        code = code_of(call.status)
        meter.codes[code] = meter.codes.get(code, 0) + 1
        meter.seconds.observe(time.perf_counter() - call.began)
        if call.error:
            self.refused.add(meter.method, call.error.removeprefix(PREFIX))
        if meter.kind != UNARY:
            self._take_in(call)
            del self._streams[call]
        elif code == "OK":
            meter.sent += 1

    def methods(self) -> Collection[MethodMeter]:
        """All methods as of now."""
        for call in self._streams:
            self._take_in(call)
        return self._methods.values()

    def _take_in(self, call: Call) -> None:
        meter, (received, sent) = self._meter(call.method), self._streams[call]
        meter.received += call.received - received
        meter.sent += call.sent - sent
        self._streams[call] = call.received, call.sent
        while call.refused:
            error, count = call.refused.popitem()
            self.refused.add(meter.method, error.removeprefix(PREFIX), count=count)

    def _meter(self, path: str) -> MethodMeter:
        meter = self._methods.get(path)
        if meter is None:  # only of methods that there are: no other call is watched
            _, service, method = path.split("/")
            meter = self._methods[path] = MethodMeter(service, method, _kind(f"{service}.{method}"))
        return meter


def code_of(status: str) -> str:
    """The name that a call's status has in the metrics."""
    if status in STATUSES:
        return status.title().replace("_", "")
    return CODES.get(status, UNKNOWN)


def _kind(name: str) -> str:
    method = descriptor_pool.Default().FindMethodByName(name)
    return KINDS[method.client_streaming, method.server_streaming]
